//! The OpenAI Chat Completions API as a wire format, as its inventor and the many others who speak it use it.
//!
//! Owns: headers, authentication, the output limit's field; encoding, decoding and the meaning of errors are its
//! submodules. Must not know: sockets, retries, other providers.

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use torpor_core::message::Assistant;
use torpor_core::model::{Error, Request, Retry};

use crate::config::{self, OPENAI_BASE_URL, TokenField};
use crate::remote::{Decode, Wire};
use crate::transport::{self, Call, Refusal};
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
        let path = "/v1/chat/completions";
        let (url, own) = config::target("openai.base_url", config.base_url.as_deref(), OPENAI_BASE_URL, path)?;
        let mut headers = transport::headers();
        if let Some(key) = &config.api_key {
            headers.insert(AUTHORIZATION, key.header("openai.api_key", "Bearer ")?);
        }
        Ok(Self {
            // A server of one's own often wants no credential; the provider itself always does.
            has_credential: config.api_key.is_some() || !own,
            completion_field: match config.token_field {
                TokenField::Auto => own,
                TokenField::MaxTokens => false,
                TokenField::MaxCompletionTokens => true,
            },
            url,
            headers,
            include_usage: config.include_usage,
            max_output_tokens: config::output_limit("openai.max_output_tokens", config.max_output_tokens)?,
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
