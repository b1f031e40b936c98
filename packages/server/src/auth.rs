//! Who calls, and whether they may: the one layer that every request passes before its handler.
//!
//! Owns: reading credentials (and taking them off the request, so that nothing behind this layer can log or store
//! one), the answers 401, 403 and 429, and ending what a key had begun when the key ends. Must not know: what any
//! handler does.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use torpor_core::key::{Dead, Presented, Scope};
use torpor_core::problem::Code;

use crate::problem::Problem;
use crate::submit::Shared;

mod access;
mod bucket;
mod caller;
mod local;
mod ring;

use access::{Access, Route};
use bucket::Taken;
pub(crate) use caller::Caller;
pub(crate) use ring::Ring;

/// Where clients of other agent services put their key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Lets a request through to its handler, or answers it.
pub(crate) async fn guard(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let credential = take_credential(request.headers_mut());
    // What matches no route is answered 404 by the fallback, to anybody.
    let Some(path) = request.extensions().get::<MatchedPath>().cloned() else { return next.run(request).await };
    let access = match access::of(request.method(), path.as_str()) {
        Route::Is(Access::Public) => return next.run(request).await,
        Route::Is(access) => access,
        Route::Takes(methods) => return wrong_method(request.method(), &methods),
        Route::Unlisted => {
            tracing::error!(path = path.as_str(), "a route has no entry in the table of who may use it");
            return Problem::new(Code::NotFound, "No route has this path.").into_response();
        }
    };
    let caller = match identify(&shared, credential).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if caller.shown().is_none() && shared.config.local_only && !local::is_meant(request.uri(), request.headers()) {
        return Problem::new(
            Code::Forbidden,
            "This server has no API keys and answers only what is meant for its own machine; `Host` or `Origin` names \
             another. Make a key with `torpor keys create`, or start it with --insecure-no-auth if something in front \
             of it authenticates.",
        )
        .closing()
        .into_response();
    }
    let taken = caller.take(&shared);
    let mut response = match (&taken, check(&caller, access)) {
        (Some(taken), _) if !taken.allowed => too_often(taken).into_response(),
        (_, Err(problem)) => problem.into_response(),
        (_, Ok(())) => run(&shared, caller, request, next).await,
    };
    if let Some(taken) = taken {
        let headers = response.headers_mut();
        for (name, n) in [(LIMIT, taken.limit), (REMAINING, taken.remaining), (RESET, taken.reset_seconds)] {
            headers.insert(name, HeaderValue::from(n));
        }
    }
    response
}

/// Runs the handler for as long as the key lives: a wait or an event stream ends with the key that began it.
async fn run(shared: &Arc<Shared>, caller: Caller, mut request: Request, next: Next) -> Response {
    let Some(shown) = caller.shown().cloned() else {
        request.extensions_mut().insert(caller);
        return next.run(request).await;
    };
    tracing::Span::current().record("key", shown.id.as_str());
    request.extensions_mut().insert(caller);
    let response = tokio::select! {
        biased;
        response = next.run(request) => response,
        () = shared.ring.ended(&shown) => return refused(shared, "The API key ended while the request was waiting."),
    };
    let streams = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "text/event-stream");
    if !streams {
        return response;
    }
    let shared = Arc::clone(shared);
    response.map(|body| {
        let ended = async move { shared.ring.ended(&shown).await };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(ended)))
    })
}

/// What a request showed. Afterwards the request has it no more.
enum Credential {
    None,
    /// Something that is no key of this program, or no credential at all.
    Strange,
    Shown(Presented),
}

/// `x-api-key` counts before `Authorization`, which something on the way may use for itself.
fn take_credential(headers: &mut HeaderMap) -> Credential {
    let once = |headers: &HeaderMap, name: HeaderName| {
        let mut all = headers.get_all(&name).iter();
        let first = all.next().cloned();
        first.map(|value| if all.next().is_none() { value } else { HeaderValue::from_static("") })
    };
    let read = |value: &[u8]| {
        let presented = std::str::from_utf8(value).ok().and_then(|text| Presented::read(text.trim()));
        presented.map_or(Credential::Strange, Credential::Shown)
    };
    let (own, general) = (once(headers, API_KEY), once(headers, header::AUTHORIZATION));
    for name in [API_KEY, header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE] {
        headers.remove(name);
    }
    match (own, general) {
        (Some(value), _) => read(value.as_bytes()),
        (None, Some(value)) => match value.as_bytes().split_at_checked("Bearer ".len()) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => read(token),
            _ => Credential::Strange,
        },
        (None, None) => Credential::None,
    }
}

/// Who shows this credential. A server that has never had a key asks nobody.
async fn identify(shared: &Shared, credential: Credential) -> Result<Caller, Problem> {
    let keys = shared.ring.now().await?;
    if let Credential::Shown(shown) = &credential
        && let Some(held) = keys.find(&shown.id)
    {
        match held.record.admits(&shown.digest, shared.app.clock.now()) {
            Ok(()) => return Ok(Caller::new(held, shown)),
            Err(_) if !keys.locked => {}
            Err(Dead::Wrong) => {}
            Err(Dead::Expired) => return Err(stranger(shared, "The API key has expired.")),
            Err(Dead::Revoked) => return Err(stranger(shared, "The API key was revoked.")),
        }
    }
    match credential {
        _ if !keys.locked => Ok(Caller::anybody()),
        Credential::None => Err(stranger(
            shared,
            "This server wants an API key, as `Authorization: Bearer <key>` or as `x-api-key: <key>`.",
        )),
        Credential::Strange | Credential::Shown(_) => {
            Err(stranger(shared, "The credential is not an API key of this server."))
        }
    }
}

fn check(caller: &Caller, access: Access) -> Result<(), Problem> {
    match access {
        Access::Public => Ok(()),
        Access::Needs(scope) => caller.needs(scope),
        Access::Everywhere(scope) if caller.is_everywhere() => caller.needs(scope),
        Access::Everywhere(_) => Err(Problem::new(
            Code::Forbidden,
            "This answer is about every tenant, and the API key belongs to one: a key for every tenant is needed.",
        )),
        // Whoever makes the first key locks the server: that is for its owner.
        Access::Keys if caller.shown().is_none() => Err(Problem::new(
            Code::Forbidden,
            "This server has no API keys yet. Its first ones are made on its own machine, with `torpor keys create`, \
             or come from its keys file.",
        )),
        Access::Keys => caller.needs(Scope::Admin),
    }
}

/// 401, without reading the rest of the request; 429 once there are too many of them.
fn stranger(shared: &Shared, detail: &str) -> Problem {
    tracing::debug!(detail, "a request was refused: it showed no key that works");
    let taken = shared.ring.strangers(shared.app.clock.now());
    if !taken.allowed {
        return too_often(&taken).closing();
    }
    Problem::new(Code::Unauthorized, detail).header(header::WWW_AUTHENTICATE, "Bearer realm=\"torpor\"").closing()
}

fn refused(shared: &Shared, detail: &str) -> Response {
    stranger(shared, detail).into_response()
}

fn too_often(taken: &Taken) -> Problem {
    let seconds = taken.retry_seconds;
    Problem::new(Code::RateLimited, format!("Too many requests. Try again in {seconds} s."))
        .header(header::RETRY_AFTER, &seconds.to_string())
        .closing()
}

fn wrong_method(method: &Method, takes: &str) -> Response {
    Problem::wrong_method(method).header(header::ALLOW, takes).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use torpor_core::key::{Id, Secret};

    use super::*;

    fn take(headers: &[(&'static str, &str)]) -> (Option<bool>, HeaderMap) {
        let pairs = headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap()));
        let mut map = HeaderMap::new();
        pairs.for_each(|(n, v)| {
            map.append(n, v);
        });
        let credential = take_credential(&mut map);
        let read = match credential {
            Credential::None => None,
            Credential::Strange => Some(false),
            Credential::Shown(_) => Some(true),
        };
        (read, map)
    }

    #[test]
    fn a_credential_is_read_and_taken_off() {
        let key = Secret::generate(&Id::generate()).expose().to_owned();
        let (bearer, lower, basic) = (format!("Bearer {key}"), format!("bearer  {key}"), format!("Basic {key}"));
        for (headers, want) in [
            (vec![], None),
            (vec![("authorization", &*bearer)], Some(true)),
            (vec![("authorization", &*lower)], Some(true)),
            (vec![("authorization", &*basic)], Some(false)),
            (vec![("authorization", &*key)], Some(false)),
            (vec![("authorization", "Bearer")], Some(false)),
            (vec![("x-api-key", &*key)], Some(true)),
            (vec![("x-api-key", "sk-other")], Some(false)),
            (vec![("x-api-key", &*key), ("authorization", "Bearer of-a-proxy")], Some(true)),
            (vec![("x-api-key", &*key), ("x-api-key", &*key)], Some(false)),
            (vec![("authorization", &*bearer), ("authorization", &*bearer)], Some(false)),
        ] {
            let (read, left) = take(&headers);
            assert_eq!(read, want, "{headers:?}");
            assert!(left.is_empty(), "{left:?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_upsets_the_reader(value in proptest::collection::vec(0x20u8..=0xff, 0..120)) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                for name in [API_KEY, header::AUTHORIZATION] {
                    let mut headers = HeaderMap::from_iter([(name, value.clone())]);
                    take_credential(&mut headers);
                    prop_assert!(headers.is_empty());
                }
            }
        }
    }
}
