//! Who calls, for handlers: which tenant a request acts for, what it may see and do.
//!
//! Owns: the walls between tenants. Must not know: how a caller was recognised.
//!
//! Handlers take a [`Caller`] as an argument, and ask it: [`Caller::acts_for`] where a request may name a tenant,
//! [`Caller::run`] or [`Caller::may_touch`] where it names a run, [`Caller::needs`] where a field needs a scope of its
//! own. What is another tenant's gets the very answer of what does not exist.

use std::fmt;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::request::Parts;
use torpor_core::RunId;
use torpor_core::id::DEFAULT_TENANT;
use torpor_core::key::{Presented, Record, Scope};
use torpor_core::problem::Code;
use torpor_core::run;

use super::bucket::Taken;
use super::ring::Held;
use crate::problem::Problem;
use crate::submit::Shared;

/// Who sent a request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller(Option<(Arc<Held>, Presented)>);

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(&self.shown().map(|s| &s.id)).finish()
    }
}

impl Caller {
    /// Whoever showed this secret of this key.
    pub(super) fn new(key: &Arc<Held>, shown: &Presented) -> Self {
        Self(Some((Arc::clone(key), shown.clone())))
    }

    /// Whoever reaches a server without keys, and whoever runs it: may do everything for every tenant.
    pub(crate) fn anybody() -> Self {
        Self(None)
    }

    /// What it showed; `None` where nobody asks.
    pub(super) fn shown(&self) -> Option<&Presented> {
        self.0.as_ref().map(|(_, shown)| shown)
    }

    /// Takes a token of its key; `None` where there is no key.
    pub(super) fn take(&self, shared: &Shared) -> Option<Taken> {
        let (held, _) = self.0.as_ref()?;
        Some(held.bucket.take(held.record.rate.unwrap_or(shared.config.rate), shared.app.clock.now()))
    }

    /// Its key, if it has one.
    pub(crate) fn key(&self) -> Option<&Record> {
        self.0.as_ref().map(|(held, _)| &held.record)
    }

    /// The one tenant that it may act for; `None` for every tenant.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.key().and_then(|key| key.tenant.as_deref())
    }

    /// Whether it may act for every tenant.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.tenant().is_none()
    }

    /// The tenant that a request acts for which names `named`, or none. `None` if that is another's: the answer is then
    /// the one for something that does not exist.
    pub(crate) fn acts_for<'a>(&'a self, named: Option<&'a str>) -> Option<&'a str> {
        match (self.tenant(), named) {
            (Some(own), Some(named)) => (own == named).then_some(own),
            (Some(own), None) => Some(own),
            (None, named) => Some(named.unwrap_or(DEFAULT_TENANT)),
        }
    }

    /// Narrows a list to what exists for this caller; `false` if that is nothing, because the list was to be another
    /// tenant's.
    pub(crate) fn narrow(&self, tenant: &mut Option<String>) -> bool {
        if self.is_everywhere() {
            return true;
        }
        let own = self.acts_for(tenant.as_deref()).map(str::to_owned);
        let some = own.is_some();
        *tenant = own;
        some
    }

    /// Whether what belongs to `tenant` exists for this caller.
    pub(crate) fn sees(&self, tenant: &str) -> bool {
        self.tenant().is_none_or(|own| own == tenant)
    }

    /// Refuses a caller without this scope.
    pub(crate) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        match self.key() {
            Some(key) if !key.scopes.allow(scope) => {
                let name = scope.as_str();
                let detail = format!("This needs the scope `{name}`, which the API key does not have.");
                Err(Problem::new(Code::Forbidden, detail).with("scope", name.into()))
            }
            _ => Ok(()),
        }
    }

    /// The record of a run that exists for this caller.
    pub(crate) async fn run(&self, shared: &Shared, id: &RunId) -> Result<run::Record, Problem> {
        let record = shared.app.runs.get(id).await?;
        record.filter(|r| self.sees(r.session.tenant())).ok_or_else(Problem::unknown_run)
    }

    /// Refuses a run that does not exist for this caller, before anything is done to it. Costs nothing where every run
    /// may be touched; whether the run exists at all is then still to be seen.
    pub(crate) async fn may_touch(&self, shared: &Shared, id: &RunId) -> Result<(), Problem> {
        if self.is_everywhere() { Ok(()) } else { self.run(shared, id).await.map(drop) }
    }
}

/// A handler behind the layer always has one; without the layer there is nobody to answer.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!(path = parts.uri.path(), "a handler asked who calls on a route that asks nobody");
            Problem::new(Code::Internal, "The request could not be answered because of a fault in the server.")
        })
    }
}
