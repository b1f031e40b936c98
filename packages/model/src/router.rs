//! One client for all providers: it looks at the provider's name and passes the call on.
//!
//! Owns: the table of providers. Must not know: anything about a provider beyond its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use torpor_core::message::Assistant;
use torpor_core::model::{Delta, Error, ModelClient, Prepared, Ref, Request, Retry};

use crate::anthropic::Anthropic;
use crate::config::{self, Config};
use crate::openai::Openai;
use crate::redact::Redactor;
use crate::remote::Remote;
use crate::scripted::Scripted;
use crate::transport::Transport;
use crate::window::{Known, Limits};

/// The names of the providers that this build knows.
pub const PROVIDERS: [&str; 3] = [crate::anthropic::PROVIDER, crate::openai::PROVIDER, crate::scripted::PROVIDER];

/// Every provider this build knows, as one [`ModelClient`].
///
/// Making it costs next to nothing: no connection, no TLS set-up, no file is touched before the first call.
pub struct Models {
    providers: BTreeMap<&'static str, Box<dyn ModelClient>>,
    known: Known,
}

impl Models {
    /// Joins the providers. A provider without credentials is there all the same and says so when it is called.
    ///
    /// # Errors
    /// A setting that can never work, named; credentials are not repeated.
    pub fn new(config: &Config) -> Result<Self, config::Error> {
        let transport = Arc::new(Transport::new(config.http.clone()));
        let secrets = [&config.anthropic.api_key, &config.anthropic.auth_token, &config.openai.api_key];
        let redactor = Redactor::new(secrets.into_iter().flatten().cloned());
        let known = Known::new(&config.models)?;
        let anthropic =
            Remote::new(Anthropic::new(&config.anthropic)?, transport.clone(), redactor.clone(), known.clone());
        let openai = Remote::new(Openai::new(&config.openai)?, transport, redactor, known.clone());
        let mut providers: BTreeMap<&'static str, Box<dyn ModelClient>> = BTreeMap::new();
        providers.insert(crate::anthropic::PROVIDER, Box::new(anthropic));
        providers.insert(crate::openai::PROVIDER, Box::new(openai));
        providers.insert(crate::scripted::PROVIDER, Box::new(Scripted::default()));
        Ok(Self { providers, known })
    }

    /// The names of the providers, sorted.
    pub fn providers(&self) -> impl Iterator<Item = &'static str> {
        self.providers.keys().copied()
    }

    /// How much a model reads and writes: what the operator declared, else what its family is known to allow, else a
    /// cautious guess. Pure; never fails.
    #[must_use]
    pub fn limits(&self, model: &Ref) -> Limits {
        self.known.of(model)
    }

    fn provider(&self, name: &str) -> Result<&dyn ModelClient, Error> {
        self.providers.get(name).map(AsRef::as_ref).ok_or_else(|| {
            let known: Vec<&str> = self.providers().collect();
            Error::new(Retry::Never, format!("unknown model provider {name:?}; known are: {}", known.join(", ")))
        })
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("providers", &self.providers.keys()).finish()
    }
}

#[async_trait]
impl ModelClient for Models {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Error> {
        self.provider(&request.model.provider)?.prepare(request)
    }

    async fn send(&self, prepared: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, Error> {
        self.provider(&prepared.model.provider)?.send(prepared, deltas).await
    }
}
