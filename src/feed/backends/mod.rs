//! SHELL: backends are feeders that consume publications of clients and send commands for
//! connections.
//!
//! `commands` executes the commands of a feeder. `consumer` stores the channels and notices that a
//! consumer has requested, and formats the consumer's lines. `reports` routes each report of a
//! worker to the report's consumers.

pub(super) mod commands;
pub(super) mod consumer;
pub(super) mod reports;
