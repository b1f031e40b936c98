//! A run's event stream, read event by event. Must not know: what events mean, or when to come back for more.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use torpor_model::sse::Decoder;

use super::{Client, path};
use crate::cli::Error;

/// Longest silence: comments come every 15 s, so a connection that is silent for longer is none.
const SILENCE: Duration = Duration::from_secs(45);
/// Largest event that is read: an entry of the log with room to spare.
const MAX_EVENT: usize = 64 << 20;

/// An open stream.
pub(crate) struct Events {
    response: reqwest::Response,
    decoder: Decoder,
    decoded: Vec<torpor_model::sse::Event>,
    ready: VecDeque<Value>,
}

impl Client {
    /// The events of a run after position `after`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where it is worth coming back.
    pub(crate) async fn events(&self, run: &str, after: u64) -> Result<Events, Error> {
        let request = self.request(Method::GET, &path(&["runs", run, "events"], &[]));
        let sent = request.header("last-event-id", after).send();
        let response = match tokio::time::timeout(SILENCE, sent).await {
            Ok(response) => response.map_err(|e| self.unreachable(&e))?,
            Err(_) => return Err(Error::Unavailable(format!("{} does not answer", self.base))),
        };
        if !response.status().is_success() {
            self.read(response).await?.success()?;
            return Err(Error::Unavailable("the server gave no events".into()));
        }
        Ok(Events { response, decoder: Decoder::new(MAX_EVENT), decoded: Vec::new(), ready: VecDeque::new() })
    }
}

impl Events {
    /// The next event: an entry of the log with its `position`, or something between entries without one. `None` when
    /// the stream has ended, in order or not. Cancellation safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Ok(Ok(Some(piece))) = tokio::time::timeout(SILENCE, self.response.chunk()).await else {
                return Ok(None);
            };
            let fits = self.decoder.push(&piece, &mut self.decoded);
            for event in self.decoded.drain(..) {
                let mut data: Value = serde_json::from_str(&event.data)
                    .map_err(|_| Error::Other(anyhow::anyhow!("the server sent an event that is not JSON")))?;
                if let Some(fields) = data.as_object_mut()
                    && !fields.contains_key("type")
                {
                    fields.insert("type".into(), event.name.into());
                }
                self.ready.push_back(data);
            }
            fits.map_err(|e| Error::Other(anyhow::anyhow!("the server sent something too large: {e}")))?;
        }
    }
}
