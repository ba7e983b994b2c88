//! A thread that measures memory once a second, for all workers.
//!
//! A worker must not read files, and a memory shortage affects all workers at the same time, so one
//! thread measures for all. The thread also removes idle entries from the table of sources, and
//! writes the numbers of suppressed warnings. It ends when the server is dropped.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::config::limits::WATCH_MS;
use crate::sys::clock::Clock;
use crate::sys::pressure::{Meter, Pressure};
use crate::warnings::Warnings;
use crate::worker::admission::sources::SourceLimiter;
use crate::worker::reloadable::Reloadable;

/// A handle that stops the thread when it is dropped.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    meter: Arc<Reloadable<Meter>>,
    /// The configured limit of the meter.
    memory_bytes: u64,
    _end: Sender<()>,
}

impl MemoryWatch {
    /// Measures memory once, and starts the thread that repeats the measurement.
    ///
    /// # Errors
    /// Returns the system's error if the thread cannot be started.
    pub(super) fn start(
        memory_bytes: u64,
        pressure: Arc<Pressure>,
        sources: Option<Arc<SourceLimiter>>,
        warnings: Arc<Warnings>,
        clock: Clock,
    ) -> io::Result<Self> {
        let first = Meter::new(memory_bytes);
        if first == Meter::Nothing {
            tracing::info!("the system does not report its memory, so no limit on it is kept");
        }
        let mut is_known = first.measure(&pressure);
        log_known(true, is_known, &pressure);
        let (end, ended) = bounded(0);
        let meter = Arc::new(Reloadable::new(first));
        let measured = Arc::clone(&meter);
        let watch = move || {
            while ended.recv_timeout(Duration::from_millis(WATCH_MS))
                == Err(RecvTimeoutError::Timeout)
            {
                let was_short = pressure.is_short();
                let was_known = is_known;
                is_known = measured.current().measure(&pressure);
                log_known(was_known, is_known, &pressure);
                log_change(&pressure, was_short);
                warnings.report_suppressed(clock.now());
                if let Some(sources) = &sources {
                    sources.sweep(clock.now());
                }
            }
        };
        thread::Builder::new()
            .name(String::from("fanfare-watch"))
            .spawn(watch)?;
        Ok(Self {
            meter,
            memory_bytes,
            _end: end,
        })
    }

    pub(super) fn meter(&self) -> &Arc<Reloadable<Meter>> {
        &self.meter
    }

    /// Changes the limit. It applies from the next measurement on. If the limit is the same, the
    /// meter stays: it was chosen when the limit was set, and a new one could differ.
    pub(super) fn set_limit(&mut self, memory_bytes: u64) {
        if memory_bytes != self.memory_bytes {
            self.memory_bytes = memory_bytes;
            self.meter.replace(Meter::new(memory_bytes));
        }
    }
}

/// Logs that the memory in use cannot be read any more, or that it can be read again.
fn log_known(was_known: bool, is_known: bool, pressure: &Pressure) {
    match (was_known, is_known) {
        (true, false) => {
            let what = match pressure.is_short() {
                true => "connections are refused until it can be read",
                false => "connections are accepted until it can be read",
            };
            let used_bytes = pressure.used_bytes();
            tracing::warn!(used_bytes, "the memory in use cannot be read: {what}");
        }
        (false, true) => tracing::info!("the memory in use can be read again"),
        (true, true) | (false, false) => {}
    }
}

fn log_change(pressure: &Pressure, was_short: bool) {
    let (used_bytes, limit_bytes) = (pressure.used_bytes(), pressure.limit_bytes());
    match (was_short, pressure.is_short()) {
        (false, true) => {
            let what = "memory is above its limit: new connections are refused";
            tracing::warn!(used_bytes, limit_bytes, "{what}");
        }
        (true, false) => {
            let what = "memory is below its limit again: connections are accepted";
            tracing::warn!(used_bytes, limit_bytes, "{what}");
        }
        (true, true) | (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meter_is_replaced_only_if_the_limit_has_changed() {
        let (pressure, warnings) = (Arc::default(), Arc::default());
        let watch = MemoryWatch::start(1 << 40, pressure, None, warnings, Clock::start());
        let mut watch = watch.unwrap();
        watch.meter.replace(Meter::Nothing);
        watch.set_limit(1 << 40);
        assert_eq!(watch.meter.current(), Meter::Nothing);
        watch.set_limit(1 << 41);
        assert_ne!(watch.meter.current(), Meter::Nothing);
    }
}
