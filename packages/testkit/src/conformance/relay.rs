//! Promises of [`Relay`].

use std::sync::Arc;
use std::time::Duration;

use torpor_core::live::{Piece, Relay};
use torpor_core::model::Delta;
use torpor_core::{Position, RunId};

use super::soon;

/// How long a relay may take until it carries what was just followed.
const SOON: Duration = Duration::from_millis(20);
/// More pieces than any relay holds.
const FLOOD: usize = 50_000;

fn said(attempt: u32, delta: Delta) -> Piece {
    Piece { request: Position(7), attempt, delta }
}

fn text(text: &str) -> Piece {
    said(1, Delta::Text(text.into()))
}

/// Offers words until one arrives at the other side: following is heard of after a moment.
async fn carried(from: &dyn Relay, to: &dyn Relay, run: &RunId) {
    let arrives = async {
        loop {
            from.offer(run, &text("."));
            if let Ok((of, piece)) = tokio::time::timeout(SOON, to.arrived()).await {
                assert_eq!((&of, piece.request), (run, Position(7)));
                return;
            }
        }
    };
    soon(arrives).await;
}

/// Reads until a piece ends so; all text before it, and the piece.
async fn until(relay: &dyn Relay, run: &RunId, end: &str) -> (String, Piece) {
    let mut all = String::new();
    soon(async {
        loop {
            let (of, piece) = relay.arrived().await;
            assert_eq!(of, *run, "a run that is not followed here");
            let (Delta::Text(text) | Delta::Thinking(text)) = &piece.delta;
            all.push_str(text);
            if all.ends_with(end) {
                return (std::mem::take(&mut all), piece);
            }
        }
    })
    .await
}

/// Pieces come where they are followed, in order, and nowhere else; nobody is held up, however many there are. Three
/// processes over one store.
pub async fn check_relay([works, follows, other]: [Arc<dyn Relay>; 3]) {
    let (run, another) = (RunId::generate(), RunId::generate());
    works.offer(&run, &text("nobody is there"));
    follows.follow(&run, true);
    other.follow(&another, true);
    carried(&*works, &*follows, &run).await;
    carried(&*works, &*other, &another).await;

    let words: Vec<String> = (0..500).map(|n| format!("{n} ")).collect();
    words.iter().for_each(|word| works.offer(&run, &text(word)));
    works.offer(&run, &text("end"));
    works.offer(&another, &text("end"));
    let (all, _) = until(&*follows, &run, "end").await;
    assert_eq!(all.trim_start_matches('.'), words.concat() + "end", "every word, in order");
    let (all, _) = until(&*other, &another, "end").await;
    assert_eq!(all.trim_start_matches('.'), "end");

    // What belongs to different answers stays apart.
    works.offer(&run, &said(1, Delta::Thinking("hm".into())));
    assert_eq!(until(&*follows, &run, "hm").await.1, said(1, Delta::Thinking("hm".into())));
    works.offer(&run, &said(1, Delta::Text("a".into())));
    works.offer(&run, &said(2, Delta::Text("b".into())));
    let (all, last) = until(&*follows, &run, "b").await;
    assert_eq!((all.as_str(), last), ("ab", said(2, Delta::Text("b".into()))));

    // More than anybody holds: some is lost, nobody waits, and what comes later comes.
    (0..FLOOD).for_each(|n| works.offer(&run, &said(3, Delta::Text(format!("{n} ")))));
    soon(async {
        loop {
            works.offer(&run, &said(4, Delta::Text("after".into())));
            if let Ok((_, piece)) = tokio::time::timeout(SOON, follows.arrived()).await
                && piece.attempt == 4
            {
                return;
            }
        }
    })
    .await;

    // Somebody who leaves and comes back hears again.
    other.follow(&another, false);
    other.follow(&another, true);
    carried(&*works, &*other, &another).await;
}
