-- Event streams with wrk: each connection sends one request and reads until the run ends.
--
-- usage: wrk -t2 -c1000 -d10s --timeout 60s -s streams.lua http://127.0.0.1:8080/sse?channel=load
--
-- A stream never ends, so wrk counts no request. Deliveries are bytes read divided by the bytes of an
-- event. Only failed connections are detected.
wrk.headers["Accept"] = "text/event-stream"

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status
  io.write(string.format("bytes read: %d, streams that ended: %d, connections that failed: %d\n",
    summary.bytes, summary.requests, failed))
end
