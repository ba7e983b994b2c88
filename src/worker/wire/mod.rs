//! The network interface of a worker, its implementation over sockets, and TLS between sockets and
//! machines.

pub mod fanout_limiter;
pub mod kernel;
pub mod net;
pub mod tls;
