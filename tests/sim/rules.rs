//! The rules of each channel, which a reload changes while the node runs.
//!
//! A change takes effect over time: the log and each worker assign their channels to the new rules
//! one after the other. A publication keeps the age limit of the rule under which it was added. So
//! several rules may explain what the server does with a publication: the newest rule, and each
//! earlier rule that may have been in force at some time after the publication.

use fanfare::config::{ClientPublish, Config, Namespace, Overflow, Retention};
use fanfare::time::Now;

use crate::model::Facts;

/// The rules of one channel.
#[derive(Clone, Debug)]
pub(crate) struct ChannelRules {
    pub(crate) newest: Retention,
    /// The earlier rules, with the time at which the last part of the server followed the change;
    /// `None` if the change is not complete.
    earlier: Vec<(Option<Now>, Retention)>,
}

impl ChannelRules {
    pub(crate) fn new(newest: Retention) -> Self {
        Self {
            newest,
            earlier: Vec::new(),
        }
    }

    pub(crate) fn change(&mut self, newest: Retention) {
        let before = std::mem::replace(&mut self.newest, newest);
        self.earlier.push((None, before));
    }

    /// Records that the whole server has followed all changes.
    pub(crate) fn note_complete(&mut self, now: Now) {
        for (until, _) in &mut self.earlier {
            until.get_or_insert(now);
        }
    }

    /// Returns the rules that may have been in force at the time `since` or later.
    pub(crate) fn since(&self, since: Now) -> impl Iterator<Item = &Retention> {
        let earlier = self.earlier.iter();
        let earlier = earlier.filter(move |(until, _)| until.is_none_or(|until| until >= since));
        std::iter::once(&self.newest).chain(earlier.map(|(_, rule)| rule))
    }

    /// Whether any rule so far has this policy.
    pub(crate) fn has_had(&self, overflow: Overflow) -> bool {
        self.since(Now(0)).any(|rule| rule.overflow == overflow)
    }
}

/// Returns random new namespaces. Clients may do the same in each channel as before. Whether
/// clients may broadcast only determines the part of the log in which the channel's publications
/// are kept.
pub(crate) fn draw_namespaces(facts: &Facts, random: &mut fastrand::Rng) -> Vec<Namespace> {
    let mut patterns = vec!["*", "c*", "c1*"];
    patterns.extend(facts.names.iter().map(String::as_str));
    random.shuffle(&mut patterns);
    patterns.truncate(random.usize(0..=4));
    let mut pick = |choices: &[u64], most: u64| {
        let choice = choices[random.usize(0..choices.len())];
        (choice > 0).then_some(choice.min(most))
    };
    let log = facts.config.log;
    let namespaces = patterns.into_iter().map(|pattern| Namespace {
        pattern: pattern.into(),
        log_entries: pick(&[0, 0, 1, 2, 9], log.entries),
        log_bytes: pick(&[0, 0, 1, 300, 3_000], log.bytes),
        log_age_ms: pick(&[0, 0, 0, 20, 500], log.age_ms),
        overflow: pick(&[0, 0, 1, 2, 3, 3], 3).map(|choice| {
            [Overflow::Skip, Overflow::Close, Overflow::Conflate][choice as usize - 1]
        }),
        client_publish: pick(&[0, 1], 1).map(|_| ClientPublish::Broadcast),
        ..Namespace::default()
    });
    namespaces.collect()
}

/// Returns the configuration for the log: the run's configuration with other namespaces.
pub(crate) fn with_namespaces(config: &Config, namespace: Vec<Namespace>) -> Config {
    Config {
        namespace,
        ..config.clone()
    }
}
