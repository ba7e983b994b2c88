//! The list of channels: what the log knows about them, and how many subscribers the workers have.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::answer::{ChannelRow, ChannelsAnswer};
use super::execute::Operated;
use super::request::{ChannelSort, ChannelsRequest};
use crate::certain;
use crate::id::ChannelName;
use crate::largest::Largest;
use crate::log::ChannelSummary;
use crate::pattern::Pattern;
use crate::time::Now;
use crate::worker::mail::survey::{Question, SurveyAnswer};

/// The age up to which a publication is recent.
const RECENT: Duration = Duration::from_secs(10);
/// The minimum number of channels that each worker names for a list by number of subscribers. A
/// channel is found if it is among so many of the largest channels of one worker.
const CANDIDATES_MIN: usize = 1_000;

/// A channel with its numbers of subscribers on all workers.
struct Counted {
    name: ChannelName,
    summary: ChannelSummary,
    subscribers: u64,
}

/// Carries out the request `channels`. Counts the subscribers of `workers`.
pub(super) fn channels(
    request: &ChannelsRequest,
    workers: &[u16],
    operated: &Operated,
) -> Result<ChannelsAnswer, String> {
    let pattern = request.channel.as_deref().map(Pattern::new).transpose();
    let pattern = pattern.map_err(|error| format!("channel: {error}"))?;
    let limit = request.limit.rows();
    let mut survey = ChannelSurvey {
        operated,
        workers: workers.to_vec(),
        missing: Vec::new(),
    };
    let by_size = match request.sort {
        ChannelSort::Subscribers => Some(survey.largest(pattern.as_ref(), limit)),
        _ => None,
    };
    let now = operated.clock.now();
    let (found, matched) = summarize(pattern.as_ref(), request, by_size.as_ref(), now, operated);
    let names: Arc<[ChannelName]> = found.iter().map(|(name, _)| name.clone()).collect();
    let counts = survey.count(names);
    let mut counted: Vec<Counted> = found
        .into_iter()
        .zip(counts)
        .map(|((name, summary), subscribers)| Counted {
            name,
            summary,
            subscribers,
        })
        .collect();
    if request.sort == ChannelSort::Subscribers {
        counted.sort_by_key(|one| (Reverse(one.subscribers), one.name.clone()));
        counted.truncate(limit);
    }
    survey.missing.sort_unstable();
    Ok(ChannelsAnswer {
        channels: counted.into_iter().map(|one| row(one, now)).collect(),
        matched,
        open: operated.figures.log.channel_count(),
        silent_workers: survey.missing,
    })
}

/// Returns the first channels in the order of the request, with the number of matching channels. If
/// `among` is given, returns all of these channels that are in the log.
fn summarize(
    pattern: Option<&Pattern>,
    request: &ChannelsRequest,
    among: Option<&BTreeMap<ChannelName, ()>>,
    now: Now,
    operated: &Operated,
) -> (Vec<(ChannelName, ChannelSummary)>, u64) {
    let since = Now(now.0.saturating_sub(crate::time::micros(RECENT)));
    let limit = among.map_or_else(
        || request.limit.rows(),
        |among| among.len().max(request.limit.rows()),
    );
    let mut first = Largest::<(u64, Reverse<ChannelName>), _>::new(limit);
    operated.figures.log.summarize(since, |name, summary| {
        if pattern.is_some_and(|pattern| !pattern.matches(name)) {
            return;
        }
        let rank = match request.sort {
            ChannelSort::Subscribers => {
                u64::from(among.is_some_and(|among| among.contains_key(name)))
            }
            ChannelSort::Bytes => summary.kept.bytes,
            ChannelSort::Publications => summary.kept.publications,
            ChannelSort::Recent => summary.recent,
            ChannelSort::Name => 0,
        };
        first.offer_with(
            |(last, Reverse(last_name))| rank.cmp(last).then_with(|| last_name.cmp(name)),
            || ((rank, Reverse(name.clone())), summary),
        );
    });
    let matched = first.offered();
    let sorted = first.into_sorted().into_iter();
    let found = sorted.map(|((_, Reverse(name)), summary)| (name, summary));
    (found.collect(), matched)
}

/// The workers that count subscribers. A worker that has not answered is not asked again.
struct ChannelSurvey<'a> {
    operated: &'a Operated,
    workers: Vec<u16>,
    /// The numbers of the workers that have not answered.
    missing: Vec<u16>,
}

impl ChannelSurvey<'_> {
    /// Returns the channels that may have the most subscribers: those with the most on any one
    /// worker.
    fn largest(&mut self, pattern: Option<&Pattern>, limit: usize) -> BTreeMap<ChannelName, ()> {
        let question = Question::Largest {
            pattern: pattern.cloned(),
            limit: limit.max(CANDIDATES_MIN),
        };
        let answers = self.ask(&question).into_iter();
        let named = answers.filter_map(|answer| match answer {
            SurveyAnswer::Channels(channels) => Some(channels),
            _ => None,
        });
        named.flatten().map(|(name, _)| (name, ())).collect()
    }

    /// Returns the number of subscribers of each channel.
    fn count(&mut self, names: Arc<[ChannelName]>) -> Vec<u64> {
        let mut sums = vec![0; names.len()];
        if names.is_empty() {
            return sums;
        }
        for answer in self.ask(&Question::Count(names)) {
            let SurveyAnswer::Counts(counts) = answer else {
                continue;
            };
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += u64::from(count);
            }
        }
        sums
    }

    fn ask(&mut self, question: &Question) -> Vec<SurveyAnswer> {
        let surveyed = self.operated.ask(question, &self.workers);
        self.missing.extend(surveyed.missing());
        self.workers = surveyed.answered();
        let answers = surveyed.answers.into_iter();
        answers.map(|answer| answer.answer).collect()
    }
}

fn row(one: Counted, now: Now) -> ChannelRow {
    let Counted {
        name,
        summary,
        subscribers,
    } = one;
    let age = |at: Now| certain::to_u64(now.since(at).as_millis());
    ChannelRow {
        channel: String::from(name.as_str()),
        subscribers,
        publications: summary.kept.publications,
        bytes: summary.kept.bytes,
        recent: summary.recent,
        last_id: summary.newest.map(|(id, _)| id.to_string()),
        last_age_ms: summary.newest.map(|(_, at)| age(at)),
    }
}
