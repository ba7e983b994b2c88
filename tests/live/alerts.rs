//! The alert rules and the dashboard of `systemd/`: Prometheus' own tool accepts and tests them,
//! and they name only metrics that the server has. The guide has a remedy for each alert.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fanfare::guide::page;

use crate::support::{Raw, Server};

/// The labels that Prometheus adds to each series.
const TARGET: &str = "job=\"fanfare\",instance=\"a\"";

/// An alert, and half an hour of series for it.
struct Case {
    alert: &'static str,
    /// Each series has a name with further labels, and its values in the notation of `promtool`:
    /// one value a minute.
    series: &'static [(&'static str, &'static str)],
}

/// Series that make an alert fire and no other.
const CASES: &[Case] = &[
    case("FanfareDown", &[("up", "0+0x30")]),
    case(
        "FanfareRestarts",
        &[("process_start_time_seconds", "0+60x30")],
    ),
    case(
        "FanfareJournalFailing",
        &[("fanfare_journal_failing", "1+0x30")],
    ),
    case(
        "FanfareJournalSyncFailed",
        &[(
            "fanfare_journal_errors_total{step=\"sync\"",
            "0+0x20 1+0x10",
        )],
    ),
    case(
        "FanfareJournalSlow",
        &[
            (
                "fanfare_journal_commit_seconds_bucket{le=\"1.048576\"",
                "0+0x30",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"2.097152\"",
                "0+9x30",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"+Inf\"",
                "0+9x30",
            ),
        ],
    ),
    case(
        "FanfareConnectionsRefused",
        &[("fanfare_conns_refused_total{limit=\"memory\"", "0+1x30")],
    ),
    case(
        "FanfareConnectionsRefused",
        &[("fanfare_descriptors_exhausted_total", "0+1x30")],
    ),
    case(
        "FanfareConnectionsNearLimit",
        &[
            ("fanfare_conns", "95+0x30"),
            ("fanfare_conns_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareDescriptorsNearLimit",
        &[
            ("process_open_fds", "950+0x30"),
            ("process_max_fds", "1000+0x30"),
        ],
    ),
    case(
        "FanfareSubscriptionsRefused",
        &[("fanfare_subscriptions_refused_total", "0+1x30")],
    ),
    case(
        "FanfareChannelsNearLimit",
        &[
            ("fanfare_channels", "95+0x30"),
            ("fanfare_channels_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareMemoryNearLimit",
        &[
            ("fanfare_memory_bytes", "95+0x30"),
            ("fanfare_memory_limit_bytes", "100+0x30"),
        ],
    ),
    case(
        "FanfarePublicationsSkipped",
        &[
            ("fanfare_publications_skipped_total", "0+2x30"),
            ("fanfare_deliveries_total", "0+98x30"),
        ],
    ),
    case(
        "FanfareDeliverySlow",
        &[
            ("fanfare_fanout_seconds_bucket{le=\"1.048576\"", "0+1x30"),
            ("fanfare_fanout_seconds_bucket{le=\"2.097152\"", "0+9x30"),
            ("fanfare_fanout_seconds_bucket{le=\"+Inf\"", "0+9x30"),
        ],
    ),
    case(
        "FanfareWorkersLate",
        &[("fanfare_turns_late_total", "0+60x30")],
    ),
    case(
        "FanfareWorkersBusy",
        &[
            ("fanfare_turn_seconds_sum", "0+57x30"),
            ("fanfare_turn_wait_seconds_sum", "0+3x30"),
        ],
    ),
    case(
        "FanfareFeedErrors",
        &[("fanfare_feed_errors_total", "0+1x30")],
    ),
    case(
        "FanfareFeedersRefused",
        &[("fanfare_feeders_refused_total", "0+1x30")],
    ),
    case(
        "FanfareFeedersRefused",
        &[
            ("fanfare_feeders", "1000+0x30"),
            ("fanfare_feeders_limit", "1024+0x30"),
        ],
    ),
    case(
        "FanfareConsumersBehind",
        &[("fanfare_feed_notices_lost_total", "0+1x30")],
    ),
    case(
        "FanfareCertificateExpires",
        // The tool's clock begins at zero. The certificate expires after ten days.
        &[(
            "fanfare_certificate_expiry_timestamp_seconds{certificate=\"c\"",
            "864000+0x30",
        )],
    ),
    case(
        "FanfareReloadFailed",
        &[("fanfare_reload_failed", "1+0x30")],
    ),
    case(
        "FanfareLogLinesDropped",
        &[("fanfare_log_lines_dropped_total", "0+1x30")],
    ),
];

/// Series that come close to an alert without making it fire: a value at the threshold, a cause
/// that has not lasted long enough, or a counter that has not changed for long.
const NEAR_MISSES: &[Case] = &[
    case(
        "FanfareJournalSlow",
        &[
            (
                "fanfare_journal_commit_seconds_bucket{le=\"1.048576\"",
                "0+0x30",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"2.097152\"",
                "0+0x20 9+9x9",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"+Inf\"",
                "0+0x20 9+9x9",
            ),
        ],
    ),
    case(
        "FanfareDeliverySlow",
        &[
            ("fanfare_fanout_seconds_bucket{le=\"1.048576\"", "0+0x30"),
            (
                "fanfare_fanout_seconds_bucket{le=\"2.097152\"",
                "0+0x25 9+9x4",
            ),
            ("fanfare_fanout_seconds_bucket{le=\"+Inf\"", "0+0x25 9+9x4"),
        ],
    ),
    case(
        "FanfarePublicationsSkipped",
        &[
            ("fanfare_publications_skipped_total", "0+0x20 2+2x9"),
            ("fanfare_deliveries_total", "0+0x20 98+98x9"),
        ],
    ),
    case(
        "FanfareWorkersBusy",
        &[
            ("fanfare_turn_seconds_sum", "0+0x20 57+57x9"),
            ("fanfare_turn_wait_seconds_sum", "0+0x20 3+3x9"),
        ],
    ),
    case("FanfareDown", &[("up", "1+0x29 0+0x1")]),
    case(
        "FanfareRestarts",
        &[("process_start_time_seconds", "0+0x20 60+0x4 120+0x10")],
    ),
    case(
        "FanfareJournalFailing",
        &[("fanfare_journal_failing", "0+0x29 1+0x1")],
    ),
    case(
        "FanfareJournalSyncFailed",
        &[("fanfare_journal_errors_total{step=\"sync\"", "5+0x30")],
    ),
    case(
        "FanfareJournalSyncFailed",
        &[("fanfare_journal_errors_total{step=\"write\"", "0+1x30")],
    ),
    case(
        "FanfareJournalSlow",
        &[
            (
                "fanfare_journal_commit_seconds_bucket{le=\"0.524288\"",
                "0+90x30",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"1.048576\"",
                "0+100x30",
            ),
            (
                "fanfare_journal_commit_seconds_bucket{le=\"+Inf\"",
                "0+100x30",
            ),
        ],
    ),
    case(
        "FanfareConnectionsRefused",
        &[
            ("fanfare_conns_refused_total{limit=\"memory\"", "5+0x30"),
            ("fanfare_descriptors_exhausted_total", "5+0x30"),
        ],
    ),
    case(
        "FanfareConnectionsRefused",
        &[(
            "fanfare_conns_refused_total{limit=\"conns_per_source\"",
            "0+1x30",
        )],
    ),
    case(
        "FanfareConnectionsNearLimit",
        &[
            ("fanfare_conns", "90+0x30"),
            ("fanfare_conns_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareConnectionsNearLimit",
        &[
            ("fanfare_conns", "90+0x25 95+0x5"),
            ("fanfare_conns_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareDescriptorsNearLimit",
        &[
            ("process_open_fds", "900+0x30"),
            ("process_max_fds", "1000+0x30"),
        ],
    ),
    case(
        "FanfareDescriptorsNearLimit",
        &[
            ("process_open_fds", "900+0x25 950+0x5"),
            ("process_max_fds", "1000+0x30"),
        ],
    ),
    case(
        "FanfareSubscriptionsRefused",
        &[("fanfare_subscriptions_refused_total", "5+0x30")],
    ),
    case(
        "FanfareChannelsNearLimit",
        &[
            ("fanfare_channels", "90+0x30"),
            ("fanfare_channels_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareChannelsNearLimit",
        &[
            ("fanfare_channels", "90+0x25 95+0x5"),
            ("fanfare_channels_limit", "100+0x30"),
        ],
    ),
    case(
        "FanfareChannelsNearLimit",
        &[
            ("fanfare_channels", "95+0x30"),
            ("fanfare_channels_limit", "0+0x30"),
        ],
    ),
    case(
        "FanfareMemoryNearLimit",
        &[
            ("fanfare_memory_bytes", "90+0x30"),
            ("fanfare_memory_limit_bytes", "100+0x30"),
        ],
    ),
    case(
        "FanfareMemoryNearLimit",
        &[
            ("fanfare_memory_bytes", "90+0x25 95+0x5"),
            ("fanfare_memory_limit_bytes", "100+0x30"),
        ],
    ),
    case(
        "FanfareMemoryNearLimit",
        &[
            ("fanfare_memory_bytes", "95+0x30"),
            ("fanfare_memory_limit_bytes", "0+0x30"),
        ],
    ),
    case(
        "FanfarePublicationsSkipped",
        &[
            ("fanfare_publications_skipped_total", "0+9x30"),
            ("fanfare_deliveries_total", "0+991x30"),
        ],
    ),
    case(
        "FanfareDeliverySlow",
        &[
            ("fanfare_fanout_seconds_bucket{le=\"0.524288\"", "0+90x30"),
            ("fanfare_fanout_seconds_bucket{le=\"1.048576\"", "0+100x30"),
            ("fanfare_fanout_seconds_bucket{le=\"+Inf\"", "0+100x30"),
        ],
    ),
    case(
        "FanfareWorkersLate",
        &[("fanfare_turns_late_total", "0+5x30")],
    ),
    case(
        "FanfareWorkersLate",
        &[("fanfare_turns_late_total", "0+0x25 60+60x4")],
    ),
    case(
        "FanfareWorkersBusy",
        &[
            ("fanfare_turn_seconds_sum", "0+53x30"),
            ("fanfare_turn_wait_seconds_sum", "0+6x30"),
        ],
    ),
    case(
        "FanfareFeedErrors",
        &[("fanfare_feed_errors_total", "0+0x25 1+0x4")],
    ),
    case(
        "FanfareFeedersRefused",
        &[
            ("fanfare_feeders_refused_total", "5+0x30"),
            ("fanfare_feeders", "921+0x30"),
            ("fanfare_feeders_limit", "1024+0x30"),
        ],
    ),
    case(
        "FanfareConsumersBehind",
        &[
            ("fanfare_feed_notices_lost_total", "5+0x30"),
            ("fanfare_feed_consumers_cut_off_total", "5+0x30"),
        ],
    ),
    case(
        "FanfareCertificateExpires",
        // The tool's clock is at 1,800 s. The certificate expires after exactly 14 days.
        &[(
            "fanfare_certificate_expiry_timestamp_seconds{certificate=\"c\"",
            "1211400+0x30",
        )],
    ),
    case(
        "FanfareReloadFailed",
        &[("fanfare_reload_failed", "0+0x30")],
    ),
    case(
        "FanfareLogLinesDropped",
        &[("fanfare_log_lines_dropped_total", "5+0x30")],
    ),
];

const fn case(alert: &'static str, series: &'static [(&'static str, &'static str)]) -> Case {
    Case { alert, series }
}

fn systemd(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd")
        .join(name)
}

/// Runs `promtool` and fails unless it succeeds.
fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool is missing: run tests/run");
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
}

/// Returns a server that has every optional metric.
fn complete_server(folder: &Path) -> Server {
    let config = format!(
        "[journal]\npath = {:?}\n[tls]\nself_signed = true\n[limits]\nconns_per_source = 100\n",
        folder.join("journal")
    );
    Server::with(&config, &["--listen", "127.0.0.1:0 tls"])
}

/// Returns the samples of `/metrics`: each series, and its value.
fn samples(server: &Server) -> Vec<(String, String)> {
    let page = Raw::get(server.admin, "/metrics");
    let lines = page.body_text().lines().filter(|l| !l.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.to_owned())
    };
    lines.map(sample).collect()
}

/// Returns a series as the tool reads it. `series` is a name, or a name with labels.
fn with_target(series: &str) -> String {
    let series = series.trim_end_matches('}');
    let sign = if series.contains('{') { ',' } else { '{' };
    format!("{series}{sign}{TARGET}}}")
}

impl Case {
    fn series(&self) -> impl Iterator<Item = (String, String)> {
        let series = self.series.iter();
        series.map(|(name, values)| ((*name).to_owned(), (*values).to_owned()))
    }
}

/// Appends a test that expects exactly one alert, or none.
fn push_test(
    series: impl Iterator<Item = (String, String)>,
    alert: Option<&str>,
    text: &mut String,
) {
    text.push_str("  - interval: 1m\n    input_series:\n");
    for (series, values) in series {
        let series = with_target(&series);
        writeln!(
            text,
            "      - series: '{series}'\n        values: '{values}'"
        )
        .unwrap();
    }
    text.push_str(
        "    promql_expr_test:\n\
        \x20     - expr: count by (alertname) (ALERTS{alertstate=\"firing\"})\n\
        \x20       eval_time: 30m\n",
    );
    if let Some(alert) = alert {
        let labels = format!("{{alertname=\"{alert}\"}}");
        writeln!(
            text,
            "        exp_samples: [{{labels: '{labels}', value: 1}}]"
        )
        .unwrap();
    }
}

fn alerts() -> BTreeSet<String> {
    let rules = fs::read_to_string(systemd("alerts.yml")).unwrap();
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn each_alert_fires_for_its_cause_and_none_for_a_healthy_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = complete_server(folder.path());
    promtool(&["check", "rules"], &systemd("alerts.yml"));
    let mut text = format!("rule_files: [{:?}]\ntests:\n", systemd("alerts.yml"));
    for case in CASES {
        push_test(case.series(), Some(case.alert), &mut text);
    }
    let healthy = samples(&server);
    let healthy = healthy
        .iter()
        .map(|(series, value)| (series.clone(), format!("{value}+0x30")));
    let up = std::iter::once(("up".to_owned(), "1+0x30".to_owned()));
    push_test(healthy.chain(up), None, &mut text);
    let file = folder.path().join("tests.yml");
    fs::write(&file, text).unwrap();
    promtool(&["test", "rules"], &file);
    let tested: BTreeSet<String> = CASES.iter().map(|case| case.alert.to_owned()).collect();
    assert_eq!(tested, alerts());
}

#[test]
fn no_alert_fires_just_below_its_threshold() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tests.yml");
    let mut text = format!("rule_files: [{:?}]\ntests:\n", systemd("alerts.yml"));
    for case in NEAR_MISSES {
        push_test(case.series(), None, &mut text);
    }
    fs::write(&file, text).unwrap();
    promtool(&["test", "rules"], &file);
    let tested: BTreeSet<String> = NEAR_MISSES.iter().map(|c| c.alert.to_owned()).collect();
    assert_eq!(tested, alerts());
}

#[test]
fn each_alert_has_a_remedy_in_the_guide() {
    let text = page("troubleshooting").unwrap().text;
    let (_, section) = text.split_once("\n## Alerts\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `Fanfare"));
    let listed: Vec<String> = rows
        .map(|row| format!("Fanfare{}", row.split('`').next().unwrap()))
        .collect();
    assert_eq!(BTreeSet::from_iter(listed.clone()), alerts());
    assert_eq!(listed.len(), alerts().len(), "an alert is listed twice");
}

/// Returns all expressions of the dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value.as_str()) {
                    ("expr", Some(text)) => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|one| expressions(one, found)),
        _ => {}
    }
}

#[test]
fn expressions_of_the_dashboard_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let dashboard = fs::read(systemd("dashboard.json")).unwrap();
    let mut found = Vec::new();
    expressions(&serde_json::from_slice(&dashboard).unwrap(), &mut found);
    assert!(found.len() > 30, "{}", found.len());
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (index, expression) in found.iter().enumerate() {
        let expression = expression.replace("$__rate_interval", "5m");
        assert!(!expression.contains("$__"), "{expression}");
        let expression = serde_json::to_string(&expression).unwrap();
        writeln!(
            rules,
            "      - record: panel:{index}\n        expr: {expression}"
        )
        .unwrap();
    }
    let file = folder.path().join("dashboard.yml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules"], &file);
}

#[test]
fn rules_and_dashboard_name_only_metrics_that_the_server_has() {
    let folder = tempfile::tempdir().unwrap();
    let server = complete_server(folder.path());
    let samples = samples(&server);
    let names: BTreeSet<&str> = samples
        .iter()
        .map(|(series, _)| series.split('{').next().unwrap())
        .collect();
    for file in ["alerts.yml", "dashboard.json"] {
        let text = fs::read_to_string(systemd(file)).unwrap();
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let words =
            words.filter(|word| word.starts_with("fanfare_") || word.starts_with("process_"));
        for word in words {
            assert!(
                names.contains(word),
                "{file} names {word}, which the server does not have"
            );
        }
    }
}
