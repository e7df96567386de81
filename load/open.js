// An open loop: requests arrive at a fixed rate, independent of the answers, each from a different user. With
// `Prefer: wait`, one call returns the decision.

import exec from 'k6/execution';
import {
  askForCoupon, common, count, decided, openCampaign, randomNode, refused, summarize, waitForDecision,
} from './lib.js';

const RATE = Number(__ENV.RATE || 400);
const DURATION = __ENV.DURATION || '2m';

export const options = {
  ...common,
  scenarios: {
    open: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      timeUnit: '1s',
      duration: DURATION,
      // Enough for answers that take half a second; k6 adds users if they take longer.
      preAllocatedVUs: Math.ceil(RATE / 2),
      maxVUs: RATE * 10,
      gracefulStop: '30s',
    },
  },
};

export function setup() {
  // More than there are requests, so that each request issues a coupon, the most expensive decision.
  return openCampaign('open', 1000000);
}

export default function open({ campaign, run }) {
  const user = `${run}-${exec.scenario.iterationInTest}`;
  const answer = askForCoupon(randomNode(), campaign, user, { Prefer: 'wait=10' });
  let spent = answer.timings.duration;
  let last = answer;

  if (answer.status === 202) {
    const wait = waitForDecision(answer, randomNode());
    spent += wait.spent;
    last = wait.answer;
  }
  if (last && last.status === 200) {
    decided.add(spent);
  } else if (last && last.status === 409) {
    refused.add(spent);
  }
  count(last);
}

export function handleSummary(data) {
  return summarize(data, { times: { decided: 'POST → decision', refused_at_edge: 'POST → 409' } });
}
