//! Tests how files, the environment and flags are loaded, and which origins errors name.

use super::*;
use crate::config::{LogFormat, Overflow};

const EXAMPLE: &str = include_str!("../../../systemd/fanfare.toml");

fn problems(text: &str) -> Vec<String> {
    match parse(text, "fanfare.toml") {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(String::from).collect(),
    }
}

fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    pairs
        .iter()
        .map(|(name, value)| (String::from(*name), String::from(*value)))
        .collect::<Vec<_>>()
        .into_iter()
}

fn load_environment(pairs: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    load(None, environment(pairs), &Overrides::default())
}

#[test]
fn empty_file_is_the_default() {
    assert_eq!(parse("", "x").unwrap(), Config::default());
}

#[test]
fn example_file_is_the_default_and_has_every_key() {
    let config = parse(EXAMPLE, "fanfare.toml").unwrap();
    let expected = Config {
        feed: PathBuf::from("/run/fanfare/feed.sock"),
        ..Config::default()
    };
    assert_eq!(config, expected);
    let named: Table = EXAMPLE.parse().unwrap();
    let defaults = Table::try_from(Config::default()).unwrap();
    let names =
        |table: &Table| -> Vec<String> { keys(table).into_iter().map(|(key, _)| key).collect() };
    assert_eq!(names(&named), names(&defaults));
}

#[test]
fn example_file_has_the_environment_name_of_a_key() {
    assert!(EXAMPLE.contains(&environment_name("heartbeat.interval_ms")));
}

#[test]
fn unknown_keys_are_errors_with_line_and_key() {
    assert_eq!(
        problems("workers = 1\n\n[drain]\nwindow = 3\n"),
        [
            "fanfare.toml:4: drain.window: unknown key; [drain] has reconnects_per_second, retry_ms, window_ms"
        ]
    );
    assert!(problems("colour = 1\n")[0].starts_with("fanfare.toml:1: colour: unknown key;"));
    assert!(problems("\n[colour]\nred = 1\n")[0].starts_with(
        "fanfare.toml:2: colour: unknown section; there are [auth], [browser], [deflate]"
    ));
    assert!(problems("drain.window = 3")[0].starts_with("fanfare.toml:1: drain.window: unknown"));
}

#[test]
fn wrong_types_are_errors_with_line_and_key() {
    let found = problems("workers = \"two\"\n[heartbeat]\ninterval_ms = -1\n");
    assert_eq!(
        found,
        [
            "fanfare.toml:3: heartbeat.interval_ms: is -1, but must be a whole number from 100 to \
             3600000",
            "fanfare.toml:1: workers: is \"two\", but must be a whole number from 0 to 1024",
        ]
    );
    assert_eq!(
        problems("heartbeat = 3"),
        ["fanfare.toml:1: heartbeat: is a section, not a value"]
    );
    assert!(problems("[workers]\nx = 1")[0].starts_with("fanfare.toml:1: workers: "));
    assert!(problems("[[drain]]\nwindow_ms = 1")[0].starts_with("fanfare.toml:1: drain: "));
}

#[test]
fn wrong_types_are_described_in_plain_words() {
    for (text, message) in [
        (
            "[log]\nbytes = 1.5",
            "log.bytes: is 1.5, but must be a whole number of at least 1048576",
        ),
        (
            "[limits]\nconns = 5000000000",
            "limits.conns: is 5000000000, but must be a whole number from 0 to 4294967295",
        ),
        (
            "[limits]\nmemory_bytes = \"1G\"",
            "limits.memory_bytes: is \"1G\", but must be a whole number of at least 0",
        ),
        (
            "page = \"no\"",
            "page: is \"no\", but must be true or false",
        ),
        ("feed = 3", "feed: is 3, but must be a text in quotes"),
        (
            "feed_mode = 660",
            "feed_mode: is 660, but must be a text in quotes",
        ),
        (
            "listen = 8080",
            "listen: is 8080, but must be a list, such as [\"a\", \"b\"]",
        ),
        (
            "listen = [8080]",
            "listen: is [8080], but each entry must be an address such as \"127.0.0.1:8080\" or \
             { address = \"…\", tls = true }",
        ),
        (
            "[auth]\nkeys = [1]",
            "auth.keys: is [1], but each entry must be a text in quotes",
        ),
        (
            "[[namespace]]\nmatch = \"a\"\nlog_entries = -1",
            "namespace[0].log_entries: is -1, but must be a whole number of at least 1",
        ),
        (
            "[[namespace]]\nmatch = \"a\"\nclient_presence = 1",
            "namespace[0].client_presence: is 1, but must be true or false",
        ),
    ] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(message), "{text}: {found:?}");
    }
}

#[test]
fn no_message_has_a_type_of_the_programming_language() {
    let defaults = Table::try_from(Config::default()).unwrap();
    let wrong = [
        Value::Boolean(true),
        Value::Integer(-1),
        Value::Float(0.5),
        Value::String(String::from("?")),
        Value::Array(vec![Value::Integer(7)]),
    ];
    for (key, _) in keys(&defaults) {
        for value in &wrong {
            let mut draft = Draft::new();
            draft.take_value(&key, value.clone(), Origin::Default);
            let message = draft.problems.pop().map(|problem| problem.message);
            let message = message.unwrap_or_default();
            for word in [
                "expected",
                "u64",
                "u32",
                "f64",
                "sequence",
                "invalid type",
                "variant",
            ] {
                assert!(!message.contains(word), "{key} = {value}: {message}");
            }
        }
    }
}

#[test]
fn values_of_wrong_type_do_not_hide_values_out_of_range() {
    let text = "workers = \"two\"\n[heartbeat]\ninterval_ms = 5\n[log]\nbytes = 5\n\
                [quota]\nsend_buffer_bytes = 8192\n";
    let found = problems(text);
    let starts = [
        "fanfare.toml:1: workers: is \"two\"",
        "fanfare.toml:3: heartbeat.interval_ms: is 5",
        "fanfare.toml:5: log.bytes: is 5, but must be at least 1048576",
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (line, start) in found.iter().zip(starts) {
        assert!(line.starts_with(start), "{found:?}");
    }
    // The second namespace is the first one that was parsed.
    let text = "[[namespace]]\nlog_entries = 3\n[[namespace]]\nmatch = \"b\"\nlog_age_ms = 0\n";
    assert_eq!(problems(text).len(), 1, "{:?}", problems(text));
}

#[test]
fn values_out_of_range_are_errors_with_line_and_key() {
    assert_eq!(
        problems("[log]\nbytes = 5\n[quota]\nbehind_bytes = 3\n"),
        [
            "fanfare.toml:2: log.bytes: is 5, but must be at least 1048576",
            "fanfare.toml:2: log.bytes: is 5, but must hold the longest publication: \
             limits.feed_line_bytes is 1048576"
        ]
    );
}

#[test]
fn relation_is_reported_at_the_key_that_is_set() {
    let found = problems("[limits]\nfeed_line_bytes = 60000000\n[log]\nage_ms = 5\n");
    assert!(found.is_empty(), "{found:?}");
    let found = problems("\n\n[quota]\nsend_buffer_bytes = 8192\n");
    assert_eq!(
        found,
        [
            "fanfare.toml:4: quota.notsent_lowat_bytes: is 16384, but must be at most \
          quota.send_buffer_bytes, which is 8192"
        ]
    );
}

#[test]
fn namespaces_are_read_in_their_order() {
    let text = "[[namespace]]\nmatch = \"prices:*\"\nlog_entries = 1\n\
                [[namespace]]\nmatch = \"chat\"\noverflow = \"close\"\n";
    let config = parse(text, "x").unwrap();
    let [prices, chat] = config.namespace.as_slice() else {
        panic!("{:?}", config.namespace)
    };
    assert_eq!(prices.pattern, "prices:*");
    assert_eq!((prices.log_entries, prices.overflow), (Some(1), None));
    assert_eq!(chat.overflow, Some(Overflow::Close));
    assert_eq!(parse("namespace = []", "x").unwrap(), Config::default());
}

#[test]
fn problems_of_a_namespace_have_their_line_and_key() {
    let text = "[[namespace]]\nmatch = \"a*\"\ncolour = 1\n\
                [[namespace]]\nlog_entries = 3\n\
                [[namespace]]\nmatch = \"b*\"\nlog_entries = \"many\"\n";
    let found = problems(text);
    assert_eq!(
        found[..2],
        [
            "fanfare.toml:3: namespace[0].colour: unknown key; [[namespace]] has match, \
             log_entries, log_bytes, log_age_ms, overflow, client_publish, client_presence, \
                 anonymous_subscribe, subscribe, publish",
            "fanfare.toml:4: namespace[1]: has no `match`; name its channels",
        ]
    );
    assert!(found[2].starts_with("fanfare.toml:8: namespace[2].log_entries: is \"many\", but"));
    let text = "[[namespace]]\nmatch = \"a*\"\n\n[[namespace]]\nlog_age_ms = 0\nmatch = \"a*\"\n";
    assert_eq!(
        problems(text),
        [
            "fanfare.toml:6: namespace[1].match: names `a*` twice",
            "fanfare.toml:5: namespace[1].log_age_ms: is 0, but must be at least 1"
        ]
    );
    for text in [
        "namespace = 3",
        "namespace = [3]",
        "[namespace]\nmatch = \"a\"",
    ] {
        let found = problems(text);
        assert!(
            found[0].starts_with("fanfare.toml:1: namespace: must be a list"),
            "{found:?}"
        );
    }
}

#[test]
fn syntax_error_has_its_line() {
    let found = problems("workers = 1\nlisten = [\n");
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("fanfare.toml:"), "{found:?}");
    assert!(problems("a = 1\na = 2\n")[0].starts_with("fanfare.toml:2: "));
}

#[test]
fn unknown_policy_is_an_error_that_lists_the_policies() {
    assert_eq!(
        problems("[quota]\noverflow = \"drop\"\n"),
        [
            "fanfare.toml:2: quota.overflow: `drop` is not a policy; choose `skip`, `conflate` \
             or `close`"
        ]
    );
    let config = parse("[quota]\noverflow = \"conflate\"\n", "x").unwrap();
    assert_eq!(config.quota.overflow, Overflow::Conflate);
}

#[test]
fn environment_reaches_every_type_of_key() {
    let loaded = load_environment(&[
        ("FANFARE_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("FANFARE_FEED", "/tmp/f.sock"),
        ("FANFARE_ADMIN", "off"),
        ("FANFARE_PAGE", "false"),
        ("FANFARE_HEARTBEAT_INTERVAL_MS", "1500"),
        ("FANFARE_QUOTA_OVERFLOW", "close"),
        ("FANFARE_LOGGING_FORMAT", "json"),
        ("HOME", "/"),
    ])
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.listen.len(), 2);
    assert_eq!(config.feed, PathBuf::from("/tmp/f.sock"));
    assert_eq!(config.admin, None);
    assert!(!config.page);
    assert_eq!(config.heartbeat.interval_ms, 1500);
    assert_eq!(config.quota.overflow, Overflow::Close);
    assert_eq!(config.logging.format, LogFormat::Json);
    assert!(loaded.warnings.is_empty());
}

#[test]
fn empty_variables_count_as_unset() {
    let defaults = Table::try_from(Config::default()).unwrap();
    let names: Vec<String> = keys(&defaults)
        .iter()
        .map(|(key, _)| environment_name(key))
        .collect();
    let mut empty: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    empty.push(("FANFARE_NO_KEY", ""));
    let loaded = load_environment(&empty).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn environment_error_names_the_variable() {
    let error = load_environment(&[("FANFARE_WORKERS", "many")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "FANFARE_WORKERS: workers: is `many`, but must be a whole number from 0 to 1024"
    );
    let error = load_environment(&[("FANFARE_LOG_AGE_MS", "0")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("FANFARE_LOG_AGE_MS: log.age_ms: is 0")
    );
}

#[test]
fn misspelt_variables_are_warnings_and_other_programs_variables_are_not() {
    let loaded = load_environment(&[
        ("FANFARE_HEARTBEAT_INTERVALL_MS", "1"),
        ("FANFARE_CONFIG", "x"),
        ("FANFARE_SIM_SEED", "1"),
    ])
    .unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].starts_with("FANFARE_HEARTBEAT_INTERVALL_MS: "));
    assert_eq!(loaded.config, Config::default());
}

#[test]
fn environment_names_are_one_to_one_with_keys() {
    let defaults = Table::try_from(Config::default()).unwrap();
    let all = keys(&defaults);
    let names: BTreeSet<String> = all.iter().map(|(key, _)| environment_name(key)).collect();
    assert_eq!(names.len(), all.len());
}

#[test]
fn flag_precedes_environment_precedes_file_precedes_default() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fanfare.toml");
    std::fs::write(
        &path,
        "workers = 2\nfeed_mode = \"0600\"\n[drain]\nretry_ms = 5\n",
    )
    .unwrap();
    let flags = Overrides {
        workers: Some(4),
        admin: Some(String::new()),
        log: Some(String::from("debug")),
        ..Overrides::default()
    };
    let variables = environment(&[("FANFARE_WORKERS", "3"), ("FANFARE_FEED_MODE", "0640")]);
    let config = load(Some(&path), variables, &flags).unwrap().config;
    assert_eq!(config.workers, 4);
    assert_eq!(config.feed_mode, "0640");
    assert_eq!(config.drain.retry_ms, 5);
    assert_eq!(config.drain.window_ms, 10_000);
    assert_eq!(config.admin, None);
    assert_eq!(config.logging.level, "debug");
}

#[test]
fn flag_error_names_the_flag() {
    let flags = Overrides {
        log: Some(String::from("loud")),
        admin: Some(String::from("here")),
        ..Overrides::default()
    };
    let error = load(None, environment(&[]), &flags)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--admin: admin: `here` is neither an address"),
        "{error}"
    );
}

#[test]
fn syntax_error_names_the_line_and_the_key_if_there_is_one() {
    for (text, place) in [
        ("workers = \n", "f:1: workers: "),
        ("page = yes\n", "f:1: page: "),
        (
            "[log]\n[heartbeat]\ninterval_ms = oops\n",
            "f:3: heartbeat.interval_ms: ",
        ),
        ("[[namespace]]\nmatch = a\n", "f:2: namespace.match: "),
        ("[log\n", "f:1: "),
        ("\n\"a\u{e9}\" = [\n", "f:"),
    ] {
        let error = parse(text, "f").unwrap_err().to_string();
        assert!(error.starts_with(place), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn missing_file_is_an_error_that_names_it() {
    let error = load(
        Some(Path::new("/nonexistent/fanfare.toml")),
        environment(&[]),
        &Overrides::default(),
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/fanfare.toml: "));
}

#[test]
fn default_feed_path_is_of_the_service_manager_then_the_user_then_tmp() {
    let user = Path::new("/run/user/7");
    let list = OsStr::new("/run/fanfare:/run/other");
    assert_eq!(
        feed_path(Some(list), Some(user), 7),
        Path::new("/run/fanfare/feed.sock")
    );
    assert_eq!(
        feed_path(Some(OsStr::new("")), Some(user), 7),
        Path::new("/run/user/7/fanfare/feed.sock")
    );
    assert_eq!(
        feed_path(None, None, 7),
        Path::new("/tmp/fanfare-7/feed.sock")
    );
}

#[test]
fn self_signed_certificate_adds_a_tls_address_unless_there_is_one() {
    let listened = |listen: &[&str]| {
        let flags = Overrides {
            listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
            tls_self_signed: true,
            ..Overrides::default()
        };
        let config = load(None, environment(&[]), &flags).unwrap().config;
        let texts = config.listen.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>()
    };
    assert_eq!(listened(&[]), ["127.0.0.1:8080", TRIAL_LISTEN]);
    assert_eq!(listened(&["[::1]:443 tls"]), ["[::1]:443 tls"]);
}
