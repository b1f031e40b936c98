//! `GET /runs/{runId}/events`: a run as it happens, as server-sent events.
//!
//! Owns: the event stream: entries of the durable log, numbered by their positions, replayed from anywhere; and between
//! them, unnumbered, pieces of answers while they stream. Must not know: what entries mean, but for the run's end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Uri, header};
use serde_json::json;
use torpor_core::live::{Follower, Piece};
use torpor_core::model::Delta;
use torpor_core::observe::{Level, Present};
use torpor_core::problem::Code;
use torpor_core::run::Record;
use torpor_core::{Position, Timestamp, store};

use crate::auth::Caller;
use crate::pages::{Page, frame};
use crate::phase::Phase;
use crate::problem::Problem;
use crate::routes::query::{parameters, run_of};
use crate::submit::Shared;

/// A follower that hears nothing for so long hears a comment, so that nothing on the way closes the connection. At most
/// 15 seconds are promised; the rest is for networks and for machines that are busy.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A follower of a run that waits for a person is sent away after so long: it must not hold a server up that could
/// sleep. It comes back with the last id it has seen.
const PAUSED: Duration = Duration::from_secs(30);

/// One follower of one run.
struct Stream {
    shared: Arc<Shared>,
    record: Record,
    live: Follower,
    /// A piece whose request is still to be shown.
    early: Option<Piece>,
    /// Everything up to here was sent, or was not asked for; `None` until it is known where the run begins.
    sent: Option<Position>,
    ready: VecDeque<Bytes>,
    /// Where `ready` came from, so that others who need the same find it.
    page: Option<Page>,
    /// When a follower of a paused run is sent away.
    until: Option<Timestamp>,
    over: bool,
    _present: Present,
}

pub(crate) async fn events(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let run = run_of(request.uri(), "/events")?;
    let after = after(request.uri(), request.headers())?;
    // Following comes before reading, so that no piece falls between the two.
    let live = shared.app.live.follow(&run);
    let record = caller.run(&shared, &run).await?;
    let sent = record.log_from.map(|from| Position(from.0 - 1).max(after));
    let present = Present::new(Arc::clone(&shared.app.observer), Level::Followers);
    let stream = Stream {
        shared,
        record,
        live,
        early: None,
        sent: sent.or_else(|| (after.0 > 0).then_some(after)),
        ready: VecDeque::new(),
        page: None,
        until: None,
        over: false,
        _present: present,
    };
    let body = futures::stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, Infallible>(bytes), stream))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where a follower that comes back goes on: the `Last-Event-ID` that its client sends by itself, or `?after=`.
fn after(uri: &Uri, headers: &HeaderMap) -> Result<Position, Problem> {
    let read = |name: &str, text: &str| {
        let expected = "must be the id of an event of this run: an integer of 0 or more";
        text.trim().parse().map(Position).map_err(|_| Problem::field(Code::RequestInvalid, name, expected))
    };
    let after = match parameters(uri)?.iter().find(|(name, _)| name == "after") {
        Some((_, value)) => read("after", value)?,
        None => Position(0),
    };
    match headers.get("last-event-id") {
        Some(last) => read("Last-Event-ID", last.to_str().unwrap_or("not text")),
        None => Ok(after),
    }
}

impl Stream {
    /// The next bytes of the stream; `None` at its end. A store that is away ends it: the client comes back and goes on
    /// where it was.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Some(bytes);
            }
            self.page = None;
            if self.over {
                return None;
            }
            let step = match self.sent {
                Some(sent) => self.follow_log(sent).await,
                None => self.await_start().await,
            };
            if let Err(e) = step {
                tracing::warn!(run = %self.record.run_id, error = %e, "an event stream ends: the store does not answer");
                return None;
            }
        }
    }

    /// A queued run has no entries yet.
    async fn await_start(&mut self) -> Result<(), store::Error> {
        if self.record.status.is_terminal() {
            self.end_without_entry();
            return Ok(());
        }
        let seen = self.record.version;
        let changed = tokio::select! {
            record = self.shared.app.runs.wait(&self.record.run_id, seen, KEEP_ALIVE) => record?,
            () = self.shared.phase.reached(Phase::Hurrying) => {
                self.over = true;
                return Ok(());
            }
        };
        match changed {
            Some(record) => {
                if record.version == seen {
                    self.keep_alive();
                }
                self.sent = record.log_from.map(|from| Position(from.0 - 1));
                self.record = record;
            }
            None => self.over = true, // its record has expired
        }
        Ok(())
    }

    async fn follow_log(&mut self, sent: Position) -> Result<(), store::Error> {
        self.show_pieces();
        if !self.ready.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let app = &shared.app;
        let page = shared.pages.read(&*app.log, (&self.record.session, &self.record.run_id), sent.next()).await?;
        for event in page.events() {
            // All pieces of an answer came before its entry: what has come and not been shown goes first.
            self.show_pieces();
            self.sent = Some(event.position);
            if event.run.as_ref().is_none_or(|run| *run == self.record.run_id) {
                self.over |= event.is_end;
                // After a verdict the run goes on in a moment, or waits for another one.
                self.until = event.is_gate.then(|| app.clock.now().after(PAUSED));
                self.ready.push_back(event.bytes.clone());
            }
            if self.over {
                break;
            }
        }
        if !page.events().is_empty() {
            self.page = Some(page);
            return Ok(());
        }
        if self.record.status.is_terminal() {
            // Everything was replayed, and the run's last entry was not among it: it ended without one, or the
            // follower has seen it.
            self.end_without_entry();
            return Ok(());
        }
        let left = self.until.map(|until| until.since(app.clock.now()));
        if left.is_some_and(|left| left.is_zero()) {
            self.over = true;
            return Ok(());
        }
        let wait = left.unwrap_or(KEEP_ALIVE).min(KEEP_ALIVE);
        tokio::select! {
            biased;
            () = shared.phase.reached(Phase::Hurrying) => self.over = true,
            head = app.log.wait_beyond(&self.record.session, sent, wait) => {
                if head? <= sent {
                    self.keep_alive();
                    if let Some(record) = app.runs.get(&self.record.run_id).await? {
                        self.record = record;
                    } else {
                        self.over = true;
                    }
                }
            }
            piece = self.live.next(), if self.early.is_none() => self.show(piece),
        }
        Ok(())
    }

    /// Shows what has come. A piece of an answer that is yet to be asked for, as far as this follower knows, waits.
    fn show_pieces(&mut self) {
        while let Some(piece) = self.early.take().or_else(|| self.live.try_next()) {
            self.show(piece);
            if self.early.is_some() {
                return;
            }
        }
    }

    fn show(&mut self, piece: Piece) {
        match self.sent {
            // Its request is the last entry shown: this is its time.
            Some(sent) if piece.request == sent => self.ready.push_back(unnumbered(&piece)),
            Some(sent) if piece.request < sent => {} // the whole answer was shown
            _ => self.early = Some(piece),
        }
    }

    fn end_without_entry(&mut self) {
        self.over = true;
        if let (Some(outcome), None) = (&self.record.outcome, self.record.log_from) {
            let data = json!({"type": "run_ended", "run": self.record.run_id, "outcome": outcome});
            self.ready.push_back(frame(None, "run_ended", &data));
        }
    }

    fn keep_alive(&mut self) {
        self.ready.push_back(Bytes::from_static(b": keep-alive\n\n"));
    }
}

fn unnumbered(piece: &Piece) -> Bytes {
    let (kind, text) = match &piece.delta {
        Delta::Text(text) => ("text", text),
        Delta::Thinking(thinking) => ("thinking", thinking),
    };
    let data = json!({"request": piece.request, "attempt": piece.attempt, kind: text});
    frame(None, "delta", &data)
}
