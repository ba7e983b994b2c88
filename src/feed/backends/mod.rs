//! SHELL: backends are feeders that consume publications of clients and send commands for
//! connections.
//!
//! `commands` executes the commands of a feeder. `consumer` stores what a consumer has requested,
//! and formats the lines that it receives. `reports` routes each report of a worker to its
//! consumers.

pub(super) mod commands;
pub(super) mod consumer;
pub(super) mod reports;
