//! The hands: a journal of calls by id, a fence, and what really ran.

use crate::scenario::{Guard, MAX_COMMANDS, Scenario};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stands {
    /// Accepted by this incarnation, and no end is written.
    Open {
        incarnation: u8,
    },
    Ended,
    /// Cancelled before anybody asked for it.
    Cancelled,
}

/// What the journal holds of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Known {
    pub(crate) position: u8,
    /// What was asked for; nothing where it was only cancelled.
    pub(crate) command: Option<u8>,
    pub(crate) stands: Stands,
}

/// What a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Fenced,
    /// It runs; whoever asks waits.
    Running,
    Finished,
    Lost,
    /// Cancelled, or the id of another command.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Hands {
    pub(crate) incarnation: u8,
    pub(crate) fence: u8,
    /// By position.
    pub(crate) calls: Vec<Known>,
    /// How often each command was started, by whatever hands there were: the ledger of an outsider.
    pub(crate) ran: [u8; MAX_COMMANDS],
}

impl Hands {
    pub(crate) fn new() -> Self {
        Self { incarnation: 1, fence: 0, calls: Vec::new(), ran: [0; MAX_COMMANDS] }
    }

    /// Whether the epoch is good; one above the fence raises it.
    fn admits(&mut self, epoch: u8, scenario: &Scenario) -> bool {
        let admitted = epoch >= self.fence || !scenario.has(Guard::Fence);
        self.fence = self.fence.max(epoch);
        admitted
    }

    fn find(&mut self, position: u8) -> Option<&mut Known> {
        self.calls.iter_mut().find(|k| k.position == position)
    }

    fn note(&mut self, known: Known) {
        self.calls.push(known);
        self.calls.sort_unstable_by_key(|k| k.position);
    }

    /// Attaches; answers the last call that is known.
    pub(crate) fn open(&mut self, epoch: u8, scenario: &Scenario) -> Result<Option<Known>, ()> {
        if self.admits(epoch, scenario) { Ok(self.calls.last().copied()) } else { Err(()) }
    }

    /// Starts a call or attaches to it. `asked` is the incarnation that the intent names.
    pub(crate) fn call(&mut self, position: u8, command: u8, asked: u8, epoch: u8, scenario: &Scenario) -> Answer {
        if !self.admits(epoch, scenario) {
            return Answer::Fenced;
        }
        let known = self.find(position).copied().filter(|_| scenario.has(Guard::CallId));
        match known {
            Some(Known { command: Some(other), .. }) if other != command => Answer::Refused,
            Some(known) => self.answer(known),
            None if asked != self.incarnation && scenario.has(Guard::Incarnation) => Answer::Lost,
            None => {
                let stands = Stands::Open { incarnation: self.incarnation };
                self.calls.retain(|k| k.position != position);
                self.note(Known { position, command: Some(command), stands });
                self.ran[usize::from(command)] += 1;
                Answer::Running
            }
        }
    }

    /// What somebody who waits for the call hears now.
    pub(crate) fn look(&self, position: u8) -> Option<Answer> {
        self.calls.iter().find(|k| k.position == position).map(|k| self.answer(*k))
    }

    fn answer(&self, known: Known) -> Answer {
        match known.stands {
            Stands::Open { incarnation } if incarnation == self.incarnation => Answer::Running,
            Stands::Open { .. } => Answer::Lost,
            Stands::Ended => Answer::Finished,
            Stands::Cancelled => Answer::Refused,
        }
    }

    /// Ends a call that runs; one that is not known will never be run.
    pub(crate) fn cancel(&mut self, position: u8, epoch: u8, scenario: &Scenario) {
        if !self.admits(epoch, scenario) {
            return;
        }
        match self.find(position) {
            Some(known) => {
                if matches!(known.stands, Stands::Open { .. }) {
                    known.stands = Stands::Ended;
                }
            }
            None => self.note(Known { position, command: None, stands: Stands::Cancelled }),
        }
    }

    /// The call that runs.
    pub(crate) fn running(&self) -> Option<&Known> {
        self.calls.iter().find(|k| k.stands == Stands::Open { incarnation: self.incarnation })
    }

    /// The command that runs comes to its end by itself.
    pub(crate) fn end_running(&mut self, position: u8) {
        if let Some(known) = self.find(position) {
            known.stands = Stands::Ended;
        }
    }

    /// Started again on the same journal. With `torn`, the newest end was not on the disk yet.
    pub(crate) fn restart(&mut self, torn: bool) {
        if torn && let Some(last) = self.calls.iter_mut().rfind(|k| k.stands == Stands::Ended) {
            last.stands = Stands::Open { incarnation: self.incarnation };
        }
        self.incarnation += 1;
    }

    /// Others, that know nothing.
    pub(crate) fn wipe(&mut self) {
        *self = Self { incarnation: self.incarnation + 1, fence: 0, calls: Vec::new(), ran: self.ran };
    }

    /// The session was removed: only the fence stays.
    pub(crate) fn forget(&mut self, epoch: u8) {
        self.fence = self.fence.max(epoch);
        self.calls.clear();
    }
}
