//! Checks the ranges of single keys, and the relations between keys.
//!
//! PURE: this module lists all problems of a [`Config`], so that an operator can fix all of them at
//! the same time. Types are checked earlier. The module does not know the origin of a value: a
//! message names keys, and [`super::file`] adds the file and line.

use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt as _;

use super::limits::{
    CONTROL_PAYLOAD_BYTES_MAX, FEED_LINE_BYTES_MAX, LISTENERS_MAX, NAMESPACES_MAX,
    REQUEST_HEAD_BYTES_MAX, SUBJECT_PATTERNS_MAX, TOKEN_KEYS_MAX, WORKERS_MAX,
};
use super::{ClientAuth, Config, Listen, Logging, Namespace};
use crate::id::ChannelNameError;
use crate::pattern::{Pattern, subject};

/// The reason why a cookie or query parameter for tokens is refused if no key verifies tokens.
const NO_KEYS: &str = "has no effect without keys; set `auth.keys` or `auth.jwks`";

/// The maximum length of a Unix socket's path, in bytes: `sun_path` without its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The query parameters of the transports. The parameter for a token needs a different name.
const PARAMETERS: [&str; 8] = [
    "channel",
    "envelope",
    "last",
    "last_event_id",
    "lastEventId",
    "since",
    "timeout",
    "window",
];

const MIB: u64 = 1024 * 1024;
const HOUR_MS: u64 = 3_600_000;
/// The minimum of `log.pinned_bytes`: about the number of bytes that one turn writes to one conn.
const PINNED_BYTES_MIN: u64 = 65_536;

/// A key, its value and the values that are allowed.
type KeyRange = (&'static str, u64, RangeInclusive<u64>);

/// Returns the range of a key, if it has one.
pub(super) fn range_of(key: &str) -> Option<RangeInclusive<u64>> {
    let defaults = Config::default();
    let mut ranges = defaults.ranges();
    let found = ranges.find(|(with_range, ..)| *with_range == key);
    found.map(|(_, _, range)| range)
}

/// One problem of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The key with the problem, then the keys with which it must agree. The form is `section.key`,
    /// or `namespace[0].key` for a table in a list.
    pub keys: Vec<String>,
    /// The value, and the values that are allowed.
    pub message: String,
}

impl Invalid {
    /// Creates a problem of one key.
    #[must_use]
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Self {
            keys: vec![String::from(key)],
            message: message.into(),
        }
    }
}

impl Config {
    /// Checks every value and every relation between values.
    ///
    /// # Errors
    /// Returns all problems, in the order of the keys.
    pub fn validate(&self) -> Result<(), Vec<Invalid>> {
        let mut found = Vec::new();
        self.check_addresses(&mut found);
        self.check_tls(&mut found);
        self.check_auth(&mut found);
        self.check_browser(&mut found);
        self.check_feed(&mut found);
        self.check_paths(&mut found);
        self.check_ranges(&mut found);
        self.check_relations(&mut found);
        self.check_choices(&mut found);
        self.check_namespaces(&mut found);
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    /// Returns the access mode of the feed's socket, or `None` if the text is not an octal mode.
    #[must_use]
    pub fn feed_mode_bits(&self) -> Option<u32> {
        let is_octal = self.feed_mode.bytes().all(|b| matches!(b, b'0'..=b'7'));
        if !is_octal || !(3..=4).contains(&self.feed_mode.len()) {
            return None;
        }
        u32::from_str_radix(&self.feed_mode, 8)
            .ok()
            .filter(|mode| *mode <= 0o777)
    }

    fn check_addresses(&self, found: &mut Vec<Invalid>) {
        if self.listen.is_empty() {
            push(found, &["listen"], "is empty; name an address");
        }
        if self.listen.len() > LISTENERS_MAX {
            let count = self.listen.len();
            let message =
                format!("names {count} addresses, but at most {LISTENERS_MAX} are allowed");
            push(found, &["listen"], message);
        }
        let mut seen = Vec::with_capacity(self.listen.len());
        for Listen { address, .. } in &self.listen {
            // For port 0 the kernel chooses a free port, so port 0 may occur several times.
            if address.port() != 0 && seen.contains(&address) {
                push(found, &["listen"], format!("names {address} twice"));
            }
            seen.push(address);
        }
        if let Some(admin) = &self.admin
            && admin.port() != 0
            && seen.contains(&admin)
        {
            let message = format!("is {admin}, which is also an address of `listen`");
            push(found, &["admin", "listen"], message);
        }
    }

    fn check_tls(&self, found: &mut Vec<Invalid>) {
        let tls = &self.tls;
        let speaks_tls = self.listen.iter().any(|listen| listen.is_tls);
        if tls.certificates.len() != tls.keys.len() {
            let (certificates, keys) = (tls.certificates.len(), tls.keys.len());
            let message = format!(
                "has {certificates} files, but `tls.keys` has {keys}; each certificate needs a key"
            );
            push(found, &["tls.certificates", "tls.keys"], message);
        }
        if tls.self_signed && !tls.certificates.is_empty() {
            let message = "is true, but there are `tls.certificates`; use one or the other";
            push(found, &["tls.self_signed", "tls.certificates"], message);
        }
        if speaks_tls && !tls.has_certificates() {
            let message = "is empty, but `listen` has an address with TLS; name a certificate";
            push(found, &["tls.certificates", "listen"], message);
        }
        let has_authorities = !tls.client_authorities.as_os_str().is_empty();
        if has_authorities != (tls.client_auth != ClientAuth::Off) {
            let message = "and `tls.client_authorities` must be set together";
            push(
                found,
                &["tls.client_auth", "tls.client_authorities"],
                message,
            );
        }
    }

    fn check_auth(&self, found: &mut Vec<Invalid>) {
        let auth = &self.auth;
        if auth.keys.len() > TOKEN_KEYS_MAX {
            let count = auth.keys.len();
            let message = format!("names {count} files, but at most {TOKEN_KEYS_MAX} are allowed");
            push(found, &["auth.keys"], message);
        }
        for (key, value, others) in [
            ("auth.cookie", &auth.cookie, &[][..]),
            ("auth.query", &auth.query, &PARAMETERS[..]),
        ] {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            if !value.bytes().all(is_plain) {
                let message =
                    format!("is `{value}`, but may have only letters, digits and - . _ ~");
                push(found, &[key], message);
            } else if others.contains(&value.as_str()) {
                let message = format!("is `{value}`, which is already a parameter; choose another");
                push(found, &[key], message);
            }
        }
        if !auth.is_on() && !auth.query.is_empty() {
            push(found, &["auth.query", "auth.keys"], NO_KEYS);
        }
        if !auth.is_on() && !auth.cookie.is_empty() {
            push(found, &["auth.cookie", "auth.keys"], NO_KEYS);
        }
    }

    /// Checks the paths that the server may create. The configuration is printed and compared as
    /// TOML, which is UTF-8. In the value of a variable, other bytes were replaced before.
    fn check_paths(&self, found: &mut Vec<Invalid>) {
        for (key, path) in [("feed", &self.feed), ("journal.path", &self.journal.path)] {
            let is_utf_8 = path
                .to_str()
                .is_some_and(|text| !text.contains(char::REPLACEMENT_CHARACTER));
            if !is_utf_8 {
                push(found, &[key], format!("{} is not UTF-8", path.display()));
            }
        }
    }

    fn check_feed(&self, found: &mut Vec<Invalid>) {
        let bytes = self.feed.as_os_str().as_bytes().len();
        if bytes > SOCKET_PATH_BYTES_MAX {
            let message = format!(
                "has {bytes} bytes, but a socket's path has at most {SOCKET_PATH_BYTES_MAX}"
            );
            push(found, &["feed"], message);
        }
        if self.feed_mode_bits().is_none() {
            let message = format!(
                "`{}` is not an octal mode from \"000\" to \"0777\", such as \"0660\"",
                self.feed_mode
            );
            push(found, &["feed_mode"], message);
        }
    }

    fn check_ranges(&self, found: &mut Vec<Invalid>) {
        for (key, value, range) in self.ranges() {
            check_range(key, value, &range, found);
        }
    }

    /// Returns each key with a range, its value and the range.
    fn ranges(&self) -> impl Iterator<Item = KeyRange> {
        self.ranges_of_sizes()
            .into_iter()
            .chain(self.ranges_of_times_and_rates())
    }

    fn ranges_of_sizes(&self) -> [KeyRange; 17] {
        let (limits, quota, log) = (&self.limits, &self.quota, &self.log);
        [
            ("workers", self.workers.into(), 0..=WORKERS_MAX.into()),
            (
                "heartbeat.interval_ms",
                self.heartbeat.interval_ms,
                100..=HOUR_MS,
            ),
            (
                "limits.request_head_bytes",
                limits.request_head_bytes.into(),
                256..=REQUEST_HEAD_BYTES_MAX.into(),
            ),
            (
                "limits.request_head_ms",
                limits.request_head_ms,
                100..=600_000,
            ),
            (
                "limits.client_message_bytes",
                limits.client_message_bytes.into(),
                CONTROL_PAYLOAD_BYTES_MAX as u64..=64 * MIB,
            ),
            (
                "limits.feed_line_bytes",
                limits.feed_line_bytes.into(),
                128..=FEED_LINE_BYTES_MAX.into(),
            ),
            (
                "limits.channels_per_conn",
                limits.channels_per_conn.into(),
                1..=65_536,
            ),
            (
                "limits.poll_timeout_ms",
                limits.poll_timeout_ms,
                100..=HOUR_MS,
            ),
            ("quota.behind_bytes", quota.behind_bytes, 1..=u64::MAX),
            (
                "quota.behind_publications",
                quota.behind_publications,
                1..=u64::MAX,
            ),
            (
                "quota.write_bytes_per_turn",
                quota.write_bytes_per_turn.into(),
                4096..=64 * MIB,
            ),
            (
                "quota.send_buffer_bytes",
                quota.send_buffer_bytes.into(),
                4096..=64 * MIB,
            ),
            (
                "quota.notsent_lowat_bytes",
                quota.notsent_lowat_bytes.into(),
                1024..=64 * MIB,
            ),
            ("log.bytes", log.bytes, MIB..=u64::MAX),
            ("log.entries", log.entries, 1..=u64::from(u32::MAX)),
            ("log.age_ms", log.age_ms, 1..=24 * HOUR_MS),
            ("journal.bytes", self.journal.bytes, 64 * MIB..=u64::MAX),
        ]
    }

    fn ranges_of_times_and_rates(&self) -> [KeyRange; 8] {
        let (auth, drain, limits) = (&self.auth, &self.drain, &self.limits);
        let connects = limits.connects_per_second_per_source.into();
        let reconnects = drain.reconnects_per_second.into();
        [
            ("auth.deadline_ms", auth.deadline_ms, 100..=600_000),
            ("auth.leeway_ms", auth.leeway_ms, 0..=600_000),
            ("drain.reconnects_per_second", reconnects, 1..=1_000_000),
            ("drain.retry_ms", drain.retry_ms, 0..=HOUR_MS),
            ("drain.window_ms", drain.window_ms, 0..=600_000),
            // Zero means no limit.
            (
                "limits.connects_per_second_per_source",
                connects,
                0..=1_000_000,
            ),
            (
                "limits.first_subscribe_ms",
                limits.first_subscribe_ms,
                0..=HOUR_MS,
            ),
            ("tls.handshake_ms", self.tls.handshake_ms, 100..=600_000),
        ]
    }

    fn check_relations(&self, found: &mut Vec<Invalid>) {
        let (quota, log) = (&self.quota, &self.log);
        if quota.notsent_lowat_bytes > quota.send_buffer_bytes {
            let message = format!(
                "is {}, but must be at most quota.send_buffer_bytes, which is {}",
                quota.notsent_lowat_bytes, quota.send_buffer_bytes
            );
            let keys = &["quota.notsent_lowat_bytes", "quota.send_buffer_bytes"];
            push(found, keys, message);
        }
        if quota.behind_bytes > log.bytes {
            let message = format!(
                "is {}, but must be at most log.bytes, which is {}",
                quota.behind_bytes, log.bytes
            );
            push(found, &["quota.behind_bytes", "log.bytes"], message);
        }
        if (1..PINNED_BYTES_MIN).contains(&log.pinned_bytes) {
            let message = format!(
                "is {}, but must be at least {PINNED_BYTES_MIN}, or 0 for a quarter of log.bytes",
                log.pinned_bytes
            );
            push(found, &["log.pinned_bytes"], message);
        }
        if log.bytes < u64::from(self.limits.feed_line_bytes) {
            let message = format!(
                "is {}, but must hold the longest publication: limits.feed_line_bytes is {}",
                log.bytes, self.limits.feed_line_bytes
            );
            push(found, &["log.bytes", "limits.feed_line_bytes"], message);
        }
    }

    fn check_choices(&self, found: &mut Vec<Invalid>) {
        let level = self.logging.level.as_str();
        if !Logging::LEVELS.contains(&level) {
            let message = format!("is `{level}`, but must be error, warn, info or debug");
            push(found, &["logging.level"], message);
        }
        if let Err(error) = self.tracing.url() {
            let message = match self.tracing.shown_endpoint() {
                Some(endpoint) => format!("is `{endpoint}`, but {error}"),
                None => error.to_string(),
            };
            push(found, &["tracing.endpoint"], message);
        }
    }
}

impl Config {
    fn check_namespaces(&self, found: &mut Vec<Invalid>) {
        if self.namespace.len() > NAMESPACES_MAX {
            let count = self.namespace.len();
            let message = format!("there are {count}, but at most {NAMESPACES_MAX} are allowed");
            push(found, &["namespace"], message);
        }
        for (index, namespace) in self.namespace.iter().enumerate() {
            let key = |name: &str| format!("namespace[{index}].{name}");
            let pattern = namespace.pattern.as_str();
            let earlier = self.namespace.iter().take(index);
            if let Some(message) = check_pattern(namespace) {
                push(found, &[&key("match")], message);
            } else if earlier.into_iter().any(|other| other.pattern == pattern) {
                push(found, &[&key("match")], format!("names `{pattern}` twice"));
            }
            if namespace.anonymous_subscribe == Some(false) && !self.auth.is_on() {
                let message = "is false, but [auth] has no keys, so no client could subscribe";
                push(found, &[&key("anonymous_subscribe"), "auth.keys"], message);
            }
            self.check_subject_patterns(index, namespace, found);
            let log = &self.log;
            // A bound of a namespace that exceeds the global bound would have no effect.
            for (name, value, global, most) in [
                (
                    "log_entries",
                    namespace.log_entries,
                    "log.entries",
                    log.entries,
                ),
                ("log_bytes", namespace.log_bytes, "log.bytes", log.bytes),
                ("log_age_ms", namespace.log_age_ms, "log.age_ms", log.age_ms),
            ] {
                let Some(value) = value else { continue };
                if value == 0 {
                    push(found, &[&key(name)], "is 0, but must be at least 1");
                } else if value > most {
                    let message =
                        format!("is {value}, but must be at most {global}, which is {most}");
                    push(found, &[&key(name), global], message);
                }
            }
        }
    }
}

impl Config {
    fn check_subject_patterns(
        &self,
        index: usize,
        namespace: &Namespace,
        found: &mut Vec<Invalid>,
    ) {
        let lists = [
            ("subscribe", &namespace.subscribe),
            ("publish", &namespace.publish),
        ];
        for (name, patterns) in lists {
            let key = format!("namespace[{index}].{name}");
            let Some(patterns) = patterns else { continue };
            if !self.auth.is_on() {
                let message = "is for tokens, but [auth] has no keys, so every client is allowed";
                push(found, &[&key, "auth.keys"], message);
            }
            if patterns.len() > SUBJECT_PATTERNS_MAX {
                let count = patterns.len();
                let message = format!("has {count} patterns, at most {SUBJECT_PATTERNS_MAX}");
                push(found, &[&key], message);
            }
            for pattern in patterns {
                if let Err(error) = subject::check(pattern) {
                    push(found, &[&key], format!("has `{pattern}`: {error}"));
                } else if !subject::is_in(pattern, &namespace.pattern) {
                    let own = &namespace.pattern;
                    let message = format!("has `{pattern}`, which matches no channel of `{own}`");
                    push(found, &[&key], message);
                }
            }
        }
    }
}

fn check_range(key: &str, value: u64, range: &RangeInclusive<u64>, found: &mut Vec<Invalid>) {
    if range.contains(&value) {
        return;
    }
    let message = if *range.end() == u64::MAX {
        format!("is {value}, but must be at least {}", range.start())
    } else {
        format!(
            "is {value}, but must be from {} to {}",
            range.start(),
            range.end()
        )
    };
    push(found, &[key], message);
}

/// Returns the problem of a namespace's pattern, or `None` if the pattern is valid.
fn check_pattern(namespace: &Namespace) -> Option<String> {
    let pattern = namespace.pattern.as_str();
    match Pattern::new(pattern) {
        Ok(_) => None,
        Err(ChannelNameError::Empty) => Some(String::from("is empty; `*` matches every channel")),
        Err(error) => Some(format!("is `{pattern}`, which matches no channel: {error}")),
    }
}

pub(super) fn push(found: &mut Vec<Invalid>, keys: &[&str], message: impl Into<String>) {
    found.push(Invalid {
        keys: keys.iter().map(|key| String::from(*key)).collect(),
        message: message.into(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes the default configuration and validates it. Returns the first key that each problem
    /// names.
    fn wrong(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        let found = config.validate().err().unwrap_or_default();
        found
            .into_iter()
            .map(|mut invalid| invalid.keys.remove(0))
            .collect()
    }

    #[test]
    fn default_configuration_is_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn ranges_include_both_ends() {
        assert!(wrong(|c| c.heartbeat.interval_ms = 100).is_empty());
        assert!(wrong(|c| c.heartbeat.interval_ms = 3_600_000).is_empty());
        assert_eq!(
            wrong(|c| c.heartbeat.interval_ms = 99),
            ["heartbeat.interval_ms"]
        );
        assert_eq!(
            wrong(|c| c.heartbeat.interval_ms = 3_600_001),
            ["heartbeat.interval_ms"]
        );
        assert_eq!(wrong(|c| c.workers = 1025), ["workers"]);
        assert_eq!(
            wrong(|c| c.limits.request_head_bytes = 255),
            ["limits.request_head_bytes"]
        );
        assert_eq!(
            wrong(|c| c.limits.client_message_bytes = 124),
            ["limits.client_message_bytes"]
        );
        assert_eq!(
            wrong(|c| c.limits.channels_per_conn = 0),
            ["limits.channels_per_conn"]
        );
        assert_eq!(
            wrong(|c| c.limits.poll_timeout_ms = 99),
            ["limits.poll_timeout_ms"]
        );
        assert!(wrong(|c| c.limits.poll_timeout_ms = 3_600_000).is_empty());
        assert_eq!(
            wrong(|c| c.limits.connects_per_second_per_source = 1_000_001),
            ["limits.connects_per_second_per_source"]
        );
        assert_eq!(
            wrong(|c| c.limits.first_subscribe_ms = 3_600_001),
            ["limits.first_subscribe_ms"]
        );
        assert_eq!(wrong(|c| c.quota.behind_bytes = 0), ["quota.behind_bytes"]);
        assert_eq!(wrong(|c| c.log.entries = 0), ["log.entries"]);
        assert_eq!(wrong(|c| c.drain.window_ms = 600_001), ["drain.window_ms"]);
        assert_eq!(
            wrong(|c| c.drain.reconnects_per_second = 0),
            ["drain.reconnects_per_second"]
        );
    }

    #[test]
    fn relations_between_keys_are_checked() {
        assert_eq!(
            wrong(|c| c.quota.notsent_lowat_bytes = 65_537),
            ["quota.notsent_lowat_bytes"]
        );
        assert_eq!(
            wrong(|c| c.quota.behind_bytes = c.log.bytes + 1),
            ["quota.behind_bytes"]
        );
        for (bytes, is_wrong) in [(0, false), (1, true), (65_535, true), (65_536, false)] {
            let found = wrong(|c| c.log.pinned_bytes = bytes);
            assert_eq!(!found.is_empty(), is_wrong, "{bytes}: {found:?}");
        }
        assert_eq!(
            wrong(|c| {
                c.log.bytes = MIB;
                c.limits.feed_line_bytes = 2 * 1024 * 1024;
            }),
            ["log.bytes"]
        );
    }

    #[test]
    fn addresses_are_unique_and_not_empty() {
        assert_eq!(wrong(|c| c.listen.clear()), ["listen"]);
        assert_eq!(wrong(|c| c.listen.push(c.listen[0])), ["listen"]);
        assert_eq!(wrong(|c| c.admin = Some(c.listen[0].address)), ["admin"]);
        assert!(
            wrong(|c| {
                let any = "127.0.0.1:0".parse().unwrap();
                c.listen = vec![Listen::plain(any); 2];
                c.admin = Some(any);
            })
            .is_empty()
        );
    }

    #[test]
    fn tls_needs_a_key_for_each_certificate_and_a_certificate_for_a_tls_address() {
        let secured = |c: &mut Config| c.listen[0].is_tls = true;
        assert_eq!(wrong(secured), ["tls.certificates"]);
        assert_eq!(wrong(|c| c.tls.keys.push("k".into())), ["tls.certificates"]);
        assert_eq!(
            wrong(|c| c.tls.client_auth = ClientAuth::Required),
            ["tls.client_auth"]
        );
        assert_eq!(
            wrong(|c| c.tls.client_authorities = "a".into()),
            ["tls.client_auth"]
        );
        let whole = |c: &mut Config| {
            secured(c);
            c.tls.certificates.push("c".into());
            c.tls.keys.push("k".into());
        };
        assert!(wrong(whole).is_empty());
        let both = |c: &mut Config| {
            whole(c);
            c.tls.self_signed = true;
        };
        assert_eq!(wrong(both), ["tls.self_signed"]);
    }

    #[test]
    fn addresses_are_at_most_64() {
        let listen = |count: u16| {
            let port = |n| ([127, 0, 0, 1], 1000 + n).into();
            (0..count).map(|n| Listen::plain(port(n))).collect()
        };
        assert!(wrong(|c| c.listen = listen(64)).is_empty());
        assert_eq!(wrong(|c| c.listen = listen(65)), ["listen"]);
    }

    #[test]
    fn feed_mode_is_octal_without_special_bits() {
        for (text, bits) in [
            ("0660", Some(0o660)),
            ("777", Some(0o777)),
            ("1777", None),
            ("0668", None),
            ("+66", None),
            ("", None),
        ] {
            let config = Config {
                feed_mode: String::from(text),
                ..Config::default()
            };
            assert_eq!(config.feed_mode_bits(), bits, "{text}");
        }
        assert_eq!(wrong(|c| c.feed_mode.clear()), ["feed_mode"]);
    }

    #[test]
    fn path_is_utf_8() {
        let odd = || std::path::PathBuf::from(std::ffi::OsStr::from_bytes(b"/run/\xff"));
        assert_eq!(wrong(|c| c.feed = odd()), ["feed"]);
        assert_eq!(wrong(|c| c.journal.path = odd()), ["journal.path"]);
        assert_eq!(wrong(|c| c.feed = "/run/\u{fffd}".into()), ["feed"]);
    }

    #[test]
    fn feed_path_fits_a_socket_address() {
        assert!(wrong(|c| c.feed = "x".repeat(107).into()).is_empty());
        assert_eq!(wrong(|c| c.feed = "x".repeat(108).into()), ["feed"]);
    }

    #[test]
    fn unknown_level_is_refused() {
        assert_eq!(
            wrong(|c| c.tracing.endpoint = "https://a".into()),
            ["tracing.endpoint"]
        );
        assert_eq!(
            wrong(|c| c.logging.level = "loud".into()),
            ["logging.level"]
        );
    }

    #[test]
    fn all_problems_are_listed_at_once() {
        let found = wrong(|c| {
            c.workers = 9999;
            c.log.bytes = 0;
        });
        assert_eq!(
            found,
            ["workers", "log.bytes", "quota.behind_bytes", "log.bytes"]
        );
    }

    fn wrong_namespace(change: impl FnOnce(&mut Namespace)) -> Vec<String> {
        let mut namespace = Namespace {
            pattern: String::from("prices:*"),
            ..Namespace::default()
        };
        change(&mut namespace);
        wrong(|c| c.namespace.push(namespace))
    }

    #[test]
    fn cookie_and_parameter_of_a_token_have_valid_and_free_names() {
        let with = |change: fn(&mut Config)| {
            wrong(|c| {
                c.auth.jwks = "jwks.json".into();
                change(c);
            })
        };
        assert!(with(|c| c.auth.cookie = "id-1.x".into()).is_empty());
        assert!(with(|c| c.auth.query = "access_token".into()).is_empty());
        assert_eq!(with(|c| c.auth.cookie = "a b".into()), ["auth.cookie"]);
        assert_eq!(with(|c| c.auth.cookie = "a=b".into()), ["auth.cookie"]);
        assert_eq!(with(|c| c.auth.query = "since".into()), ["auth.query"]);
        assert_eq!(wrong(|c| c.auth.query = "t".into()), ["auth.query"]);
        assert_eq!(wrong(|c| c.auth.cookie = "t".into()), ["auth.cookie"]);
        let closed = |n: &mut Namespace| n.anonymous_subscribe = Some(false);
        assert_eq!(
            wrong_namespace(closed),
            ["namespace[0].anonymous_subscribe"]
        );
    }

    #[test]
    fn pattern_is_a_name_or_a_prefix_followed_by_one_star() {
        for good in ["*", "a", "a*", "prices:*", &"x".repeat(200)] {
            let found = wrong_namespace(|n| n.pattern = good.into());
            assert_eq!(found, [""; 0], "{good}");
        }
        for bad in [
            "",
            "**",
            "*a",
            "a*b",
            "a b",
            "a b*",
            "a\n*",
            &"x".repeat(201),
        ] {
            let found = wrong_namespace(|n| n.pattern = bad.into());
            assert_eq!(found, ["namespace[0].match"], "{bad}");
        }
    }

    #[test]
    fn patterns_with_a_subject_are_in_their_namespace_and_need_keys() {
        let with_keys = |subscribe: &[&str]| {
            wrong(|c| {
                c.auth.jwks = "jwks.json".into();
                c.namespace.push(Namespace {
                    pattern: "user:*".into(),
                    subscribe: Some(subscribe.iter().map(|one| String::from(*one)).collect()),
                    ..Namespace::default()
                });
            })
        };
        assert!(with_keys(&["user:{sub}", "user:*:{sub}", "{sub}"]).is_empty());
        for bad in ["user:{sub}*", "user:{name}", "chat:{sub}", ""] {
            assert_eq!(with_keys(&[bad]), ["namespace[0].subscribe"], "{bad}");
        }
        let many = ["user:{sub}"; SUBJECT_PATTERNS_MAX + 1];
        assert_eq!(with_keys(&many), ["namespace[0].subscribe"]);
        let publish = |n: &mut Namespace| n.publish = Some(vec!["*".into()]);
        assert_eq!(wrong_namespace(publish), ["namespace[0].publish"]);
    }

    #[test]
    fn bounds_of_a_namespace_are_from_one_to_the_global_bound() {
        assert!(wrong_namespace(|n| n.log_entries = Some(1)).is_empty());
        let whole_log = Config::default().log;
        assert!(wrong_namespace(|n| n.log_bytes = Some(whole_log.bytes)).is_empty());
        for found in [
            wrong_namespace(|n| n.log_entries = Some(0)),
            wrong_namespace(|n| n.log_entries = Some(whole_log.entries + 1)),
        ] {
            assert_eq!(found, ["namespace[0].log_entries"]);
        }
        let found = wrong_namespace(|n| n.log_age_ms = Some(whole_log.age_ms + 1));
        assert_eq!(found, ["namespace[0].log_age_ms"]);
        let found = wrong_namespace(|n| n.log_bytes = Some(whole_log.bytes + 1));
        assert_eq!(found, ["namespace[0].log_bytes"]);
    }

    #[test]
    fn patterns_are_unique_and_at_most_256() {
        let twice = wrong(|c| {
            for pattern in ["a", "a*", "a"] {
                c.namespace.push(Namespace {
                    pattern: pattern.into(),
                    ..Namespace::default()
                });
            }
        });
        assert_eq!(twice, ["namespace[2].match"]);
        let many = wrong(|c| {
            c.namespace = (0..=NAMESPACES_MAX)
                .map(|number| Namespace {
                    pattern: number.to_string(),
                    ..Namespace::default()
                })
                .collect();
        });
        assert_eq!(many, ["namespace"]);
    }
}
