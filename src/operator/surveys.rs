//! Asks workers the same question, and collects their answers.
//!
//! A worker can be stuck or overloaded, so the wait is limited. The result says which workers are
//! missing, and whether they have the question.

use std::time::{Duration, Instant};

use crate::worker::mail::inbox::{AskOutcome, Mailbox};
use crate::worker::mail::survey::{Question, Survey, SurveyAnswer};

/// The answer of one worker.
pub(super) struct WorkerAnswer {
    pub(super) worker: u16,
    /// The time until the answer arrived.
    pub(super) took: Duration,
    pub(super) answer: SurveyAnswer,
}

/// The answers of the workers to one question. Workers that have ended are not in it: they have no
/// connections.
#[derive(Default)]
pub(super) struct Surveyed {
    /// The answers, in the order of their arrival.
    pub(super) answers: Vec<WorkerAnswer>,
    /// The numbers of the workers that have the question, but have not answered in time.
    pub(super) silent: Vec<u16>,
    /// The numbers of the workers that do not have the question, because too many others wait.
    pub(super) unreached: Vec<u16>,
}

impl Surveyed {
    /// Returns the numbers of the workers that have answered.
    pub(super) fn answered(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.worker).collect()
    }

    /// Returns the numbers of the workers whose answers are missing.
    pub(super) fn missing(&self) -> Vec<u16> {
        let mut missing = [self.silent.as_slice(), self.unreached.as_slice()].concat();
        missing.sort_unstable();
        missing
    }
}

/// Asks those of `workers` that exist, and waits for their answers for at most `patience`.
pub(super) fn ask(
    mailboxes: &[Mailbox],
    question: &Question,
    workers: &[u16],
    patience: Duration,
) -> Surveyed {
    let begun = Instant::now();
    let (answers_in, answers) = crossbeam_channel::bounded(mailboxes.len());
    let mut surveyed = Surveyed::default();
    let asked = (0..).zip(mailboxes);
    for (number, mailbox) in asked.filter(|(number, _)| workers.contains(number)) {
        let survey = Survey {
            question: question.clone(),
            answers: answers_in.clone(),
        };
        match mailbox.ask(survey) {
            AskOutcome::Queued => surveyed.silent.push(number),
            AskOutcome::QueueFull => surveyed.unreached.push(number),
            AskOutcome::WorkerGone => {}
        }
    }
    // Without this sender, the channel closes when the last worker has answered or ended.
    drop(answers_in);
    let deadline = begun + patience;
    while let Ok((worker, answer)) = answers.recv_deadline(deadline) {
        surveyed.silent.retain(|silent| *silent != worker);
        surveyed.answers.push(WorkerAnswer {
            worker,
            took: begun.elapsed(),
            answer,
        });
    }
    surveyed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::config::limits::SURVEYS_MAX;
    use crate::sys::wake::Wake;
    use crate::worker::mail::inbox::{Inbox, inbox};

    /// The time to wait for a worker that does not answer.
    const BRIEFLY: Duration = Duration::from_millis(20);
    /// The time to wait for a worker that answers.
    const LONG: Duration = Duration::from_secs(60);

    fn worker() -> (Mailbox, Inbox) {
        inbox(Arc::new(Wake::new().unwrap()))
    }

    /// Answers the questions of a worker until its queue is empty.
    fn answer(worker: u16, inbox: &Inbox) {
        while let Some(survey) = inbox.take_survey() {
            let _sent = survey.answers.try_send((worker, SurveyAnswer::Pong));
        }
    }

    #[test]
    fn missing_workers_are_silent_or_unreached_and_ended_ones_are_not_missing() {
        let ((stuck, _stuck_inbox), (full, _full_inbox)) = (worker(), worker());
        let ((ended, ended_inbox), (alive, alive_inbox)) = (worker(), worker());
        drop(ended_inbox);
        for _ in 0..SURVEYS_MAX {
            let (answers, _) = crossbeam_channel::bounded(1);
            let question = Question::Ping;
            let outcome = full.ask(Survey { question, answers });
            assert_eq!(outcome, AskOutcome::Queued);
        }
        let mailboxes = [stuck, full, ended, alive];
        let surveyed = ask(&mailboxes, &Question::Ping, &[0, 1, 2, 3], BRIEFLY);
        assert_eq!(surveyed.answered(), [0_u16; 0]);
        assert_eq!(surveyed.silent, [0, 3]);
        assert_eq!(surveyed.unreached, [1]);
        assert_eq!(surveyed.missing(), [0, 1, 3]);
        answer(3, &alive_inbox);
    }

    #[test]
    fn only_the_named_workers_are_asked_and_awaited() {
        let ((stuck, stuck_inbox), (alive, alive_inbox)) = (worker(), worker());
        let asked = thread::spawn(move || ask(&[stuck, alive], &Question::Ping, &[1], LONG));
        while !asked.is_finished() {
            answer(1, &alive_inbox);
            thread::yield_now();
        }
        let surveyed = asked.join().unwrap();
        assert_eq!(surveyed.answered(), [1]);
        assert_eq!(surveyed.missing(), [0_u16; 0]);
        assert!(!stuck_inbox.has_survey());
    }
}
