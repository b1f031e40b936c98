//! Promises of [`SandboxTransport`] and [`Sandbox`].
//!
//! The suite knows no shell: a fixture says which call makes one mark that can be counted from outside, and which
//! makes one and then waits.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use serde_json::Value;
use torpor_core::id::{CallId, Epoch, Position};
use torpor_core::sandbox::{Call, Ended, Error, Forgotten, Open, Sandbox, SandboxTransport};

use super::soon;
use crate::sample::key;

/// How often marks are counted while waiting for one: they are made in another process.
const LOOK: Duration = Duration::from_millis(5);

/// Fresh hands to test.
pub struct Hands {
    /// How they are reached.
    pub transport: Arc<dyn SandboxTransport>,
    /// A tool call that makes one mark and ends: name and arguments.
    pub mark: (String, Value),
    /// A tool call that makes one mark and then never ends by itself.
    pub linger: (String, Value),
    /// How many marks there are, seen from outside.
    pub marks: Box<dyn Fn() -> usize + Send + Sync>,
    /// Kills the hands as the machine would; the next `open` gets others.
    pub kill: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Folder of the operator in which marks are made; `None` for a fresh workspace.
    pub workspace: Option<String>,
    /// Whatever must live as long as the hands.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl Hands {
    async fn open(&self, epoch: u64) -> Arc<dyn Sandbox> {
        self.try_open(epoch).await.unwrap()
    }

    async fn try_open(&self, epoch: u64) -> Result<Arc<dyn Sandbox>, Error> {
        let open = Open { session: key("s"), epoch: Epoch(epoch), born: Epoch(0), workspace: self.workspace.clone() };
        soon(self.transport.open(open)).await
    }

    async fn forget(&self, epoch: u64) -> Result<Forgotten, Error> {
        soon(self.transport.forget(&key("s"), Epoch(epoch))).await
    }

    async fn marks_reach(&self, want: usize) {
        soon(async {
            while (self.marks)() < want {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
    }
}

fn call(position: u64, hands: &dyn Sandbox, (tool, input): &(String, Value)) -> Call {
    let id = CallId { session: key("s").digest(), position: Position(position) };
    Call {
        id,
        incarnation: hands.identity().incarnation.clone(),
        tool: tool.clone(),
        input: input.clone(),
        run: None,
        trace: None,
    }
}

fn result(ended: Result<Ended, Error>) -> torpor_core::message::ToolResult {
    match ended {
        Ok(Ended::Finished(result)) => result,
        other => panic!("{other:?}"),
    }
}

/// A call has its effect and answers.
pub async fn a_call_runs_and_answers(h: Hands) {
    let hands = h.open(1).await;
    assert!(!result(soon(hands.call(call(1, &*hands, &h.mark))).await).is_error);
    assert_eq!((h.marks)(), 1);
}

/// However often and from however many brains an id is sent, it runs once, and the answer is the same.
pub async fn an_id_runs_once_and_answers_the_same(h: Hands) {
    let hands = h.open(1).await;
    let together = join_all((0..10).map(|_| hands.call(call(1, &*hands, &h.mark))));
    let mut answers: Vec<_> = soon(together).await.into_iter().map(result).collect();
    let successor = h.open(2).await;
    answers.push(result(soon(successor.call(call(1, &*successor, &h.mark))).await));
    answers.dedup();
    assert_eq!(answers.len(), 1);
    assert_eq!((h.marks)(), 1);
}

/// Other ids are other calls; those of one session run at the same time.
pub async fn calls_run_at_the_same_time(h: Hands) {
    let hands = h.open(1).await;
    let both = join_all([1, 2].map(|n| hands.call(call(n, &*hands, &h.linger))));
    tokio::select! {
        _ = both => panic!("they linger"),
        () = h.marks_reach(2) => {}
    }
}

/// A brain that goes away harms no command; the next one attaches to it.
pub async fn a_dropped_call_goes_on_and_is_attached_to(h: Hands) {
    let first = h.open(1).await;
    tokio::select! {
        _ = first.call(call(1, &*first, &h.linger)) => panic!("it lingers"),
        () = h.marks_reach(1) => {}
    }
    drop(first);
    let second = h.open(2).await;
    let attached = second.call(call(1, &*second, &h.linger));
    let cancelled = async { second.cancel(&call(1, &*second, &h.linger).id).await };
    let (ended, cancelled) = soon(async { tokio::join!(attached, cancelled) }).await;
    cancelled.unwrap();
    assert!(result(ended).is_error, "a cancelled call is no success");
    assert_eq!((h.marks)(), 1);
}

/// Cancelling ends a running call, and it stays ended.
pub async fn cancel_ends_a_call(h: Hands) {
    let hands = h.open(1).await;
    let lingering = call(1, &*hands, &h.linger);
    let cancel = async {
        h.marks_reach(1).await;
        hands.cancel(&lingering.id).await
    };
    let (ended, cancelled) = soon(async { tokio::join!(hands.call(lingering.clone()), cancel) }).await;
    cancelled.unwrap();
    let ended = result(ended);
    assert!(ended.is_error);
    assert_eq!(result(soon(hands.call(lingering.clone())).await), ended);
    assert_eq!((h.marks)(), 1);
}

/// An id that other hands were asked for is lost, not started.
pub async fn an_id_of_other_hands_is_lost(h: Hands) {
    let hands = h.open(1).await;
    let stray = Call { incarnation: "other".into(), ..call(1, &*hands, &h.mark) };
    assert!(matches!(soon(hands.call(stray)).await, Ok(Ended::Lost(_))));
    assert_eq!((h.marks)(), 0);
}

/// Hands that die in the middle of a call lose it, for whoever waits and for whoever asks later.
pub async fn a_call_is_lost_with_its_hands(h: Hands) {
    let hands = h.open(1).await;
    let lingering = call(1, &*hands, &h.linger);
    let kill = async {
        h.marks_reach(1).await;
        (h.kill)().await;
    };
    let (ended, ()) = soon(async { tokio::join!(hands.call(lingering.clone()), kill) }).await;
    assert!(matches!(ended, Ok(Ended::Lost(_))), "{ended:?}");
    let successor = h.open(2).await;
    assert_ne!(successor.identity().incarnation, lingering.incarnation);
    assert!(matches!(soon(successor.call(lingering)).await, Ok(Ended::Lost(_))));
    assert_eq!((h.marks)(), 1);
}

/// A higher epoch shuts lower ones out: at open, and for calls over what they had opened before.
pub async fn a_lower_epoch_is_refused(h: Hands) {
    let slow = h.open(1).await;
    let owner = h.open(2).await;
    assert!(matches!(h.try_open(1).await.map(|_| ()), Err(Error::Fenced { .. })));
    let refused = soon(slow.call(call(1, &*slow, &h.mark))).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!((h.marks)(), 0);
    result(soon(owner.call(call(1, &*owner, &h.mark))).await);
    assert_eq!((h.marks)(), 1);
}

/// The fence outlives the hands.
pub async fn the_fence_outlives_the_hands(h: Hands) {
    h.open(7).await;
    (h.kill)().await;
    let refused = h.try_open(6).await.map(|_| ());
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    h.open(7).await;
}

/// The working directory is a fact about the session, the same before and after anything is opened.
pub async fn the_working_directory_does_not_change(h: Hands) {
    let before = h.transport.workdir(&key("s"), h.workspace.as_deref()).unwrap();
    h.open(1).await;
    assert_eq!(h.transport.workdir(&key("s"), h.workspace.as_deref()).unwrap(), before);
    assert!(!soon(h.transport.probe()).await.unwrap().is_empty());
}

/// A later session of the same name meets no old result; an owner from before can do nothing, with other hands neither.
pub async fn a_forgotten_session_is_unknown_and_fenced(h: Hands) {
    let old = h.open(1).await;
    result(soon(old.call(call(1, &*old, &h.mark))).await);
    assert_eq!(h.forget(5).await.unwrap().calls, 1);
    assert_eq!((h.marks)(), 1, "what was made in a folder of the user's stays");
    for _ in 0..2 {
        let refused = soon(old.call(call(2, &*old, &h.mark))).await;
        assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
        assert!(matches!(h.try_open(4).await.map(|_| ()), Err(Error::Fenced { .. })));
        (h.kill)().await;
    }
    let later = h.open(5).await;
    result(soon(later.call(call(1, &*later, &h.mark))).await);
    assert_eq!((h.marks)(), 2, "the same position is another call now");
}

/// Hands that nobody told of a session's end forget it when a later session of its name comes to them; and nothing of this
/// one when it comes again.
pub async fn an_earlier_life_is_forgotten_when_a_later_one_is_opened(h: Hands) {
    let old = h.open(2).await;
    result(soon(old.call(call(1, &*old, &h.mark))).await);
    (h.kill)().await;
    let born = |epoch: u64| {
        let open = Open { session: key("s"), epoch: Epoch(epoch), born: Epoch(3), workspace: h.workspace.clone() };
        soon(h.transport.open(open))
    };
    let later = born(4).await.unwrap();
    assert_eq!(later.last_call(), None);
    let refused = soon(old.call(call(2, &*old, &h.mark))).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    let first = result(soon(later.call(call(1, &*later, &h.mark))).await);
    assert_eq!((h.marks)(), 2, "the same position is another call now");
    let again = born(5).await.unwrap();
    assert_eq!(result(soon(again.call(call(1, &*later, &h.mark))).await), first, "it has run");
}

/// Whoever waits for a call of a forgotten session waits no longer, and the call does not run again.
pub async fn forgetting_ends_what_runs(h: Hands) {
    let old = h.open(1).await;
    let forget = async {
        h.marks_reach(1).await;
        h.forget(2).await
    };
    let (ended, forgotten) = soon(async { tokio::join!(old.call(call(1, &*old, &h.linger)), forget) }).await;
    assert_eq!(forgotten.unwrap().calls, 1);
    match ended {
        Ok(Ended::Finished(result)) => assert!(result.is_error, "{result:?}"),
        other => assert!(matches!(other, Ok(Ended::Lost(_)) | Err(Error::Fenced { .. })), "{other:?}"),
    }
    assert_eq!((h.marks)(), 1);
}

/// Again, or for a session that never was: nothing is there to be removed, and that is fine.
pub async fn forgetting_is_repeated_without_harm(h: Hands) {
    assert_eq!(h.forget(3).await.unwrap(), Forgotten::default());
    let hands = h.open(3).await;
    result(soon(hands.call(call(1, &*hands, &h.mark))).await);
    assert_eq!(h.forget(4).await.unwrap().calls, 1);
    (h.kill)().await;
    assert_eq!(h.forget(4).await.unwrap(), Forgotten::default());
}

/// An owner that was overtaken removes nothing.
pub async fn forgetting_needs_an_epoch_that_is_not_fenced(h: Hands) {
    let hands = h.open(4).await;
    let first = result(soon(hands.call(call(1, &*hands, &h.mark))).await);
    let refused = h.forget(3).await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!(result(soon(hands.call(call(1, &*hands, &h.mark))).await), first);
    assert_eq!((h.marks)(), 1);
}
