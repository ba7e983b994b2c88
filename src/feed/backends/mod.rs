//! SHELL: feeders that are backends: they consume what clients send, and they command connections.
//!
//! `commands` executes the commands of a feeder. `consumer` has what a consumer asked for, and the
//! lines that it receives. `reports` routes each report of a worker to its consumers.

pub(super) mod commands;
pub(super) mod consumer;
pub(super) mod reports;
