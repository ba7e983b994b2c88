# Varnish 6 or later in front of fanfare: /etc/varnish/default.vcl.
#
# Nothing is cached. WebSockets are piped. Start varnishd with -p pipe_timeout=130, so that it
# closes no quiet WebSocket before the WebSocket's heartbeat. The backend's timeouts are longer than
# the longest poll (limits.poll_timeout_ms) and than the heartbeat. Each client occupies one thread:
# see thread_pool_max.

vcl 4.1;

backend fanfare {
    .host = "127.0.0.1";
    .port = "8080";
    .first_byte_timeout = 130s;
    .between_bytes_timeout = 130s;
}

sub vcl_recv {
    if (req.http.Upgrade) {
        return (pipe);
    }
    return (pass);
}

sub vcl_pipe {
    set bereq.http.Connection = req.http.Connection;
    set bereq.http.Upgrade = req.http.Upgrade;
}

sub vcl_backend_response {
    set beresp.do_stream = true;
}
