//! The watch: a thread that looks at memory once a second, for all workers.
//!
//! A worker must not read files, and what is short is short for all of them. It sweeps the table of
//! sources on its way, and ends when the server is let go of.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::config::limits::WATCH_MS;
use crate::sys::clock::Clock;
use crate::sys::pressure::{Meter, Pressure};
use crate::worker::admission::sources::Sources;

/// The thread; ends with this.
#[derive(Debug)]
pub(super) struct Watch {
    meter: Meter,
    _end: Sender<()>,
}

impl Watch {
    /// Looks for the first time, and then from a thread.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start(
        memory_bytes: u64,
        pressure: Arc<Pressure>,
        sources: Option<Arc<Sources>>,
        clock: Clock,
    ) -> io::Result<Self> {
        let meter = Meter::new(memory_bytes);
        if meter == Meter::Nothing {
            tracing::info!("the system does not say how much memory there is: it is not watched");
        }
        meter.look(&pressure);
        let (end, ended) = bounded(0);
        let looked_at = meter.clone();
        let look = move || {
            while ended.recv_timeout(Duration::from_millis(WATCH_MS))
                == Err(RecvTimeoutError::Timeout)
            {
                let was_short = pressure.is_short();
                looked_at.look(&pressure);
                tell(&pressure, was_short);
                if let Some(sources) = &sources {
                    sources.sweep(clock.now());
                }
            }
        };
        thread::Builder::new()
            .name(String::from("fanfare-watch"))
            .spawn(look)?;
        Ok(Self { meter, _end: end })
    }

    /// What is looked at.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }
}

fn tell(pressure: &Pressure, was_short: bool) {
    let (used_bytes, limit_bytes) = (pressure.used_bytes(), pressure.limit_bytes());
    match (was_short, pressure.is_short()) {
        (false, true) => {
            tracing::warn!(used_bytes, limit_bytes, "memory is short: nobody comes in");
        }
        (true, false) => tracing::warn!(used_bytes, limit_bytes, "there is memory again"),
        (true, true) | (false, false) => {}
    }
}
