//! Getting one item to the server: attempts, waits between them, and what an answer means.
//!
//! Owns: the schedule of attempts. Must not know: what is posted.
//!
//! A post names its session, so it can be repeated whenever its answer was lost: the server knows it again.

use std::time::Duration;

use reqwest::StatusCode;
use torpor_core::{Clock, Timestamp};
use torpor_schedule::Post;

use crate::cli::Error;
use crate::client::{Answer, Client};

/// First and longest wait between attempts, where the server names none.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// The most that an attempt may take: a service that is scaled to zero has to start meanwhile.
const ATTEMPT: Duration = Duration::from_secs(60);
/// What an attempt may take at least, also when time is up: every item is attempted once.
const LAST_ATTEMPT: Duration = Duration::from_secs(5);

/// What became of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sent {
    /// Its run is accepted.
    Accepted { run: String },
    /// Its run was there already; `run` is absent once its record has expired.
    There { run: Option<String>, status: Option<String> },
    /// The server will not have it.
    Refused { code: Option<String>, why: String },
    /// The server was away, or busy, to the end.
    Unreached { why: String },
}

/// What one attempt came to.
enum Attempt {
    Over(Sent),
    /// It may go better after so long.
    Again(String, Option<Duration>),
}

/// Posts one item, again and again until `until` if the server is away or busy.
pub(super) async fn deliver(mut client: Client, clock: &dyn Clock, post: &Post, until: Timestamp) -> Sent {
    let mut wait = FIRST_WAIT;
    loop {
        let limit = until.since(clock.now()).clamp(LAST_ATTEMPT, ATTEMPT);
        let (why, asked) = match client.post_within("/runs", &post.body, limit).await {
            Ok(answer) => match judge(answer) {
                Attempt::Over(sent) => return sent,
                Attempt::Again(why, asked) => (why, asked),
            },
            Err(Error::Unavailable(why)) => {
                // A server that was found by its data folder may be back at another address.
                if let Ok(found) = client.again() {
                    client = found;
                }
                (why, None)
            }
            Err(e) => return Sent::Refused { code: None, why: e.to_string() },
        };
        let pause = asked.unwrap_or(wait);
        if clock.now().after(pause) > until {
            return Sent::Unreached { why };
        }
        clock.sleep(pause).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Only what a Torpor server says of a run is an acceptance: a page of whatever stands before it is none.
fn judge(answer: Answer) -> Attempt {
    let text = |key: &str| answer.body[key].as_str().map(str::to_owned);
    let (status, run, stands, code) = (answer.status, text("runId"), text("status"), text("code"));
    let sent = match (status, run, stands) {
        (StatusCode::ACCEPTED, Some(run), Some(_)) => Sent::Accepted { run },
        (StatusCode::OK, Some(run), Some(stands)) => Sent::There { run: Some(run), status: Some(stands) },
        (StatusCode::GONE, ..) if code.as_deref() == Some("run_expired") => Sent::There { run: None, status: None },
        _ if status.is_success() => {
            let why = format!("the answer (HTTP {}) is not that of a Torpor server", status.as_u16());
            Sent::Refused { code, why }
        }
        _ => {
            let asked = answer.retry_after.map(Duration::from_secs);
            let passing = status.is_server_error()
                || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
            let said = answer.success().err().map(|e| e.to_string()).unwrap_or_default();
            let why = said.lines().next().unwrap_or_default().to_owned();
            if passing {
                return Attempt::Again(why, asked);
            }
            Sent::Refused { code, why }
        }
    };
    Attempt::Over(sent)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(status: u16, body: Value, retry_after: Option<u64>) -> Result<Sent, Option<Duration>> {
        match judge(Answer { status: StatusCode::from_u16(status).unwrap(), body, retry_after }) {
            Attempt::Over(sent) => Ok(sent),
            Attempt::Again(_, asked) => Err(asked),
        }
    }

    #[test]
    fn an_answer_means_what_it_says_and_no_more() {
        let ours = |status: &str| json!({"runId": "run_1", "sessionId": "s", "status": status});
        let run = || "run_1".to_owned();
        assert_eq!(judged(202, ours("accepted"), None), Ok(Sent::Accepted { run: run() }));
        for status in ["done", "failed", "cancelled", "paused"] {
            let there = Sent::There { run: Some(run()), status: Some(status.into()) };
            assert_eq!(judged(200, ours(status), None), Ok(there));
        }
        let expired = json!({"code": "run_expired", "detail": "It has been."});
        assert_eq!(judged(410, expired, None), Ok(Sent::There { run: None, status: None }));
        for (status, body) in [
            (200, Value::Null),
            (202, json!({"status": "accepted"})),
            (204, Value::Null),
            (200, json!("welcome to the gateway")),
            (410, json!({"code": "gone"})),
            (400, json!({"code": "envelope_invalid"})),
            (401, json!({"code": "unauthorized"})),
            (404, Value::Null),
            (409, json!({"code": "idempotency_conflict"})),
            (413, json!({"code": "payload_too_large"})),
            (302, Value::Null),
        ] {
            let sent = judged(status, body.clone(), None);
            assert!(matches!(sent, Ok(Sent::Refused { .. })), "{status} {body}: {sent:?}");
        }
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(judged(status, Value::Null, Some(7)), Err(Some(Duration::from_secs(7))), "{status}");
            assert_eq!(judged(status, Value::Null, None), Err(None), "{status}");
        }
    }
}
