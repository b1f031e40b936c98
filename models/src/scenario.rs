//! What a walk covers: how many brains, which commands, which faults and how many of each, and which guard is missing.

/// Most commands of a run.
pub(crate) const MAX_COMMANDS: usize = 3;

/// What a walk covers.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Leaves that may work at the same time.
    pub brains: usize,
    /// The commands of the run, one after the other, and whether a person must approve each.
    pub held: &'static [bool],
    /// What may go wrong.
    pub faults: Faults,
    /// A guard that is missing.
    pub without: Option<Guard>,
}

impl Scenario {
    /// Two brains, a run with these commands, and these faults.
    #[must_use]
    pub const fn new(held: &'static [bool], faults: Faults) -> Self {
        Self { brains: 2, held, faults, without: None }
    }

    /// Whether this guard is in its place.
    pub(crate) fn has(&self, guard: Guard) -> bool {
        self.without != Some(guard)
    }
}

/// How many of each fault a walk may meet, at any moment and in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// A brain dies.
    pub crashes: u8,
    /// A brain stops for any length of time, and goes on as if nothing had happened (if it ever does).
    pub pauses: u8,
    /// A request is carried out, and its reply is lost.
    pub lost_replies: u8,
    /// An append is delayed in the network while its writer sends it again; it arrives at any later time.
    pub late: u8,
    /// The lease of a brain that works lapses: its heartbeats are slow.
    pub slow: u8,
    /// A brain is told to hand its run back.
    pub hand_backs: u8,
    /// The hands are started again: they keep their journal, except perhaps for the end of a call.
    pub restarts: u8,
    /// The hands are replaced by others that know nothing.
    pub wipes: u8,
    /// The store becomes an older state of itself, any that it was in.
    pub failovers: u8,
    /// Somebody cancels the run, at any moment.
    pub cancels: u8,
    /// The session is removed once its run has ended, and the hands forget it.
    pub removals: u8,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self {
        crashes: 0,
        pauses: 0,
        lost_replies: 0,
        late: 0,
        slow: 0,
        hand_backs: 0,
        restarts: 0,
        wipes: 0,
        failovers: 0,
        cancels: 0,
        removals: 0,
    };
}

/// What keeps the promises. Taken out, one of them must break: that is how the model is shown to be able to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The hands refuse an epoch below the highest that they have seen.
    Fence,
    /// The store refuses an epoch that is not the session's.
    Epoch,
    /// What ends a run, and with it its place in the queue, is the append that the epoch guards.
    Ack,
    /// A repeated append is recognised.
    WriteId,
    /// An append names the head that it follows.
    ExpectedHead,
    /// A store that became an older state of itself gives no epoch again that it gave before.
    Generation,
    /// Whoever attaches to the hands looks whether its log holds the last call that they know.
    Look,
    /// An intent names the hands that are asked, and others never start it.
    Incarnation,
    /// The hands recognise a call that they know.
    CallId,
    /// The intent is stored before the hands hear of the call.
    Intent,
    /// A cancel reaches the hands before the run ends.
    Cancel,
}
