-- Event streams with wrk: each connection asks once and reads what comes, to the end of the run.
--
-- usage: wrk -t2 -c1000 -d10s --timeout 60s -s streams.lua http://127.0.0.1:8080/sse?channel=load
--
-- An answer never ends, so wrk counts no request. Bytes read divided by the bytes of an event are
-- deliveries. Nothing is checked but that no connection failed.
wrk.headers["Accept"] = "text/event-stream"

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status
  io.write(string.format("bytes read: %d, answers that ended: %d, connections that failed: %d\n",
    summary.bytes, summary.requests, failed))
end
