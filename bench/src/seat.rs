//! An arm's place in the run: its running instance, what it has cost, whether it is still in.

use std::time::Duration;

use reports::results::ArmStatus;

use crate::arm::{Arm, Candidate, Pace, Places, Purpose};
use crate::clock;
use crate::launch::Trouble;
use crate::session::Session;

/// Failures to start in a row after which an arm is not tried again.
const PATIENCE: u32 = 2;

/// An arm and its state in this run.
pub(crate) struct Seat {
    /// The arm itself.
    pub(crate) arm: Box<dyn Arm>,
    /// Whether it ran, and why not.
    pub(crate) status: ArmStatus,
    session: Option<Session>,
    /// The number of the next instance; the running one is one less.
    next_instance: u32,
    /// Metrics that the running instance has served.
    served: u32,
    /// The shortest time that a start took until the workload answered.
    pub(crate) start_cost: Option<Duration>,
    /// What the first touch of a page takes, once that has been measured.
    pub(crate) page_cost: Option<Duration>,
    /// What reading a MiB of the image takes, once that has been measured.
    pub(crate) copy_cost: Option<Duration>,
    failures: u32,
}

impl Seat {
    /// A seat for an arm that can run as far as is known.
    pub(crate) fn new(arm: Box<dyn Arm>) -> Self {
        let status = arm.about().status.clone();
        Self {
            arm,
            status,
            session: None,
            next_instance: 0,
            served: 0,
            start_cost: None,
            page_cost: None,
            copy_cost: None,
            failures: 0,
        }
    }

    /// Seats for those that can run, and the entries of all for the results.
    pub(crate) fn all(candidates: Vec<Candidate>) -> (Vec<Self>, Vec<reports::results::Arm>) {
        let entries = candidates
            .iter()
            .map(|candidate| candidate.about().clone())
            .collect();
        let seats = candidates
            .into_iter()
            .filter_map(|candidate| match candidate {
                Candidate::Able(arm) => Some(Self::new(arm)),
                Candidate::Unable(_) => None,
            })
            .collect();
        (seats, entries)
    }

    /// The arm's identity.
    pub(crate) fn id(&self) -> &str {
        &self.arm.about().id
    }

    /// Why the arm is not tried any more, if it is not.
    pub(crate) fn given_up(&self) -> Option<&str> {
        match &self.status {
            ArmStatus::NotRun { reason } if self.failures >= PATIENCE => Some(reason),
            ArmStatus::Ran if self.failures >= PATIENCE => {
                Some("its instances have stopped starting")
            }
            _ => None,
        }
    }

    /// It has given a sample.
    pub(crate) fn ran(&mut self) {
        self.status = ArmStatus::Ran;
        self.failures = 0;
    }

    /// A start of it failed.
    pub(crate) fn failed(&mut self, trouble: &Trouble) {
        // What takes a minute to fail is not worth a second try.
        self.failures += if self.arm.pace() == Pace::VerySlow {
            PATIENCE
        } else {
            1
        };
        if self.status != ArmStatus::Ran {
            self.status = ArmStatus::NotRun {
                reason: trouble.to_string(),
            };
        }
    }

    /// Where its files are; `None` if it runs no resident workload.
    pub(crate) fn places(&self) -> Option<Places> {
        self.arm.places()
    }

    /// The number of the instance that runs, or ran last.
    pub(crate) fn instance(&self) -> u32 {
        self.next_instance.saturating_sub(1)
    }

    /// Counts an instance that is not a session and returns its number.
    pub(crate) fn count_instance(&mut self) -> u32 {
        self.next_instance += 1;
        self.instance()
    }

    /// The running session.
    pub(crate) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Whether the running instance may serve another metric: one that starts quickly is new for each.
    pub(crate) fn is_fresh_enough(&self, slow_instances: u32) -> bool {
        self.session.is_some()
            && match self.arm.pace() {
                Pace::Quick => self.served == 0,
                Pace::Slow => slow_instances == 0 || self.served == 0,
                Pace::VerySlow => true,
            }
    }

    /// How many instances serve one metric one after the other.
    pub(crate) fn instances_a_metric(&self, quick: u32, slow: u32) -> u32 {
        match self.arm.pace() {
            Pace::Quick => quick.max(1),
            Pace::Slow => slow.max(1),
            Pace::VerySlow => 1,
        }
    }

    /// A metric has been measured in the running instance.
    pub(crate) fn serve(&mut self) {
        self.served += 1;
    }

    /// Ends the running instance, if any, and starts another.
    pub(crate) fn restart(&mut self, limit: Duration) -> Result<&mut Session, Trouble> {
        self.end();
        let begun = self.begin(limit);
        match begun {
            Ok(session) => {
                let cost = Duration::from_nanos(session.ready_after);
                self.start_cost = Some(self.start_cost.map_or(cost, |known| known.min(cost)));
                self.served = 0;
                Ok(self.session.insert(session))
            }
            Err(trouble) => {
                self.failed(&trouble);
                Err(trouble)
            }
        }
    }

    fn begin(&mut self, limit: Duration) -> Result<Session, Trouble> {
        self.next_instance += 1;
        let launch = self
            .arm
            .launch(&["serve"], &Purpose::Resident)
            .map_err(Trouble::Answer)?;
        Session::begin(launch.spawn(true)?, limit)
    }

    /// Ends the running instance, if any, as a user would; one that does not end is killed.
    pub(crate) fn end(&mut self) {
        if let Some(session) = self.session.take() {
            let begun = clock::now();
            let id = self.id().to_owned();
            if let Err(trouble) = session.end() {
                let waited = clock::words_ns(clock::now() - begun);
                eprintln!("  {id}: an instance had to be killed after {waited}: {trouble}");
            }
        }
    }

    /// Kills the running instance.
    pub(crate) fn kill(&mut self) {
        self.session = None;
    }
}
