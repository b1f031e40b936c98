//! One connection, from its first byte to its end.
//!
//! Owns: the limits of time per part of a request, leaving in good order, and closing so that a client which is
//! still sending gets to read its answer. Must not know: any route.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use http::{HeaderMap, Request, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use torpor_core::problem::Code;

use crate::config::Config;
use crate::headers::request_id;
use crate::phase::Phase;
use crate::problem::{Problem, RETRY_AFTER_SECONDS};
use crate::stream::{Activity, Doing, Watched};
use crate::submit::Shared;

/// How long a request that was on its way when the server was told to stop has to become complete.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// How often a connection is looked at while the server drains.
const DRAIN_LOOK: Duration = Duration::from_millis(100);

/// How long what a client still sends is thrown away after its request was answered unread. Closing at once would
/// make its kernel drop the answer.
const LINGER: Duration = Duration::from_secs(5);

/// Bytes thrown away at a time.
const LINGER_BUFFER: usize = 16 * 1024;

/// Serves a connection until either side ends it, or the server is gone.
pub(crate) async fn drive(socket: TcpStream, router: Router, shared: Arc<Shared>) {
    let config = &shared.config;
    let activity = Activity::new();
    let stream = TokioIo::new(Watched::new(socket, Arc::clone(&activity)));
    let mut http = http1::Builder::new();
    // The head's time is kept below, at no cost per request, and apart from the idle time.
    http.header_read_timeout(None).max_buf_size(config.head_limit);
    let mut connection = http.serve_connection(stream, Routed { router, activity: Arc::clone(&activity) });

    let mut drain = pin!(shared.phase.reached(Phase::Draining));
    let mut gone = pin!(shared.phase.reached(Phase::Gone));
    let mut look = pin!(sleep(shortest(config)));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            end = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(e) = end {
                    tracing::debug!(error = %e, "a connection broke off");
                    return;
                }
                break;
            }
            () = &mut gone => return,
            () = &mut drain, if !draining => {
                draining = true;
                Pin::new(&mut connection).graceful_shutdown();
                look.as_mut().reset(Instant::now() + DRAIN_GRACE);
            }
            () = &mut look => match next_look(config, activity.doing(), draining, Instant::now()) {
                Some(at) => look.as_mut().reset(at),
                None => return,
            },
        }
    }
    let mut socket = connection.into_parts().io.into_inner().socket;
    if activity.is_abandoned() {
        let leaving = async {
            shared.phase.reached(Phase::Draining).await;
            sleep(DRAIN_GRACE).await;
        };
        tokio::select! {
            () = linger(&mut socket) => {}
            () = leaving => {}
        }
    } else {
        let _ = socket.shutdown().await; // the other side may have closed first
    }
}

/// When to look at a connection again; `None` when it has used up its time.
fn next_look(config: &Config, doing: Doing, draining: bool, now: Instant) -> Option<Instant> {
    let ends = match doing {
        Doing::Handling => None, // handlers keep their own time
        Doing::Unread(since) => Some(since + config.write_timeout),
        // On the way out, half a head and a silent client have had their grace.
        Doing::Head(_) | Doing::Idle(_) if draining => return None,
        Doing::Head(since) => Some(since + config.header_timeout),
        Doing::Idle(since) => Some(since + config.idle_timeout),
    };
    // Nothing that begins after `now` can be over before this.
    let soonest = now + if draining { DRAIN_LOOK } else { shortest(config) };
    match ends {
        Some(end) if end <= now => None,
        Some(end) => Some(end.min(soonest)),
        None => Some(soonest),
    }
}

fn shortest(config: &Config) -> Duration {
    config.header_timeout.min(config.write_timeout).min(config.idle_timeout)
}

/// Ends our side and throws away what still comes, until the client ends its own or [`LINGER`] has passed.
async fn linger(socket: &mut TcpStream) {
    let _ = timeout(LINGER, async {
        if socket.shutdown().await.is_err() {
            return;
        }
        let mut waste = vec![0; LINGER_BUFFER];
        while matches!(socket.read(&mut waste).await, Ok(n) if n > 0) {}
    })
    .await;
}

/// Tells a client that there is no place for it.
pub(crate) async fn refuse(mut socket: TcpStream) {
    let _ = timeout(LINGER, async {
        if socket.write_all(&full()).await.is_ok() {
            linger(&mut socket).await;
        }
    })
    .await;
}

/// The answer to a request that is not read because there are too many connections.
fn full() -> Vec<u8> {
    let detail = "This server has as many connections as it may have. Try again.";
    let body = Problem::new(Code::Unavailable, detail).body("/");
    let id = request_id(&HeaderMap::new());
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: {RETRY_AFTER_SECONDS}\r\nx-request-id: {}\r\nconnection: close\r\n\r\n",
        body.len(),
        id.to_str().unwrap_or_default(),
    );
    [head.into_bytes(), body].concat()
}

/// The body of an answer. The request that it answers is over when this is gone, and not before: a stream of events may
/// last for hours in which the client sends nothing.
struct Answering {
    body: Body,
    activity: Arc<Activity>,
}

impl hyper::body::Body for Answering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.activity.end();
    }
}

/// The routes, with a note of when a request is with them.
struct Routed {
    router: Router,
    activity: Arc<Activity>,
}

impl Service<Request<Incoming>> for Routed {
    type Response = Response<Answering>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity.begin();
        let answer = tower::Service::call(&mut self.router.clone(), request.map(Body::new));
        let activity = Arc::clone(&self.activity);
        Box::pin(async move {
            let Ok(response) = answer.await;
            let closing = response.headers().get(header::CONNECTION).is_some_and(|v| v == "close");
            activity.answer(closing);
            Ok(response.map(|body| Answering { body, activity }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_cut_when_its_time_is_up_and_not_before() {
        let config = Config {
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            ..Config::default()
        };
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        for (doing, draining, now, want) in [
            (Doing::Handling, false, 100, Some(110)),
            (Doing::Head(at(5)), false, 10, Some(15)),
            (Doing::Head(at(5)), false, 15, None),
            (Doing::Idle(at(0)), false, 10, Some(20)),
            (Doing::Idle(at(0)), false, 70, Some(75)),
            (Doing::Idle(at(0)), false, 75, None),
            (Doing::Unread(at(0)), false, 25, Some(30)),
            (Doing::Unread(at(0)), true, 30, None),
            (Doing::Head(at(5)), true, 5, None),
            (Doing::Idle(at(5)), true, 5, None),
        ] {
            let got = next_look(&config, doing, draining, at(now));
            assert_eq!(got, want.map(at), "{doing:?} at {now}");
        }
        assert!(next_look(&config, Doing::Handling, true, start).is_some());
    }
}
