//! An event stream server with axum. All streams subscribe to one tokio broadcast channel.
//!
//! usage: axum [--workers N] --feed PATH

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::broadcast::Sender;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt as _};

fn main() -> io::Result<()> {
    fanfare_load_peers::run(serve)
}

async fn serve(listener: TcpListener, sender: Sender<Arc<str>>) -> io::Result<()> {
    let app = Router::new()
        .route("/sse", get(subscribe))
        .with_state(sender);
    let listener = listener.tap_io(|socket| {
        // Without this option, the kernel may not send a second event until the client has
        // acknowledged the first (Nagle's algorithm).
        let _done = socket.set_nodelay(true);
    });
    axum::serve(listener, app).await
}

async fn subscribe(
    State(sender): State<Sender<Arc<str>>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let publications = BroadcastStream::new(sender.subscribe());
    // If a subscriber lags too far, it loses publications, and the channel returns an error, which
    // is skipped.
    let events = publications
        .filter_map(Result::ok)
        .map(|text| Ok(Event::default().data(text)));
    Sse::new(events).keep_alive(KeepAlive::default())
}
