//! `/keys`: making, listing, rotating and ending API keys.
//!
//! Owns: their answers, and that nobody gives more than they have. Must not know: how keys are kept or recognised.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde_json::{Value, json};
use torpor_core::Timestamp;
use torpor_core::id::DEFAULT_TENANT;
use torpor_core::key::{Changed, Id, Inserted, Record, Rotation, Secret};
use torpor_core::problem::Code;

use crate::answer;
use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::routes::query::parameters;
use crate::submit::Shared;

mod read;

pub use read::MAX_OVERLAP_SECONDS;

/// How long the secret before goes on working after a rotation that says nothing else: a day, for whatever is restarted
/// by hand.
pub const USUAL_OVERLAP: Duration = Duration::from_secs(86_400);

/// A key as people may see it.
#[must_use]
pub fn show(key: &Record, now: Timestamp) -> Value {
    let at = |t: Option<Timestamp>| t.map(Timestamp::rfc3339);
    let status = match (key.revoked_at, key.is_live(now)) {
        (Some(_), _) => "revoked",
        (None, false) => "expired",
        (None, true) => "live",
    };
    let overlap = key.previous.as_ref().map(|p| p.until).filter(|until| *until > now && status == "live");
    let mut shown = json!({
        "id": key.id.as_str(), "name": key.name, "tenant": key.tenant, "status": status,
        "scopes": key.scopes.names().collect::<Vec<_>>(),
        "rate": key.rate.map(|r| json!({"perSecond": r.per_second, "burst": r.burst})),
        "createdAt": key.created_at.rfc3339(), "expiresAt": at(key.expires_at), "revokedAt": at(key.revoked_at),
        "rotatedAt": at(key.rotated_at), "overlapUntil": at(overlap),
    });
    if let Value::Object(map) = &mut shown {
        map.retain(|name, value| name == "tenant" || !value.is_null());
    }
    shown
}

/// A key with its secret: the one answer that carries it.
#[must_use]
pub fn show_secret(key: &Record, secret: &Secret, now: Timestamp) -> Value {
    json!({"secret": secret.expose(), "key": show(key, now)})
}

pub(crate) async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let asked = read::wish(body::json(request.into_body(), &shared).await?, shared.app.clock.now())?;
    let mut wish = asked.wish;
    if asked.every_tenant && !caller.is_everywhere() {
        return Err(Problem::new(Code::Forbidden, "A key for every tenant is made with one."));
    }
    if wish.rate.is_some() && !caller.is_everywhere() {
        return Err(Problem::new(Code::Forbidden, "A rate is given with a key for every tenant: it is the server's."));
    }
    // Whoever is held to a rate gives none of its keys a better one.
    if !caller.is_everywhere() {
        wish.rate = caller.key().and_then(|key| key.rate);
    }
    if !asked.every_tenant {
        let tenant = caller.acts_for(wish.tenant.as_deref()).ok_or_else(|| {
            Problem::new(Code::Forbidden, "The API key belongs to another tenant than the one that `tenant` names.")
        })?;
        wish.tenant = Some(tenant.to_owned());
    }
    let now = shared.app.clock.now();
    let (secret, record) = Record::issue(wish, now);
    match shared.app.keys.insert(record.clone()).await? {
        Inserted::Created => {}
        Inserted::Full => {
            let detail = "There are as many keys as there may be; a key that does not work any more is removed some \
                          time after its end.";
            return Err(Problem::new(Code::KeyConflict, detail));
        }
        Inserted::Taken => return Err(Problem::new(Code::Unavailable, "The key could not be made. Try again.")),
    }
    shared.ring.refresh();
    tracing::info!(new_key = %record.id, tenant = record.tenant.as_deref().unwrap_or("*"), "an API key was made");
    Ok(answer::json(StatusCode::CREATED, &show_secret(&record, &secret, now)))
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let mut tenant = None;
    for (name, value) in parameters(request.uri())? {
        match name.as_str() {
            "tenant" => tenant = Some(value),
            _ => return Err(Problem::field(Code::RequestInvalid, &name, "is not a known parameter; there is tenant")),
        }
    }
    let now = shared.app.clock.now();
    let keys = shared.app.keys.keys(None).await?.map(|all| all.keys).unwrap_or_default();
    let visible =
        keys.iter().filter(|key| owns(&caller, key) && tenant.as_ref().is_none_or(|t| key.tenant.as_ref() == Some(t)));
    let keys: Vec<Value> = visible.map(|key| show(key, now)).collect();
    Ok(answer::json(StatusCode::OK, &json!({ "keys": keys })))
}

pub(crate) async fn rotate(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let id = visible(&shared, &caller, request.uri(), "/rotate").await?;
    let overlap = read::overlap(body::json(request.into_body(), &shared).await?)?.unwrap_or(USUAL_OVERLAP);
    let (secret, at) = (Secret::generate(&id), shared.app.clock.now());
    let rotation = Rotation { digest: secret.digest(), at, overlap_until: at.after(overlap) };
    let record = changed(&shared, shared.app.keys.rotate(&id, rotation).await?)?;
    tracing::info!(changed_key = %id, "an API key got a new secret");
    Ok(answer::json(StatusCode::OK, &show_secret(&record, &secret, at)))
}

pub(crate) async fn revoke(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let id = visible(&shared, &caller, request.uri(), "").await?;
    let now = shared.app.clock.now();
    let record = changed(&shared, shared.app.keys.revoke(&id, now).await?)?;
    tracing::info!(changed_key = %id, "an API key was revoked");
    Ok(answer::json(StatusCode::OK, &show(&record, now)))
}

/// Whether a key exists for this caller: those for every tenant are managed by their like.
fn owns(caller: &Caller, key: &Record) -> bool {
    caller.sees(key.tenant.as_deref().unwrap_or(DEFAULT_TENANT)) && (key.tenant.is_some() || caller.is_everywhere())
}

/// The key that a path `/keys/{id}` with this suffix names.
async fn visible(shared: &Shared, caller: &Caller, uri: &Uri, suffix: &str) -> Result<Id, Problem> {
    let named = uri.path().strip_prefix("/keys/").and_then(|rest| rest.strip_suffix(suffix));
    let id = named.and_then(Id::parse).ok_or_else(unknown)?;
    let keys = shared.app.keys.keys(None).await?.map(|all| all.keys).unwrap_or_default();
    if keys.iter().any(|key| key.id == id && owns(caller, key)) { Ok(id) } else { Err(unknown()) }
}

fn changed(shared: &Shared, changed: Changed) -> Result<Box<Record>, Problem> {
    shared.ring.refresh();
    match changed {
        Changed::Done(record) => Ok(record),
        Changed::Unknown => Err(unknown()),
        Changed::Refused(why) => Err(Problem::new(Code::KeyConflict, format!("This key cannot be changed: {why}."))),
    }
}

fn unknown() -> Problem {
    Problem::new(Code::KeyNotFound, "There is no API key with this id.")
}
