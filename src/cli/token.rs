//! `fanfare token`: prints a signed token for testing.
//!
//! The command signs with a secret of the server, so no token issuer is needed. It reads the key
//! file and the clock; no server needs to run.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::Failure;
use super::args::TokenArgs;
use fanfare::auth::{TokenSpec, mint};
use fanfare::config::input;

/// Signs a token and prints it.
pub(super) fn run(args: &TokenArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let path = args.key.display();
    let key = input::read(&args.key).with_context(|| format!("cannot read {path}"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.context("the system clock is before 1970; set it")?;
    let spec = TokenSpec {
        sub: args.sub.clone(),
        subscribe: args.subscribe.clone(),
        publish: args.publish.clone(),
        audience: args.audience.clone(),
        issuer: args.issuer.clone(),
        expires_s: now.as_secs().saturating_add(args.expires_in),
    };
    let token = mint(args.algorithm, &key, &spec);
    let token = token.map_err(|error| Failure::Usage(format!("--key: {path} {error}")))?;
    writeln!(out, "{token}").map_err(Failure::of_output)
}
