-- Keep-alive requests with wrk, for `GET /` or another path whose response does not close the connection.
--
-- usage: wrk -t2 -c200 -d10s --latency -s page.lua http://127.0.0.1:8080/
--
-- Prints also how many responses were not 200, which must be none.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init()
  others = 0
end

function response(status)
  if status ~= 200 then others = others + 1 end
end

function done(summary)
  local others = 0
  for _, thread in ipairs(threads) do others = others + thread:get("others") end
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format("responses %d, not 200: %d, connections that failed: %d\n",
    summary.requests, others, failed))
end
