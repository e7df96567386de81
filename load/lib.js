// Shared by the scenarios: addresses of the nodes, the campaign, counting of answers, the table at the end.

import { fail } from 'k6';
import http from 'k6/http';
import { Counter, Trend } from 'k6/metrics';

export const nodes = (__ENV.API || 'http://127.0.0.1:8080').split(',').map((url) => url.replace(/\/+$/, ''));
const admin = (__ENV.ADMIN || 'http://127.0.0.1:8081').split(',')[0].replace(/\/+$/, '');

// All reasons of the API, for decisions and for refusals before the log.
const { schemas } = JSON.parse(open('../src/api/http/openapi.json')).components;
const REASONS = schemas.Decision.properties.reason.enum;
// Outcomes without an answer: errors of the API, and those of the network.
const FAILURES = ['overloaded', 'outcome_unknown', 'halted', 'too_many', 'no_connection', 'unexpected'];

const requests = new Counter('requests');
const undecided = new Counter('undecided');
const issued = new Counter('outcome_issued');
const alreadyIssued = new Counter('outcome_already_issued');
const rejected = counters('outcome_rejected', REASONS);
const refusedAtEdge = counters('outcome_refused_at_edge', REASONS);
const failed = counters('failed', FAILURES);

export const accepted = new Trend('accepted', true);
export const decided = new Trend('decided', true);
export const refused = new Trend('refused_at_edge', true);
// From the first byte sent to the known decision, over all calls that it took.
export const answered = new Trend('answered', true);

function counters(prefix, names) {
  return Object.fromEntries(names.map((name) => [name, new Counter(`${prefix}_${name}`)]));
}

// 409 is an answer, not an error.
http.setResponseCallback(http.expectedStatuses(200, 201, 202, 409));

export const common = {
  summaryTrendStats: ['avg', 'med', 'p(90)', 'p(95)', 'p(99)', 'max', 'count'],
  thresholds: {
    undecided: ['count==0'],
    ...Object.fromEntries(FAILURES.map((name) => [`failed_${name}`, ['count==0']])),
  },
};

export function randomNode() {
  return nodes[Math.floor(Math.random() * nodes.length)];
}

// Creates a campaign if TOKEN is set. Otherwise CAMPAIGN must name an existing one.
export function openCampaign(kind, quotaByDefault) {
  const run = `${kind}-${Date.now().toString(36)}`;
  const campaign = __ENV.CAMPAIGN || run;
  if (__ENV.TOKEN) {
    const quota = Number(__ENV.QUOTA || quotaByDefault);
    const answer = http.put(`${admin}/admin/campaigns/${campaign}`, JSON.stringify({ quota }), {
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${__ENV.TOKEN}` },
    });
    if (answer.status !== 201 && answer.status !== 200) {
      fail(`campaign ${campaign} could not be created: ${answer.status} ${answer.error} ${answer.body}`);
    }
  } else if (!__ENV.CAMPAIGN) {
    fail('set TOKEN (the admin token) to create a campaign, or CAMPAIGN to the id of an open campaign');
  }
  for (const node of nodes) {
    const answer = http.get(`${node}/campaigns/${campaign}`);
    if (answer.status !== 200) {
      fail(`${node} does not know campaign ${campaign}: ${answer.status} ${answer.error} ${answer.body}`);
    }
    if (answer.json('state') !== 'open') {
      fail(`campaign ${campaign} is ${answer.json('state')}, not open`);
    }
  }
  return { campaign, run };
}

export function askForCoupon(node, campaign, user, headers) {
  requests.add(1);
  return http.post(`${node}/coupon/issue`, JSON.stringify({ campaign_id: campaign, user_id: user }), {
    headers: { 'Content-Type': 'application/json', ...headers },
    tags: { name: 'POST /coupon/issue' },
  });
}

// Polls until the request is decided, for at most 30 s. A `wait` that ends without a decision is no failure: the server
// does not promise a decision within it.
export function waitForDecision(accepted202, node) {
  const path = accepted202.headers.Location;
  let spent = 0;
  for (let tries = 0; tries < 3; tries += 1) {
    const answer = http.get(`${node}${path}?wait=10`, { tags: { name: 'GET /coupon/requests/{id}' }, timeout: '20s' });
    spent += answer.timings.duration;
    if (answer.status !== 202) {
      return { answer, spent };
    }
  }
  return { answer: null, spent };
}

// Counts the outcome of a request, exactly once per request.
export function count(answer) {
  if (answer === null) {
    undecided.add(1);
    return;
  }
  const known = answer.status === 200 ? countDecision(bodyOf(answer)) : countRefusal(answer);
  if (!known) {
    failed[failureOf(answer)].add(1);
  }
}

function countDecision(decision) {
  if (decision.status === 'issued') {
    issued.add(1);
  } else if (decision.status === 'already_issued') {
    alreadyIssued.add(1);
  } else if (decision.status === 'rejected' && decision.reason in rejected) {
    rejected[decision.reason].add(1);
  } else {
    return false;
  }
  return true;
}

function countRefusal(answer) {
  const reason = problemOf(answer);
  if (answer.status !== 409 || !(reason in refusedAtEdge)) {
    return false;
  }
  refusedAtEdge[reason].add(1);
  return true;
}

function failureOf(answer) {
  const problem = problemOf(answer);
  if (answer.status === 0) {
    return 'no_connection';
  }
  if (answer.status === 429) {
    return 'too_many';
  }
  return answer.status === 503 && FAILURES.includes(problem) ? problem : 'unexpected';
}

// `https://…/sold-out` → `sold_out`
function problemOf(answer) {
  const { type } = bodyOf(answer);
  return typeof type === 'string' ? type.split('/').pop().replace(/-/g, '_') : 'none';
}

function bodyOf(answer) {
  try {
    return answer.json() || {};
  } catch (_) {
    return {};
  }
}

// ---- the end

// `times` maps the trends that the table shows to their titles.
export function summarize(data, { times, iterationsAllowed }) {
  if (!data.setup_data) {
    return {};
  }
  const figures = collect(data, Object.keys(times));
  figures.iterations_allowed = iterationsAllowed;
  const files = { stdout: table(figures, times) };
  if (__ENV.SUMMARY) {
    files[__ENV.SUMMARY] = `${JSON.stringify(figures, null, 2)}\n`;
  }
  return files;
}

function collect(data, trends) {
  const counted = (name) => (data.metrics[name] ? data.metrics[name].values.count : 0);
  const by = (prefix, names) => Object.fromEntries(names.map((name) => [name, counted(`${prefix}_${name}`)]));
  const times = {};
  for (const name of trends) {
    const values = data.metrics[name] && data.metrics[name].values;
    if (values && values.count > 0) {
      const round = (value) => Math.round(value * 100) / 100;
      times[name] = {
        count: values.count,
        p50: round(values.med),
        p90: round(values['p(90)']),
        p95: round(values['p(95)']),
        p99: round(values['p(99)']),
        max: round(values.max),
      };
    }
  }
  const figures = {
    campaign: data.setup_data.campaign,
    seconds: Math.round(data.state.testRunDurationMs / 100) / 10,
    iterations: counted('iterations'),
    // Without a free virtual user, an open loop can't keep its rate: k6 counts a dropped iteration.
    iterations_dropped: counted('dropped_iterations'),
    requests: counted('requests'),
    issued: counted('outcome_issued'),
    already_issued: counted('outcome_already_issued'),
    rejected: by('outcome_rejected', REASONS),
    refused_at_edge: by('outcome_refused_at_edge', REASONS),
    undecided: counted('undecided'),
    failed: by('failed', FAILURES),
    milliseconds: times,
  };
  figures.answered =
    figures.issued + figures.already_issued + sum(figures.rejected) + sum(figures.refused_at_edge);
  figures.balanced = figures.requests === figures.answered + figures.undecided + sum(figures.failed);
  return figures;
}

function sum(counts) {
  return Object.values(counts).reduce((total, one) => total + one, 0);
}

function table(figures, times) {
  const row = (name, value, note = '') => `  ${name.padEnd(34)}${String(value).padStart(10)}  ${note}`.trimEnd();
  const share = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : '');
  const lines = ['', `  campaign ${figures.campaign}, ${figures.seconds} s`, ''];

  const allowed = figures.iterations_allowed;
  const reached = allowed ? `${share(figures.iterations, allowed)} of the ${allowed} that the schedule allows` : '';
  lines.push(row('iterations', figures.iterations, reached));
  if (figures.iterations_dropped) {
    lines.push(row('iterations not started', figures.iterations_dropped, 'no user was free'));
  }
  lines.push(row('failed', sum(figures.failed)));
  for (const [name, value] of Object.entries(figures.failed)) {
    if (value) {
      lines.push(row(`  ${name}`, value));
    }
  }

  lines.push('', row('requests', figures.requests), row('  issued', figures.issued));
  lines.push(row('  already_issued', figures.already_issued));
  for (const [reason, value] of Object.entries(figures.rejected)) {
    if (value || reason === 'sold_out') {
      lines.push(row(`  rejected ${reason}`, value));
    }
  }
  for (const [reason, value] of Object.entries(figures.refused_at_edge)) {
    if (value || reason === 'sold_out') {
      lines.push(row(`  refused at the edge ${reason}`, value, 'never in the log'));
    }
  }
  lines.push(row('  undecided', figures.undecided, 'after 30 s'));
  lines.push(row('  failed', sum(figures.failed)));
  lines.push(row('  = requests', figures.balanced ? 'yes' : 'NO'));

  const columns = (cells) => `  ${cells[0].padEnd(26)}${cells.slice(1).map((cell) => String(cell).padStart(10)).join('')}`;
  lines.push('', columns(['milliseconds', 'P50', 'P95', 'P99', 'max', 'count']));
  for (const [name, one] of Object.entries(figures.milliseconds)) {
    lines.push(columns([times[name], one.p50, one.p95, one.p99, one.max, one.count]));
  }
  return `${lines.join('\n')}\n\n`;
}
