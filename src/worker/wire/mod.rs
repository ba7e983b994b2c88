//! The network interface of a worker, its implementation over sockets, and the TLS layer between
//! the sockets and the state machines of conns.

pub mod fanout_limiter;
pub mod kernel;
pub mod net;
pub mod tls;
