//! What a message tells, read back from its body.

use serde::Deserialize;

use super::{Kind, Message};
use crate::clock::Timestamp;
use crate::id::SessionKey;
use crate::outcome::Status;

/// What a message tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub kind: Kind,
    /// When.
    pub at: Timestamp,
    /// In which session.
    pub session: SessionKey,
    /// How the run stood with it.
    pub status: Status,
}

impl Message {
    /// What it tells; `None` for a body that this build cannot read.
    #[must_use]
    pub fn told(&self) -> Option<Told> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            r#type: Kind,
            created_at: String,
            data: Data,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data {
            session_id: String,
            tenant: String,
            status: Status,
        }
        let Body { r#type: kind, created_at, data } = serde_json::from_str(&self.body).ok()?;
        let session = SessionKey::new(&data.tenant, &data.session_id).ok()?;
        Some(Told { kind, at: Timestamp::parse_rfc3339(&created_at)?, session, status: data.status })
    }
}
