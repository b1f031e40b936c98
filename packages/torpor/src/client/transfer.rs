//! Bodies that are not held whole: down piece by piece, up from a file. Must not know: what is in them.

use std::time::Duration;

use reqwest::Method;

use super::{Answer, Client};
use crate::cli::Error;

/// Longest silence in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest that sending a file may take, with the server's work on it.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(3_600);

/// An answer on its way.
pub(crate) struct Pieces(reqwest::Response);

impl Client {
    /// An answer to be read piece by piece.
    pub(crate) async fn download(&self, path: &str) -> Result<Pieces, Error> {
        let sent = tokio::time::timeout(SILENCE, self.request(Method::GET, path).send()).await;
        let silent = |_| Error::Unavailable(format!("{} does not answer", self.base));
        let response = sent.map_err(silent)?.map_err(|e| self.unreachable(&e))?;
        if response.status().is_success() {
            return Ok(Pieces(response));
        }
        self.read(response).await?.success()?;
        Err(Error::Unavailable("the server gave no answer".into()))
    }

    /// Sends a file.
    pub(crate) async fn upload(&self, path: &str, file: tokio::fs::File) -> Result<Answer, Error> {
        let request = self.request(Method::POST, path).timeout(UPLOAD_TIMEOUT);
        let request = request.header("content-type", "application/x-ndjson").body(file);
        self.read(request.send().await.map_err(|e| self.unreachable(&e))?).await
    }
}

impl Pieces {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>>, Error> {
        match tokio::time::timeout(SILENCE, self.0.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(_)) | Err(_) => Err(Error::Unavailable("the answer was cut off; try again".into())),
        }
    }
}
