//! Admission control: decides which connections are accepted and for which source each connection
//! counts. Also limits how long a silent connection stays open and how fast a client sends.

pub mod guard;
pub mod pending;
pub(super) mod rates;
pub mod sources;
