//! A leaf: one claimed run as one brain sees it. It knows what it read and what it wrote, and nothing else.

use crate::hands::{Answer, Hands};
use crate::scenario::{Guard, Scenario};
use crate::store::{Append, Body, End, Ending, Place, Reply, Store};

/// What became of the gate before a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Gate {
    None,
    Asked,
    Approved,
    Rejected,
}

/// What a log means. The same fold for a live leaf and for one that resumes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct View {
    started: bool,
    /// The next command that the model will want.
    next: u8,
    /// A command of the last answer that has no outcome.
    pub(crate) wanted: Option<u8>,
    pub(crate) gate: Gate,
    /// Its intent: where it stands, and which hands it names.
    intent: Option<(u8, u8)>,
    /// The model has nothing more to say.
    last: bool,
    ended: bool,
    /// Every intent so far: where, and for what.
    intents: Vec<(u8, u8)>,
}

impl View {
    pub(crate) fn of(bodies: impl Iterator<Item = Body>, scenario: &Scenario) -> Self {
        let mut view = Self {
            started: false,
            next: 0,
            wanted: None,
            gate: Gate::None,
            intent: None,
            last: false,
            ended: false,
            intents: Vec::new(),
        };
        for (body, position) in bodies.zip(1..) {
            view.apply(position, body, scenario);
        }
        view
    }

    fn apply(&mut self, position: u8, body: Body, scenario: &Scenario) {
        match body {
            Body::Started => self.started = true,
            Body::Takeover | Body::Asked => {}
            Body::Answered(command) if usize::from(command) < scenario.held.len() => self.wanted = Some(command),
            Body::Answered(_) => self.last = true,
            Body::Gated => self.gate = Gate::Asked,
            Body::Decided { approved } => self.gate = if approved { Gate::Approved } else { Gate::Rejected },
            Body::Intent { command, hands } => {
                self.intent = Some((position, hands));
                self.intents.push((position, command));
            }
            Body::Rejected | Body::Outcome { .. } => {
                self.next = self.wanted.map_or(self.next, |command| command + 1);
                (self.wanted, self.gate, self.intent) = (None, Gate::None, None);
            }
            Body::Ended(_) => self.ended = true,
        }
    }
}

/// Where a leaf stands: its next request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum At {
    /// It holds a lease and has not read the log.
    Claimed,
    /// It commits what is staged, and goes on there.
    Commit(Next),
    /// It attaches to the hands.
    Open,
    /// It sends its call.
    Send,
    /// It waits for the end of its call.
    Wait,
    /// It has the hands end its call.
    Cancel,
    /// It gives the run back.
    Release,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Next {
    Model,
    Open,
    Send,
    Cancel,
    /// The leaf is over: its run ended or waits for a person.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Leaf {
    pub(crate) brain: u8,
    pub(crate) epoch: u8,
    /// The last entry that it knows to be stored.
    pub(crate) head: u8,
    pub(crate) view: View,
    pub(crate) staged: Vec<Body>,
    /// The hands that it is attached to, by incarnation.
    hands: Option<u8>,
    cancel: bool,
    pub(crate) at: At,
}

/// What a step makes of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stepped {
    On,
    /// It is over.
    Gone,
    /// The store refused its append: it stops and touches nothing.
    Refused,
}

impl Leaf {
    pub(crate) fn new(brain: u8, epoch: u8, cancel: bool, scenario: &Scenario) -> Self {
        let view = View::of(std::iter::empty(), scenario);
        Self { brain, epoch, head: 0, view, staged: Vec::new(), hands: None, cancel, at: At::Claimed }
    }

    /// What it would append now.
    pub(crate) fn append(&self) -> Append {
        Append { by: self.brain, epoch: self.epoch, after: self.head, bodies: self.staged.clone() }
    }

    /// Whether it has something to do, or waits for a call that runs.
    pub(crate) fn can_step(&self, hands: &Hands) -> bool {
        let running = || self.view.intent.and_then(|(at, _)| hands.look(at)) == Some(Answer::Running);
        self.at != At::Wait || !running()
    }

    /// Whether it may be told to hand back here.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.at, At::Open | At::Send | At::Wait) && self.staged.is_empty()
    }

    pub(crate) fn hand_back(&mut self) {
        self.at = At::Release;
    }

    pub(crate) fn hears_of_cancel(&self) -> bool {
        !self.cancel && self.at != At::Claimed
    }

    /// The run is to be cancelled: what it waits for is let go of at once, a commit is not.
    pub(crate) fn tell_cancel(&mut self, scenario: &Scenario) {
        self.cancel = true;
        if matches!(self.at, At::Open | At::Send | At::Wait) {
            self.decide(scenario);
        }
    }

    fn stage(&mut self, body: Body, scenario: &Scenario) {
        let staged = u8::try_from(self.staged.len()).unwrap_or(u8::MAX);
        self.view.apply(self.head + staged + 1, body, scenario);
        self.staged.push(body);
    }

    /// The next step, as the view demands it.
    fn decide(&mut self, scenario: &Scenario) {
        self.at = if self.cancel && self.view.intent.is_some() && scenario.has(Guard::Cancel) {
            self.committed(Next::Cancel)
        } else if self.cancel {
            self.end(End::Cancelled, scenario)
        } else if self.view.last {
            self.end(End::Done, scenario)
        } else if let Some(command) = self.view.wanted {
            return self.decide_about(command, scenario);
        } else {
            self.stage(Body::Asked, scenario);
            At::Commit(Next::Model)
        };
    }

    fn decide_about(&mut self, command: u8, scenario: &Scenario) {
        match (self.view.gate, self.hands) {
            (Gate::Rejected, _) => {
                self.stage(Body::Rejected, scenario);
                self.decide(scenario);
            }
            (Gate::None, _) if scenario.held[usize::from(command)] => {
                self.stage(Body::Gated, scenario);
                self.at = At::Commit(Next::Gone);
            }
            (_, None) => self.at = self.committed(Next::Open),
            (_, Some(hands)) => {
                if self.view.intent.is_none() {
                    self.stage(Body::Intent { command, hands }, scenario);
                }
                self.at = if scenario.has(Guard::Intent) { self.committed(Next::Send) } else { At::Send };
            }
        }
    }

    /// There, once what is staged is committed.
    fn committed(&self, next: Next) -> At {
        match next {
            _ if !self.staged.is_empty() => At::Commit(next),
            Next::Open => At::Open,
            Next::Send => At::Send,
            Next::Cancel => At::Cancel,
            Next::Model | Next::Gone => At::Commit(next), // never without something to commit
        }
    }

    fn end(&mut self, how: End, scenario: &Scenario) -> At {
        self.stage(Body::Ended(how), scenario);
        At::Commit(Next::Gone)
    }

    /// Takes one step. Where the reply is lost the step has happened, and the leaf does not know.
    pub(crate) fn step(&mut self, store: &mut Store, hands: &mut Hands, replied: bool, scenario: &Scenario) -> Stepped {
        match self.at {
            At::Claimed => return self.open_log(store, scenario),
            At::Commit(next) => {
                let reply = store.append(&self.append(), scenario);
                return if replied { self.stored(reply, next, scenario) } else { Stepped::On };
            }
            At::Open => {
                let opened = hands.open(self.epoch, scenario);
                if !replied {
                    return Stepped::On;
                }
                let Ok(last) = opened else { return Stepped::Gone };
                self.hands = Some(hands.incarnation);
                let held = |at, command: Option<u8>| {
                    self.view.intents.iter().any(|(p, c)| *p == at && command.is_none_or(|command| command == *c))
                };
                if scenario.has(Guard::Look) && last.is_some_and(|k| !held(k.position, k.command)) {
                    self.at = self.end(End::WentBack, scenario);
                } else {
                    self.decide(scenario);
                }
            }
            At::Send => return self.call(hands, replied, scenario),
            At::Wait if self.hands != Some(hands.incarnation) => return self.call(hands, replied, scenario),
            At::Wait => {
                let answer = self.view.intent.and_then(|(at, _)| hands.look(at));
                self.answered(answer.unwrap_or(Answer::Lost), scenario);
            }
            At::Cancel => {
                if let Some((position, _)) = self.view.intent {
                    hands.cancel(position, self.epoch, scenario);
                }
                if replied {
                    self.at = self.end(End::Cancelled, scenario);
                }
            }
            At::Release => {
                store.release(self.epoch);
                return if replied { Stepped::Gone } else { Stepped::On };
            }
        }
        Stepped::On
    }

    fn open_log(&mut self, store: &Store, scenario: &Scenario) -> Stepped {
        if store.epoch != self.epoch || store.place == Place::Gone {
            return Stepped::Gone;
        }
        self.head = store.head();
        self.view = View::of(store.log.iter().map(|e| e.body), scenario);
        if self.view.ended {
            return Stepped::Gone;
        }
        if !self.cancel {
            self.stage(if self.view.started { Body::Takeover } else { Body::Started }, scenario);
        }
        self.decide(scenario);
        Stepped::On
    }

    fn stored(&mut self, reply: Reply, next: Next, scenario: &Scenario) -> Stepped {
        if reply == Reply::Refused {
            return Stepped::Refused;
        }
        self.head += u8::try_from(self.staged.len()).unwrap_or(u8::MAX);
        self.staged.clear();
        if next == Next::Gone {
            return Stepped::Gone;
        }
        if self.cancel && next != Next::Cancel {
            self.decide(scenario);
        } else if next == Next::Model {
            self.stage(Body::Answered(self.view.next), scenario);
            self.decide(scenario);
        } else {
            self.at = self.committed(next);
        }
        Stepped::On
    }

    fn call(&mut self, hands: &mut Hands, replied: bool, scenario: &Scenario) -> Stepped {
        let (Some((position, asked)), Some(command)) = (self.view.intent, self.view.wanted) else {
            return Stepped::Gone;
        };
        let answer = hands.call(position, command, asked, self.epoch, scenario);
        match answer {
            _ if !replied => {}
            Answer::Fenced => return Stepped::Gone,
            Answer::Running => (self.hands, self.at) = (Some(hands.incarnation), At::Wait),
            Answer::Finished | Answer::Lost | Answer::Refused => self.answered(answer, scenario),
        }
        Stepped::On
    }

    fn answered(&mut self, answer: Answer, scenario: &Scenario) {
        let ending = match answer {
            Answer::Finished => Ending::Finished,
            Answer::Refused => Ending::Refused,
            Answer::Lost | Answer::Fenced | Answer::Running => Ending::Lost,
        };
        if ending == Ending::Lost {
            self.hands = None;
        }
        let call = self.view.intent.map_or(0, |(position, _)| position);
        self.stage(Body::Outcome { call, ending }, scenario);
        self.decide(scenario);
    }
}
