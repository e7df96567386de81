-- For wrk: each request has a different user, so that each issues a coupon.
-- CAMPAIGN is the campaign. WAIT, if set, is sent as `Prefer: wait`.
local campaign = os.getenv("CAMPAIGN") or "demo"
local wait = os.getenv("WAIT")
local run = os.getenv("RUN") or tostring(os.time())
local threads = 0

function setup(thread)
  thread:set("thread_number", threads)
  threads = threads + 1
end

function init()
  count = 0
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  if wait then wrk.headers["Prefer"] = "wait=" .. wait end
end

function request()
  count = count + 1
  local user = string.format("user-%s-%d-%d", run, thread_number, count)
  return wrk.format(nil, nil, nil, '{"campaign_id":"' .. campaign .. '","user_id":"' .. user .. '"}')
end
