//! A WebSocket server with tokio-tungstenite. Each WebSocket has one task, and all tasks subscribe
//! to one tokio broadcast channel.
//!
//! usage: tungstenite [--workers N] --feed PATH

use std::io;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{Receiver, Sender, error::RecvError};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

fn main() -> io::Result<()> {
    fanfare_load_peers::run(serve)
}

async fn serve(listener: TcpListener, sender: Sender<Utf8Bytes>) -> io::Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(subscriber(socket, sender.subscribe()));
    }
}

async fn subscriber(socket: TcpStream, mut publications: Receiver<Utf8Bytes>) {
    let Ok(mut socket) = accept_async(socket).await else {
        return;
    };
    loop {
        tokio::select! {
            publication = publications.recv() => match publication {
                Ok(text) => {
                    if socket.send(Message::Text(text)).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            // The task must also read, because only reading answers pings and detects the end of
            // the connection.
            message = socket.next() => match message {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
        }
    }
}
