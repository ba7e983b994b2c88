//! SHELL: the threads that export spans.
//!
//! The first thread takes spans from the queue, encodes them in batches, appends each batch to the
//! file and passes it to the second thread, which posts it to the collector. A collector that is
//! slow or down delays only the second thread: batches for which it has no room are dropped and
//! counted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, after, bounded, select};

use super::collector::{Batch, Collector};
use super::encode::{self, Calendar};
use super::file::SpanFile;
use super::{EndedSpan, SpanMetrics, Tracer};
use crate::config::Tracing;
use crate::config::limits::{
    SPAN_BATCH_MS, SPAN_BATCHES_MAX, SPAN_STOP_MS, SPANS_PER_BATCH_MAX, SPANS_QUEUED_MAX,
};
use crate::config::tracing::EndpointError;
use crate::sys::clock::Clock;
use crate::time::micros;

/// The reason why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// The endpoint is not a URL of a collector.
    #[error("`tracing.endpoint` {0}")]
    Endpoint(EndpointError),
    /// The file cannot be opened.
    #[error("cannot open the file of spans {path} (key `tracing.file`): {error}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread for spans: {0}")]
    Thread(io::Error),
}

/// The running threads. When it is dropped, the queued spans are exported, as far as this succeeds
/// within [`SPAN_STOP_MS`].
#[derive(Debug)]
pub struct Exporter {
    /// Disconnected to stop the threads.
    stop: Option<Sender<()>>,
    /// Disconnected when the threads have ended.
    ended: Receiver<()>,
    metrics: Arc<SpanMetrics>,
    /// The number of targets: a file, a collector, or both.
    targets: u64,
}

/// The state of the first thread.
#[derive(Debug)]
struct Batcher {
    spans: Receiver<EndedSpan>,
    stop: Receiver<()>,
    clock: Clock,
    file: Option<SpanFile>,
    /// Whether the last write to the file has failed. Only changes are logged.
    is_failing: bool,
    collector: Option<CollectorThread>,
    metrics: Arc<SpanMetrics>,
}

#[derive(Debug)]
struct CollectorThread {
    batches: Sender<Batch>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Starts the threads. Returns `None` if tracing is off.
    ///
    /// # Errors
    /// Returns an [`ExporterError`] if the file cannot be opened or a thread cannot be started.
    pub fn start(config: &Tracing, clock: Clock) -> Result<Option<(Tracer, Self)>, ExporterError> {
        if !config.is_on() {
            return Ok(None);
        }
        let metrics = Arc::new(SpanMetrics::default());
        let (queue, spans) = bounded(SPANS_QUEUED_MAX);
        let (stop, stopped) = bounded(0);
        let (running, ended) = bounded::<()>(0);
        let url = config.url().map_err(ExporterError::Endpoint)?;
        let collector = url.map(|url| Collector::new(url, Arc::clone(&metrics), stopped.clone()));
        let file = open_file(config)?;
        let targets = u64::from(file.is_some()) + u64::from(collector.is_some());
        let batcher = Batcher {
            spans,
            stop: stopped,
            clock,
            file,
            is_failing: false,
            collector: collector.map(CollectorThread::start).transpose()?,
            metrics: Arc::clone(&metrics),
        };
        spawn("fanfare-spans", move || {
            batcher.run();
            drop(running);
        })?;
        let tracer = Tracer::new(config, queue, Arc::clone(&metrics));
        let exporter = Self {
            stop: Some(stop),
            ended,
            metrics,
            targets,
        };
        Ok(Some((tracer, exporter)))
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop = None;
        // A collector that does not answer must not delay the stop for long.
        let _ended = self.ended.recv_timeout(Duration::from_millis(SPAN_STOP_MS));
        let unfinished = self.metrics.unfinished(self.targets);
        let stopped = &self.metrics.stopped;
        let lost = stopped.fetch_add(unfinished, Ordering::Relaxed) + unfinished;
        if lost > 0 {
            tracing::warn!(
                "{lost} spans are lost at the end of the server: they could not be exported in time"
            );
        }
    }
}

impl Batcher {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(SPANS_PER_BATCH_MAX);
        loop {
            let is_stopping = self.collect(&mut batch);
            if !batch.is_empty() {
                self.export(&batch);
                batch.clear();
            } else if is_stopping {
                break;
            }
        }
        if let Some(CollectorThread { batches, thread }) = self.collector {
            drop(batches);
            // If the thread has panicked, its message is already in the log.
            let _ended = thread.join();
        }
    }

    /// Takes spans from the queue until the batch is full or old. Returns whether the server stops;
    /// then takes only what is in the queue.
    fn collect(&self, batch: &mut Vec<EndedSpan>) -> bool {
        select! {
            recv(self.spans) -> span => batch.extend(span),
            recv(self.stop) -> _stopped => {
                batch.extend(self.spans.try_iter().take(SPANS_PER_BATCH_MAX));
                return true;
            }
        }
        let deadline = after(Duration::from_millis(SPAN_BATCH_MS));
        while batch.len() < SPANS_PER_BATCH_MAX {
            select! {
                recv(self.spans) -> span => match span {
                    Ok(span) => batch.push(span),
                    Err(_no_tracer_is_left) => return true,
                },
                recv(self.stop) -> _stopped => return false,
                recv(deadline) -> _now => return false,
            }
        }
        false
    }

    fn export(&mut self, spans: &[EndedSpan]) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let calendar = Calendar {
            unix_us: micros(since.unwrap_or_default()),
            now: self.clock.now(),
        };
        let json = encode::batch(spans, calendar);
        let count = spans.len() as u64;
        if let Some(file) = &mut self.file {
            let written = file.append(&json);
            let number = match &written {
                Ok(()) => &self.metrics.written,
                Err(_) => &self.metrics.unwritten,
            };
            number.fetch_add(count, Ordering::Relaxed);
            self.note_written(written);
        }
        if let Some(collector) = &self.collector {
            let batch = Batch {
                json: json.into(),
                spans: count,
            };
            if collector.batches.try_send(batch).is_err() {
                let dropped = &self.metrics.collector_queue_full;
                dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn note_written(&mut self, written: io::Result<()>) {
        let was_failing = std::mem::replace(&mut self.is_failing, written.is_err());
        match written {
            Ok(()) if was_failing => tracing::info!("spans are written to their file again"),
            Err(error) if !was_failing => tracing::warn!(
                %error,
                "spans cannot be written to `tracing.file`, and are dropped"
            ),
            Ok(()) | Err(_) => {}
        }
    }
}

impl CollectorThread {
    fn start(collector: Collector) -> Result<Self, ExporterError> {
        let (batches, received) = bounded(SPAN_BATCHES_MAX);
        let thread = spawn("fanfare-otlp", move || collector.run(&received))?;
        Ok(Self { batches, thread })
    }
}

fn open_file(config: &Tracing) -> Result<Option<SpanFile>, ExporterError> {
    let path = &config.file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let opened = SpanFile::open(path).map_err(|error| ExporterError::File {
        path: path.clone(),
        error,
    });
    opened.map(Some)
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, ExporterError> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(run).map_err(ExporterError::Thread)
}
