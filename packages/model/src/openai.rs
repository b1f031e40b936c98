//! The OpenAI Chat Completions API as a wire format, as its inventor and the many others who speak it use it.
//!
//! Owns: headers, authentication, the output limit's field; encoding, decoding and the meaning of errors are its
//! submodules. Must not know: sockets, retries, other providers.

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use torpor_core::message::Assistant;
use torpor_core::model::{Error, Request, Retry};

use crate::config::{self, OPENAI_BASE_URL, TokenField};
use crate::remote::{Decode, Wire};
use crate::transport::{Call, Refusal};
use crate::window;

mod call;
mod decode;
mod encode;
mod problem;

/// The provider's name, as in `openai/<model>`.
pub(crate) const PROVIDER: &str = "openai";

/// The wire format with its settings.
pub(crate) struct Openai {
    url: Url,
    headers: HeaderMap,
    has_credential: bool,
    include_usage: bool,
    max_output_tokens: Option<u32>,
    /// Whether the output limit goes by its newer name.
    completion_field: bool,
}

impl Openai {
    pub(crate) fn new(config: &config::Openai) -> Result<Self, config::Error> {
        let url = |base: &str| config::endpoint("openai.base_url", base, "/v1/chat/completions");
        let default = url(OPENAI_BASE_URL)?;
        let endpoint = config.base_url.as_deref().map_or_else(|| Ok(default.clone()), url)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, key.header("openai.api_key", "Bearer ")?);
        }
        if config.max_output_tokens == Some(0) {
            let problem = "expected at least 1".into();
            return Err(config::Error { setting: "openai.max_output_tokens", problem });
        }
        Ok(Self {
            // A server of one's own often wants no credential; the provider itself always does.
            has_credential: config.api_key.is_some() || endpoint != default,
            completion_field: match config.token_field {
                TokenField::Auto => endpoint == default,
                TokenField::MaxTokens => false,
                TokenField::MaxCompletionTokens => true,
            },
            url: endpoint,
            headers,
            include_usage: config.include_usage,
            max_output_tokens: config.max_output_tokens,
        })
    }
}

impl Wire for Openai {
    fn encode(&self, request: &Request<'_>, declared_output: Option<u32>) -> Result<Bytes, Error> {
        if !self.has_credential {
            return Err(Error::new(Retry::Never, "no credential for the OpenAI API: set an API key"));
        }
        // Without a limit that somebody set, the server's own counts: one that is too large for its window would be
        // refused, and only the server knows that window.
        let max_output = window::cap(self.max_output_tokens, declared_output);
        let options = encode::Options {
            include_usage: self.include_usage,
            max_tokens: max_output.filter(|_| !self.completion_field),
            max_completion_tokens: max_output.filter(|_| self.completion_field),
        };
        encode::body(request, &options)
    }

    fn call(&self, body: Bytes) -> Call {
        Call { url: self.url.clone(), headers: self.headers.clone(), body }
    }

    fn decoder(&self) -> Box<dyn Decode> {
        Box::new(decode::Answer::default())
    }

    fn decode_whole(&self, body: &[u8]) -> Result<Assistant, Error> {
        decode::whole(body)
    }

    fn refusal(&self, refusal: &Refusal) -> Error {
        problem::refused(refusal)
    }
}

#[cfg(test)]
mod tests;
