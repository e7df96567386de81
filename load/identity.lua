-- For wrk, by load/identity: each request is of the next of the users in the file TOKENS, named in the body (HOW is "trusted") or by
-- their token ("jwt").
local users, tokens = {}, {}
for line in io.lines(os.getenv("TOKENS")) do
  local user, token = line:match("^(%S+) (%S+)$")
  users[#users + 1], tokens[#tokens + 1] = user, token
end
local by_token = os.getenv("HOW") == "jwt"
local at = 0

function init()
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Prefer"] = "wait=10"
end

function request()
  at = at % #users + 1
  if by_token then
    wrk.headers["Authorization"] = "Bearer " .. tokens[at]
    return wrk.format(nil, nil, nil, '{"campaign_id":"identity"}')
  end
  return wrk.format(nil, nil, nil, '{"campaign_id":"identity","user_id":"' .. users[at] .. '"}')
end
