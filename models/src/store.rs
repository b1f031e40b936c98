//! The store: one session with its log, its epoch, its place in the queue, and leases by the store's own clock.

use crate::scenario::{Guard, Scenario};

/// Who wrote an entry that no brain wrote.
pub(crate) const STORE: u8 = u8::MAX;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Done,
    Cancelled,
    /// The log went back behind what the hands know.
    WentBack,
}

/// How a call ended, as its outcome says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ending {
    Finished,
    /// Nobody can say what became of it.
    Lost,
    /// Cancelled, or refused as another command's id.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Body {
    Started,
    Takeover,
    /// Intent of a model call.
    Asked,
    /// The model wants this command; one beyond the last is its final answer.
    Answered(u8),
    Gated,
    Decided {
        approved: bool,
    },
    /// Intent of a call, with the hands that are asked.
    Intent {
        command: u8,
        hands: u8,
    },
    /// A command was not sent, because a person said no.
    Rejected,
    Outcome {
        call: u8,
        ending: Ending,
    },
    Ended(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) epoch: u8,
    pub(crate) by: u8,
    /// The first of its append; with epoch, writer and place it stands for the write id.
    pub(crate) first: bool,
    pub(crate) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Append {
    pub(crate) by: u8,
    pub(crate) epoch: u8,
    pub(crate) after: u8,
    pub(crate) bodies: Vec<Body>,
}

/// What an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Stored,
    Refused,
}

/// Where the run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Ready,
    /// A lease that is not live has lapsed and not been claimed yet: its owner may still write.
    Leased {
        live: bool,
    },
    Paused,
    Over,
    /// The session was removed.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) log: Vec<Entry>,
    pub(crate) epoch: u8,
    /// No epoch up to here is given any more.
    pub(crate) floor: u8,
    pub(crate) place: Place,
    pub(crate) cancel: bool,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self { log: Vec::new(), epoch: 0, floor: 0, place: Place::Ready, cancel: false }
    }

    pub(crate) fn head(&self) -> u8 {
        u8::try_from(self.log.len()).unwrap_or(u8::MAX)
    }

    pub(crate) fn at(&self, position: u8) -> Option<&Entry> {
        self.log.get(usize::from(position).checked_sub(1)?)
    }

    pub(crate) fn is_owned(&self) -> bool {
        matches!(self.place, Place::Leased { .. })
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.place, Place::Over | Place::Gone)
    }

    pub(crate) fn is_claimable(&self) -> bool {
        matches!(self.place, Place::Ready | Place::Leased { live: false })
    }

    /// Raises the epoch and gives the lease.
    pub(crate) fn claim(&mut self) -> u8 {
        self.epoch = self.epoch.max(self.floor) + 1;
        self.place = Place::Leased { live: true };
        self.epoch
    }

    pub(crate) fn append(&mut self, append: &Append, scenario: &Scenario) -> Reply {
        let ends = matches!(append.bodies.last(), Some(Body::Ended(_)));
        if ends && !scenario.has(Guard::Ack) && self.place != Place::Gone {
            self.place = Place::Over; // whoever says so settles the run, whatever becomes of the entry
        }
        if self.place == Place::Gone || (append.epoch != self.epoch && scenario.has(Guard::Epoch)) {
            return Reply::Refused;
        }
        if append.after != self.head() && scenario.has(Guard::ExpectedHead) {
            let repeated = scenario.has(Guard::WriteId) && self.holds(append);
            return if repeated { Reply::Stored } else { Reply::Refused };
        }
        if !self.is_owned() && scenario.has(Guard::Ack) {
            return Reply::Refused; // given back, parked or ended since
        }
        for (i, body) in append.bodies.iter().enumerate() {
            self.log.push(Entry { epoch: append.epoch, by: append.by, first: i == 0, body: *body });
        }
        match append.bodies.last() {
            Some(Body::Gated) => self.place = if self.cancel { Place::Ready } else { Place::Paused },
            Some(Body::Ended(_)) => self.place = Place::Over,
            _ => {}
        }
        Reply::Stored
    }

    /// Whether this very append is stored: its reply was lost.
    fn holds(&self, append: &Append) -> bool {
        let stored = self.at(append.after + 1);
        stored.is_some_and(|e| e.first && (e.epoch, e.by) == (append.epoch, append.by))
    }

    pub(crate) fn release(&mut self, epoch: u8) {
        if self.is_owned() && self.epoch == epoch {
            self.place = Place::Ready;
        }
    }

    /// A verdict: an entry that the store writes itself, and the run is claimable.
    pub(crate) fn decide(&mut self, approved: bool) {
        self.log.push(Entry { epoch: self.epoch, by: STORE, first: true, body: Body::Decided { approved } });
        self.place = Place::Ready;
    }

    pub(crate) fn cancel(&mut self) {
        self.cancel = true;
        match self.place {
            Place::Paused => self.place = Place::Ready, // its gate takes no verdict any more
            Place::Ready if self.log.is_empty() && self.epoch == 0 => self.place = Place::Over, // it never started
            _ => {}
        }
    }
}
