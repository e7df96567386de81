// A rush in a closed loop: each virtual user sends one request per second and waits for the decision. Users return, so
// most requests are `already_issued` or `sold_out`.

import { sleep } from 'k6';
import {
  accepted, answered, askForCoupon, common, count, decided, openCampaign, randomNode, refused, summarize,
  waitForDecision,
} from './lib.js';

const USERS = Number(__ENV.USERS || 10000);
// 10: the same load curve in a tenth of the time, for a quick try.
const SHRINK = Number(__ENV.SHRINK || 1);

// `coupond rehearse` passes those of its scenario.
const stages = (__ENV.STAGES ? JSON.parse(__ENV.STAGES) : [
  { seconds: 60, target: 10 },
  { seconds: 30, target: 100 },
  { seconds: 120, target: 500 },
  { seconds: 30, target: 100 },
  { seconds: 60, target: 0 },
]).map(({ seconds, target }) => ({ seconds: seconds / SHRINK, target }));

export const options = {
  ...common,
  scenarios: {
    peak: {
      executor: 'ramping-vus',
      startVUs: 0,
      stages: stages.map(({ seconds, target }) => ({ duration: `${seconds}s`, target })),
      gracefulRampDown: '30s',
      gracefulStop: '30s',
    },
  },
};

// Expected iterations: one per second and active user, the area under the ramps. A user that leaves finishes its last
// second, so slightly more than 100 % is possible.
function iterationsAllowed() {
  let from = 0;
  let area = 0;
  for (const { seconds, target } of stages) {
    area += (seconds * (from + target)) / 2;
    from = target;
  }
  return Math.round(area);
}

export function setup() {
  return openCampaign('peak', 10000);
}

export default function peak({ campaign }) {
  const started = Date.now();
  const user = `user-${Math.floor(Math.random() * USERS) + 1}`;
  const answer = askForCoupon(randomNode(), campaign, user);

  if (answer.status === 202) {
    accepted.add(answer.timings.duration);
    // A random node is asked, because each node can answer for all requests.
    const wait = waitForDecision(answer, randomNode());
    if (wait.answer && wait.answer.status === 200) {
      decided.add(wait.spent);
      answered.add(answer.timings.duration + wait.spent);
    }
    count(wait.answer);
  } else {
    if (answer.status === 409) {
      refused.add(answer.timings.duration);
      answered.add(answer.timings.duration);
    }
    count(answer);
  }
  sleep(Math.max(0, 1 - (Date.now() - started) / 1000));
}

export function handleSummary(data) {
  return summarize(data, {
    iterationsAllowed: iterationsAllowed(),
    times: {
      accepted: 'POST → 202',
      decided: 'GET ?wait=10 → decision',
      answered: 'POST → answer known',
      refused_at_edge: 'POST → 409',
    },
  });
}
