//! The model: every state that store, hands, brains, people and the network can reach.

use stateright::{Model, Property};

use crate::brain::{At, Leaf, Stepped, View};
use crate::hands::Hands;
use crate::properties;
use crate::scenario::{Faults, Guard, MAX_COMMANDS, Scenario};
use crate::store::{Append, Place, Store};

/// The model of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Protocol(pub Scenario);

/// One state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) store: Store,
    /// What a replica holds, which may become the store.
    replica: Option<Store>,
    /// An append that is still under way.
    late: Option<Append>,
    pub(crate) hands: Hands,
    pub(crate) brains: Vec<Brain>,
    /// The epoch at which the hands must forget the session.
    forget: Option<u8>,
    pub(crate) used: Faults,
    /// The highest epoch that was ever given.
    given: u8,
    /// Which commands somebody approved.
    pub(crate) approved: [bool; MAX_COMMANDS],
    /// An owner was told that it is none.
    pub(crate) wronged: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Brain {
    pub(crate) paused: bool,
    pub(crate) leaf: Option<Leaf>,
}

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A brain without work claims the run.
    Claim,
    /// A leaf takes its next step and learns what came of it.
    Step(u8),
    /// A leaf takes its next step, and the reply is lost.
    StepUnheard(u8),
    /// A leaf's append stays under way, and it will send it again.
    StepLate(u8),
    /// The append that was under way arrives.
    Arrive,
    /// A brain dies.
    Crash(u8),
    /// A brain stops, without knowing.
    Pause(u8),
    /// A brain goes on.
    Wake(u8),
    /// The lease lapses.
    Lapse,
    /// A heartbeat revives a lapsed lease that nobody claimed.
    Revive,
    /// A leaf is told to hand its run back.
    HandBack(u8),
    /// A leaf hears that its run is to be cancelled.
    Tell(u8),
    /// The running command ends.
    CommandEnds(u8),
    /// The hands are started again; with `true` the newest end is not in their journal.
    Restart(bool),
    /// The hands are replaced by others.
    Wipe,
    /// The replica holds what the store holds.
    Replicate,
    /// The replica becomes the store.
    FailOver,
    /// A person approves (`true`) or rejects.
    Decide(bool),
    /// Somebody cancels the run.
    Cancel,
    /// Somebody removes the session.
    Remove,
    /// The hands forget the session.
    Forget,
}

impl Action {
    /// Whether it comes about by itself, without a fault and without a brain that sleeps waking up.
    fn is_fair(self) -> bool {
        matches!(
            self,
            Self::Claim | Self::Step(_) | Self::Lapse | Self::Tell(_) | Self::CommandEnds(_) | Self::Decide(_)
        )
    }
}

impl State {
    /// The leaf that the store takes for the owner, if it is awake.
    fn has_working_owner(&self) -> bool {
        let owns = |b: &Brain| !b.paused && b.leaf.as_ref().is_some_and(|l| l.epoch == self.store.epoch);
        self.brains.iter().any(owns)
    }

    fn idle(&self) -> Option<usize> {
        self.brains.iter().position(|b| b.leaf.is_none() && !b.paused)
    }

    /// Whether the run can come to its end without a fault, or nobody is awake to bring it there.
    pub(crate) fn can_go_on(&self, protocol: &Protocol) -> bool {
        let mut actions = Vec::new();
        protocol.actions(self, &mut actions);
        actions.iter().any(|a| a.is_fair()) || self.brains.iter().all(|b| b.paused)
    }

    fn step(&mut self, brain: u8, replied: bool, scenario: &Scenario) {
        let Some(leaf) = &mut self.brains[usize::from(brain)].leaf else { return };
        let epoch = leaf.epoch;
        let stepped = leaf.step(&mut self.store, &mut self.hands, replied, scenario);
        if stepped == Stepped::Refused {
            let owns = self.store.epoch == epoch && self.store.is_owned();
            self.wronged |= owns && self.used.failovers == 0;
        }
        if stepped != Stepped::On {
            self.brains[usize::from(brain)].leaf = None;
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let brain = Brain { paused: false, leaf: None };
        vec![State {
            store: Store::new(),
            replica: None,
            late: None,
            hands: Hands::new(),
            brains: vec![brain; self.0.brains],
            forget: None,
            used: Faults::NONE,
            given: 0,
            approved: [false; MAX_COMMANDS],
            wronged: false,
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Action>) {
        let (may, used) = (&self.0.faults, &s.used);
        let mut add = |when: bool, action: Action| {
            if when {
                actions.push(action);
            }
        };
        add(s.store.is_claimable() && s.idle().is_some(), Action::Claim);
        for (b, brain) in (0..).zip(&s.brains) {
            add(brain.paused, Action::Wake(b));
            let Some(leaf) = brain.leaf.as_ref().filter(|_| !brain.paused) else { continue };
            let steps = leaf.can_step(&s.hands);
            add(steps, Action::Step(b));
            add(steps && leaf.at != At::Claimed && used.lost_replies < may.lost_replies, Action::StepUnheard(b));
            let commits = matches!(leaf.at, At::Commit(_));
            add(commits && s.late.is_none() && used.late < may.late, Action::StepLate(b));
            add(used.crashes < may.crashes, Action::Crash(b));
            add(used.pauses < may.pauses, Action::Pause(b));
            add(leaf.is_at_rest() && used.hand_backs < may.hand_backs, Action::HandBack(b));
            let owns = leaf.epoch == s.store.epoch && s.store.is_owned();
            add(owns && s.store.cancel && leaf.hears_of_cancel(), Action::Tell(b));
        }
        let lease = Place::Leased { live: true };
        add(s.store.place == lease && (!s.has_working_owner() || used.slow < may.slow), Action::Lapse);
        add(s.store.place == Place::Leased { live: false } && s.has_working_owner(), Action::Revive);
        add(s.late.is_some(), Action::Arrive);
        if let Some(call) = s.hands.running() {
            add(true, Action::CommandEnds(call.position));
        }
        add(used.restarts < may.restarts, Action::Restart(false));
        add(used.restarts < may.restarts, Action::Restart(true));
        add(used.wipes < may.wipes, Action::Wipe);
        add(used.failovers < may.failovers && s.replica.is_none(), Action::Replicate);
        add(s.replica.is_some(), Action::FailOver);
        add(s.store.place == Place::Paused, Action::Decide(true));
        add(s.store.place == Place::Paused, Action::Decide(false));
        add(used.cancels < may.cancels && !s.store.is_over(), Action::Cancel);
        add(used.removals < may.removals && s.store.place == Place::Over, Action::Remove);
        add(s.forget.is_some(), Action::Forget);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let (mut s, scenario) = (last.clone(), &self.0);
        match action {
            Action::Claim => {
                let brain = s.idle()?;
                let epoch = s.store.claim();
                s.given = s.given.max(epoch);
                let id = u8::try_from(brain).ok()?;
                s.brains[brain].leaf = Some(Leaf::new(id, epoch, s.store.cancel, scenario));
            }
            Action::Step(b) => s.step(b, true, scenario),
            Action::StepUnheard(b) => {
                s.used.lost_replies += 1;
                s.step(b, false, scenario);
            }
            Action::StepLate(b) => {
                s.used.late += 1;
                s.late = s.brains[usize::from(b)].leaf.as_ref().map(Leaf::append);
            }
            Action::Arrive => {
                let append = s.late.take()?;
                s.store.append(&append, scenario);
            }
            Action::Crash(b) => {
                s.used.crashes += 1;
                s.brains[usize::from(b)].leaf = None;
            }
            Action::Pause(b) => {
                s.used.pauses += 1;
                s.brains[usize::from(b)].paused = true;
            }
            Action::Wake(b) => s.brains[usize::from(b)].paused = false,
            Action::Lapse => {
                s.used.slow += u8::from(s.has_working_owner());
                s.store.place = Place::Leased { live: false };
            }
            Action::Revive => s.store.place = Place::Leased { live: true },
            Action::HandBack(b) => {
                s.used.hand_backs += 1;
                s.brains[usize::from(b)].leaf.as_mut()?.hand_back();
            }
            Action::Tell(b) => s.brains[usize::from(b)].leaf.as_mut()?.tell_cancel(scenario),
            Action::CommandEnds(position) => s.hands.end_running(position),
            Action::Restart(torn) => {
                s.used.restarts += 1;
                s.hands.restart(torn);
            }
            Action::Wipe => {
                s.used.wipes += 1;
                s.hands.wipe();
            }
            Action::Replicate => {
                s.used.failovers += 1;
                s.replica = Some(s.store.clone());
            }
            Action::FailOver => {
                s.store = s.replica.take()?;
                if scenario.has(Guard::Generation) {
                    s.store.floor = s.given;
                }
            }
            Action::Decide(approved) => {
                let view = View::of(s.store.log.iter().map(|e| e.body), scenario);
                if let Some(command) = view.wanted {
                    s.approved[usize::from(command)] |= approved;
                }
                s.store.decide(approved);
            }
            Action::Cancel => {
                s.used.cancels += 1;
                s.store.cancel();
            }
            Action::Remove => {
                s.used.removals += 1;
                s.forget = Some(s.store.epoch + 1);
                s.store.place = Place::Gone;
            }
            Action::Forget => {
                let epoch = s.forget.take()?;
                s.hands.forget(epoch);
            }
        }
        (s != *last).then_some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all(&self.0)
    }
}
