//! Carries out the requests of operators.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use serde::Serialize;

use super::MainOrder;
use super::answer::{
    BackupAnswer, ConfigAnswer, ConnRow, ConnsAnswer, ErrorAnswer, KeyRow, KickAnswer,
    LogLevelAnswer, ProblemRow, ReloadAnswer, TopAnswer, WorkerRow, WorkersAnswer,
};
use super::channels::channels;
use super::request::{
    BackupRequest, ChannelSort, ChannelsRequest, ConnFilter, ConnSort, ConnsRequest, KickRequest,
    Request, RowLimit,
};
use super::surveys::{self, Surveyed, WorkerAnswer};
use crate::admin::{FigureSources, ServerStage};
use crate::backend::CloseInfo;
use crate::certain;
use crate::config::limits::{CLOSE_REASON_BYTES_MAX, OPERATOR_ANSWER_MS, OPERATOR_RELOAD_MS};
use crate::config::report::EffectiveKey;
use crate::id::ChannelName;
use crate::journal::backup::{Backups, RunningBackup};
use crate::logs::LogHandle;
use crate::logs::problems::LoggedProblem;
use crate::metrics::{Counter, WorkerMetrics};
use crate::proxy::Network;
use crate::sys::clock::Clock;
use crate::sys::peer::PeerProcess;
use crate::sys::pressure::resident_bytes;
use crate::worker::mail::inbox::Mailbox;
use crate::worker::mail::survey::{self, Question, SurveyAnswer, SurveyedConn};

/// The numbers of laggards and channels of `top`.
const TOP_LAGGARDS: u32 = 5;
const TOP_CHANNELS: u32 = 10;

/// The key of the log level, which an operator can change.
const LEVEL_KEY: &str = "logging.level";

/// The parts of the server that requests read or change.
pub struct Operated {
    /// The figures that the admin listener serves, too.
    pub figures: Arc<FigureSources>,
    /// The mailbox of each worker, in the order of their numbers.
    pub mailboxes: Vec<Mailbox>,
    /// Makes backups of the journal; `None` without a journal.
    pub backups: Option<Backups>,
    /// The clock of the server.
    pub clock: Clock,
    /// The effective configuration.
    pub config: Arc<Mutex<Vec<EffectiveKey>>>,
    /// The log level and the latest problems.
    pub logs: LogHandle,
    /// Where requests for the main thread are sent.
    pub orders: Sender<MainOrder>,
}

impl fmt::Debug for Operated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operated")
            .field("workers", &self.mailboxes.len())
            .finish_non_exhaustive()
    }
}

/// An answer that has to be sent.
pub(super) struct Answer {
    /// The answer as JSON.
    pub(super) line: String,
    /// The backup that was made. It must be dropped after the answer was sent, because the stop of
    /// the server waits for it.
    pub(super) _backup: Option<RunningBackup>,
}

/// Carries out a request. `has_left` says whether the requester has closed the connection.
pub(super) fn execute(
    request: &Request,
    (requester, has_left): (PeerProcess, &dyn Fn() -> bool),
    operated: &Operated,
) -> Answer {
    let mut running = None;
    let answer = match request {
        Request::Backup(request) => {
            let made = backup(request, (requester, has_left), operated, &mut running);
            made.and_then(|a| json(&a))
        }
        Request::Channels(request) => {
            let workers = operated.all_workers();
            channels(request, &workers, operated).and_then(|a| json(&a))
        }
        Request::Config(_) => json(&config(operated)),
        Request::Conns(request) => {
            let workers = operated.all_workers();
            conns(request, &workers, operated).and_then(|a| json(&a))
        }
        Request::Kick(request) => kick(request, requester, operated).and_then(|a| json(&a)),
        Request::LogLevel(request) => {
            let level = request.level.as_deref();
            log_level(level, requester, operated).and_then(|a| json(&a))
        }
        Request::Reload(_) => reload(requester, operated).and_then(|a| json(&a)),
        Request::Top(_) => top(operated).and_then(|a| json(&a)),
        Request::Workers(_) => {
            let pinged = ping(operated);
            json(&WorkersAnswer {
                workers: workers(&pinged, operated),
                silent_workers: pinged.missing(),
            })
        }
    };
    let failed = |error: String| json(&ErrorAnswer { error });
    let answer = answer.or_else(failed);
    debug_assert!(answer.is_ok(), "answers can be written as JSON");
    Answer {
        line: answer.unwrap_or_default(),
        _backup: running,
    }
}

fn json<T: Serialize>(answer: &T) -> Result<String, String> {
    serde_json::to_string(answer).map_err(|error| error.to_string())
}

impl Operated {
    /// Asks workers the same question, and waits for their answers for a limited time.
    pub(super) fn ask(&self, question: &Question, workers: &[u16]) -> Surveyed {
        let patience = Duration::from_millis(OPERATOR_ANSWER_MS);
        surveys::ask(&self.mailboxes, question, workers, patience)
    }

    /// Returns the numbers of all workers.
    pub(super) fn all_workers(&self) -> Vec<u16> {
        let numbers = (0..).zip(&self.mailboxes);
        numbers.map(|(number, _)| number).collect()
    }
}

fn filter(request: &ConnFilter) -> Result<survey::ConnFilter, String> {
    let ConnFilter {
        connection,
        address,
        channel,
        sub,
        transport,
        behind,
        unsent,
    } = request;
    let name = connection.as_deref().map(str::parse).transpose();
    let name = name.map_err(|error| format!("connection: {error}"))?;
    let network = address.clone().map(Network::try_from).transpose();
    let network = network.map_err(|error| format!("address: {error}"))?;
    let channel = channel.as_deref().map(ChannelName::with_reserved);
    let channel = channel.transpose();
    let channel = channel.map_err(|error| format!("channel: {error}"))?;
    Ok(survey::ConnFilter {
        name,
        network,
        channel,
        sub: sub.as_deref().map(Box::from),
        transport: *transport,
        behind: behind.unwrap_or_default(),
        unsent: unsent.unwrap_or_default(),
    })
}

/// Lists connections of `workers`.
fn conns(
    request: &ConnsRequest,
    workers: &[u16],
    operated: &Operated,
) -> Result<ConnsAnswer, String> {
    let limit = request.limit.rows();
    let question = Question::List {
        filter: Arc::new(filter(&request.filter)?),
        sort: request.sort,
        limit,
    };
    let surveyed = operated.ask(&question, workers);
    let mut answer = ConnsAnswer {
        silent_workers: surveyed.missing(),
        ..ConnsAnswer::default()
    };
    let mut found = Vec::new();
    for WorkerAnswer {
        answer: from_worker,
        ..
    } in surveyed.answers
    {
        if let SurveyAnswer::Conns {
            conns,
            matched,
            open,
        } = from_worker
        {
            answer.matched += matched;
            answer.open += open;
            found.extend(conns);
        }
    }
    found.sort_by_key(|conn| (std::cmp::Reverse(conn.rank), conn.name));
    found.truncate(limit);
    answer.conns = found.iter().map(conn_row).collect();
    Ok(answer)
}

fn conn_row(conn: &SurveyedConn) -> ConnRow {
    let channels = conn.first_channels.iter();
    ConnRow {
        connection: conn.name.to_string(),
        worker: conn.name.worker,
        peer: conn.peer.map(|peer| peer.to_string()),
        client: conn.client.map(|client| client.to_string()),
        transport: conn.transport,
        tls: conn.is_secure,
        closing: conn.is_ending,
        sub: conn.sub.as_deref().map(String::from),
        channels: conn.channels,
        first_channels: channels.map(|name| String::from(name.as_str())).collect(),
        behind: conn.behind.publications,
        behind_bytes: conn.behind.bytes,
        unsent_bytes: conn.unsent_bytes,
        unacknowledged_bytes: conn.unacknowledged_bytes,
        silent_ms: conn.silent_ms,
    }
}

fn kick(
    request: &KickRequest,
    requester: PeerProcess,
    operated: &Operated,
) -> Result<KickAnswer, String> {
    if request.filter.is_empty() {
        let error = "the filter is empty, which would close every connection; name a property";
        return Err(String::from(error));
    }
    let code = request.code.unwrap_or(CloseInfo::DEFAULT_CODE);
    if !CloseInfo::allows(code) {
        return Err(format!(
            "code is {code}, but must be 1000, 1001, 1008, 1011 to 1013 or 3000 to 4999"
        ));
    }
    let bytes = request.reason.len();
    if bytes > CLOSE_REASON_BYTES_MAX {
        return Err(format!(
            "reason has {bytes} bytes, but may have at most {CLOSE_REASON_BYTES_MAX}"
        ));
    }
    let question = Question::Kick {
        filter: Arc::new(filter(&request.filter)?),
        close_info: Arc::new(CloseInfo {
            code,
            reason: Box::from(request.reason.as_str()),
        }),
    };
    let surveyed = operated.ask(&question, &operated.all_workers());
    let counts = surveyed.answers.iter().map(|one| match one.answer {
        SurveyAnswer::Kicked(count) => count,
        _ => 0,
    });
    let kicked = counts.sum();
    let PeerProcess { uid, pid, .. } = requester;
    let filter = json(&request.filter)?;
    tracing::info!(uid, pid, kicked, %filter, "an operator closes connections");
    Ok(KickAnswer {
        kicked,
        silent_workers: surveyed.silent,
        unreached_workers: surveyed.unreached,
    })
}

/// Copies the journal. The backup is cancelled if the requester closes the connection.
fn backup(
    request: &BackupRequest,
    (requester, has_left): (PeerProcess, &dyn Fn() -> bool),
    operated: &Operated,
    running: &mut Option<RunningBackup>,
) -> Result<BackupAnswer, String> {
    let none = || String::from("the server has no journal (key `journal.path`)");
    let backups = operated.backups.as_ref().ok_or_else(none)?;
    let PeerProcess { uid, pid, .. } = requester;
    let to = request.to.display();
    tracing::info!(uid, pid, %to, "an operator backs up the journal");
    let begun = Instant::now();
    let failed = |error| format!("cannot make the backup in {to}: {error}");
    let running = running.insert(backups.begin(&request.to).map_err(failed)?);
    let backup = running.run(has_left).map_err(failed)?;
    Ok(BackupAnswer {
        last: backup.last.to_string(),
        publications: backup.publications,
        bytes: backup.bytes,
        took_ms: certain::to_u64(begun.elapsed().as_millis()),
    })
}

fn config(operated: &Operated) -> ConfigAnswer {
    let keys = operated.config.lock();
    let keys = keys.unwrap_or_else(PoisonError::into_inner);
    let level = operated.logs.level();
    let rows = keys.iter().map(|key| key_row(key, level.as_deref()));
    ConfigAnswer {
        keys: rows.collect(),
    }
}

/// Returns the row of a key. `level` is the log level in use, which an operator may have changed.
fn key_row(key: &EffectiveKey, level: Option<&str>) -> KeyRow {
    let row = KeyRow {
        key: key.key.clone(),
        value: key.value.clone(),
        source: key.source.to_string(),
        after_restart: key.after_restart.clone(),
    };
    let level = level.filter(|_| key.key == LEVEL_KEY);
    match level.map(|level| format!("\"{level}\"")) {
        Some(value) if value != row.value => KeyRow {
            value,
            source: String::from("operator"),
            after_restart: row.after_restart.or(Some(row.value)),
            ..row
        },
        _ => row,
    }
}

fn log_level(
    level: Option<&str>,
    requester: PeerProcess,
    operated: &Operated,
) -> Result<LogLevelAnswer, String> {
    if let Some(level) = level {
        operated.logs.set_level(level)?;
        let PeerProcess { uid, pid, .. } = requester;
        tracing::info!(uid, pid, level, "an operator has set the log level");
    }
    let level = operated.logs.level();
    Ok(LogLevelAnswer {
        level: level.unwrap_or_else(|| String::from("off")),
    })
}

fn reload(requester: PeerProcess, operated: &Operated) -> Result<ReloadAnswer, String> {
    let PeerProcess { uid, pid, .. } = requester;
    tracing::info!(uid, pid, "an operator reloads the configuration");
    let (answers_in, answers) = crossbeam_channel::bounded(1);
    let sent = operated.orders.try_send(MainOrder::Reload(answers_in));
    sent.map_err(|_full| String::from("too many reloads wait, or the server stops"))?;
    let answer = answers.recv_timeout(Duration::from_millis(OPERATOR_RELOAD_MS));
    answer.unwrap_or_else(|_none| {
        Err(String::from(
            "the result of the reload is not known yet; it will be in the log",
        ))
    })
}

fn ping(operated: &Operated) -> Surveyed {
    operated.ask(&Question::Ping, &operated.all_workers())
}

/// Lists all workers. `pinged` has the answers of those that have answered in time.
fn workers(pinged: &Surveyed, operated: &Operated) -> Vec<WorkerRow> {
    let answered_us = |worker| {
        let mut answers = pinged.answers.iter();
        let answer = answers.find(|answer| answer.worker == worker)?;
        Some(crate::time::micros(answer.took))
    };
    let all = operated.figures.workers.iter().zip(&operated.mailboxes);
    let rows = (0..)
        .zip(all)
        .map(|(worker, (metrics, mailbox))| WorkerRow {
            worker,
            answered_us: answered_us(worker),
            conns: metrics.conns_open.value(),
            subscriptions: metrics.subscribers.value(),
            inbox: mailbox.waiting() as u64,
            deliveries: metrics.deliveries.value(),
            sent_bytes: metrics.sent_bytes.value(),
            turns: metrics.turns.value(),
            turns_late: metrics.turns_late.value(),
            worked_us: metrics.turn_us.sum_us(),
        });
    rows.collect()
}

/// Collects the figures of `top`. Only workers that answer a ping are asked more, so that a stuck
/// worker delays the answer only once.
/// Returns the connections that are most behind, and then those with most unsent bytes. A client
/// that stops reading in the middle of a large publication is not behind, because the conn has
/// begun to send the newest publication.
fn laggards(answering: &[u16], operated: &Operated) -> Result<Vec<ConnRow>, String> {
    let limit = RowLimit::try_from(TOP_LAGGARDS).map_err(|error| error.to_string())?;
    let behind = ConnFilter {
        behind: Some(1),
        ..ConnFilter::default()
    };
    let unsent = ConnFilter {
        unsent: Some(1),
        ..ConnFilter::default()
    };
    let mut rows: Vec<ConnRow> = Vec::new();
    for (filter, sort) in [(behind, ConnSort::Behind), (unsent, ConnSort::Unsent)] {
        let request = ConnsRequest {
            filter,
            sort,
            limit,
        };
        for conn in conns(&request, answering, operated)?.conns {
            if !rows.iter().any(|row| row.connection == conn.connection) {
                rows.push(conn);
            }
        }
    }
    rows.truncate(TOP_LAGGARDS as usize);
    Ok(rows)
}

fn top(operated: &Operated) -> Result<TopAnswer, String> {
    let pinged = ping(operated);
    let answering = pinged.answered();
    let limit = |rows: u32| RowLimit::try_from(rows).map_err(|error| error.to_string());
    let busiest = ChannelsRequest {
        channel: None,
        sort: ChannelSort::Recent,
        limit: limit(TOP_CHANNELS)?,
    };
    let mut channels = channels(&busiest, &answering, operated)?.channels;
    channels.retain(|channel| channel.recent > 0);
    let figures = &operated.figures;
    let sum = |counter: fn(&WorkerMetrics) -> &Counter| {
        let values = figures.workers.iter().map(|one| counter(one).value());
        values.sum()
    };
    Ok(TopAnswer {
        version: String::from(env!("CARGO_PKG_VERSION")),
        uptime_ms: certain::to_u64(figures.up_since.elapsed().as_millis()),
        now_us: operated.clock.now().0,
        state: state(figures),
        websockets: sum(|one| &one.websocket_open),
        event_streams: sum(|one| &one.event_stream_open),
        polls: sum(|one| &one.long_poll_open),
        conns: sum(|one| &one.conns_open),
        conns_max: figures.conns_max(),
        accepted_total: sum(|one| &one.conns_accepted),
        refused_total: sum(|one| &one.requests_refused)
            + sum(|one| &one.conns_refused)
            + sum(|one| &one.conns_refused_memory)
            + sum(|one| &one.conns_refused_source_conns)
            + sum(|one| &one.conns_refused_source_rate)
            + sum(|one| &one.conns_refused_proxy),
        publications_total: figures.feed.logged.value(),
        deliveries_total: sum(|one| &one.deliveries),
        sent_bytes_total: sum(|one| &one.sent_bytes),
        skipped_total: sum(|one| &one.skipped),
        log_publications: figures.log.len(),
        log_bytes: figures.log.bytes(),
        log_bytes_max: figures.config.current().log.bytes,
        memory_bytes: resident_bytes().unwrap_or_default(),
        workers: workers(&pinged, operated),
        laggards: laggards(&answering, operated)?,
        channels,
        problems: operated
            .logs
            .problems()
            .into_iter()
            .map(problem_row)
            .collect(),
    })
}

fn problem_row(problem: LoggedProblem) -> ProblemRow {
    ProblemRow {
        unix_ms: problem.unix_ms,
        level: problem.level.to_string(),
        text: problem.text,
    }
}

fn state(figures: &FigureSources) -> String {
    let stage = match figures.readiness.stage() {
        ServerStage::Starting => "starting",
        ServerStage::Ready => "ready",
        ServerStage::Draining => "draining",
    };
    let reasons = figures.readiness.health().reasons();
    match reasons.is_empty() {
        true => String::from(stage),
        false => format!("{stage}; {}", reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::problem::Origin;

    fn key(name: &str, value: &str) -> EffectiveKey {
        EffectiveKey {
            key: name.to_owned(),
            value: value.to_owned(),
            source: Origin::Default,
            after_restart: None,
        }
    }

    #[test]
    fn level_of_an_operator_is_shown_until_a_restart() {
        let configured = key(LEVEL_KEY, "\"info\"");
        let row = key_row(&configured, Some("debug"));
        let shown = (row.value.as_str(), row.source.as_str());
        assert_eq!(shown, ("\"debug\"", "operator"));
        assert_eq!(row.after_restart.as_deref(), Some("\"info\""));
        for (key, level) in [
            (configured.clone(), Some("info")),
            (configured, None),
            (key("workers", "4"), Some("debug")),
        ] {
            let row = key_row(&key, level);
            let shown = (row.value.as_str(), row.source.as_str());
            assert_eq!(shown, (key.value.as_str(), "default"));
            assert_eq!(row.after_restart, None);
        }
    }
}
