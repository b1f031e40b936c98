//! A provider behind HTTP: one wire format joined to the transport.
//!
//! Owns: the order of a call (post, decode as it comes, insist on the end) and that no credential leaves in an error.
//! Must not know: any particular wire format.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use torpor_core::message::Assistant;
use torpor_core::model::{Delta, Error, ModelClient, Prepared, Request, Retry};

use crate::images;
use crate::redact::Redactor;
use crate::sse;
use crate::transport::{Call, Failure, Refusal, Reply, Transport};
use crate::window::Known;

/// Bytes of a request that make one token, about; errs on the high side for prose.
const BYTES_PER_TOKEN: u64 = 4;

/// A provider's wire format: pure, no I/O. A new provider is a new one of these.
pub(crate) trait Wire: Send + Sync + 'static {
    /// The request body. The same request always makes the same bytes. `declared_output` is the output limit that
    /// the operator has declared for this model, in tokens.
    fn encode(&self, request: &Request<'_>, declared_output: Option<u32>) -> Result<Bytes, Error>;
    /// Where and how to post a body.
    fn call(&self, body: Bytes) -> Call;
    /// Reads one streamed answer.
    fn decoder(&self) -> Box<dyn Decode>;
    /// Reads an answer that came in one piece though a stream was asked for.
    fn decode_whole(&self, body: &[u8]) -> Result<Assistant, Error>;
    /// What an answer without success means. Redirects are none of its business.
    fn refusal(&self, refusal: &Refusal) -> Error;
}

/// Assembles one answer from its events.
pub(crate) trait Decode: Send {
    /// Takes the next event. True once the answer has reached its proper end.
    fn event(&mut self, event: &sse::Event, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<bool, Error>;
    /// The whole answer; an error unless `event` said that the end was reached.
    fn finish(self: Box<Self>) -> Result<Assistant, Error>;
}

/// Makes what the seam calls a prepared request; `room` is the number of input tokens that fit.
pub(crate) fn prepared(request: &Request<'_>, body: Bytes, room: u64) -> Prepared {
    let fingerprint = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let estimate = images::estimate(body.len(), request.messages, BYTES_PER_TOKEN);
    Prepared { model: request.model.clone(), body, fingerprint, estimate, room, trace: None }
}

/// A [`ModelClient`] for one wire format.
pub(crate) struct Remote<W> {
    wire: W,
    transport: Arc<Transport>,
    redactor: Redactor,
    known: Known,
}

impl<W: Wire> Remote<W> {
    pub(crate) fn new(wire: W, transport: Arc<Transport>, redactor: Redactor, known: Known) -> Self {
        Self { wire, transport, redactor, known }
    }

    async fn exchange(&self, prepared: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, Error> {
        let mut call = self.wire.call(prepared.body.clone());
        if let Some(trace) = &prepared.trace {
            call.follow(trace);
        }
        let mut reply = match self.transport.post(call).await {
            Ok(reply) => reply,
            Err(Failure::Broken(e)) => return Err(e),
            Err(Failure::Refused(refusal)) if refusal.status.is_redirection() => {
                return Err(Error::new(Retry::Never, refusal.words("redirects are not followed")));
            }
            Err(Failure::Refused(refusal)) => return Err(self.wire.refusal(&refusal)),
        };
        match reply.media_type().as_str() {
            "text/event-stream" => {
                let mut decoder = self.wire.decoder();
                read_stream(&mut reply, decoder.as_mut(), self.transport.max_event_bytes(), deltas).await?;
                let answer = decoder.finish()?;
                reply.finish().await;
                Ok(answer)
            }
            "application/json" => {
                let mut whole = Vec::new();
                while let Some(piece) = reply.piece().await? {
                    whole.extend_from_slice(&piece);
                }
                let answer = self.wire.decode_whole(&whole)?;
                deltas(Delta::Text(answer.text()));
                Ok(answer)
            }
            other => Err(Error::new(
                Retry::Backoff,
                format!("the model's endpoint answered with content type {other:?}, expected \"text/event-stream\""),
            )),
        }
    }
}

async fn read_stream(
    reply: &mut Reply,
    decoder: &mut dyn Decode,
    max_event_bytes: usize,
    deltas: &mut (dyn FnMut(Delta) + Send),
) -> Result<(), Error> {
    let mut stream = sse::Decoder::new(max_event_bytes);
    let mut events = Vec::new();
    while let Some(piece) = reply.piece().await? {
        let pushed = stream.push(&piece, &mut events);
        for event in events.drain(..) {
            if decoder.event(&event, deltas)? {
                return Ok(());
            }
        }
        pushed.map_err(|e| Error::new(Retry::Backoff, format!("the model's stream cannot be read: {e}")))?;
    }
    Ok(())
}

#[async_trait]
impl<W: Wire> ModelClient for Remote<W> {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, Error> {
        let messages = images::sent(request.messages, self.known.takes_images(request.model));
        let request = &Request { messages: &messages, ..*request };
        let declared = self.known.declared(request.model).map(|l| l.max_output);
        let limits = self.known.of(request.model);
        let room = limits.context_window.saturating_sub(limits.max_output.into());
        Ok(prepared(request, self.wire.encode(request, declared)?, room))
    }

    async fn send(&self, prepared: &Prepared, deltas: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, Error> {
        let answer = self.exchange(prepared, deltas).await;
        answer.map_err(|e| Error { message: self.redactor.clean(&e.message), ..e })
    }
}
