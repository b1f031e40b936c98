//! [`Session`] as the brain's seam sees it.
//!
//! Owns: the translation of errors and endings. Must not know: anything else.

use async_trait::async_trait;
use torpor_core::CallId;
use torpor_core::message::ToolResult;
use torpor_core::sandbox::{self, Identity, LastCall, Sandbox};

use crate::client::{Error, Session};
use crate::message::{Code, Exit};

impl From<Error> for sandbox::Error {
    fn from(e: Error) -> Self {
        match e {
            Error::Fenced { mine, current } => Self::Fenced { mine, current },
            Error::Refused(r)
                if matches!(r.code, Code::Invalid | Code::UnknownCall | Code::NotOpen | Code::Conflict) =>
            {
                Self::Refused(r.message)
            }
            Error::Busy(why) => Self::Busy(why),
            other => Self::None(other.to_string()),
        }
    }
}

#[async_trait]
impl Sandbox for Session {
    fn identity(&self) -> &Identity {
        Self::identity(self)
    }

    fn last_call(&self) -> Option<&LastCall> {
        Self::last_call(self)
    }

    async fn call(&self, call: sandbox::Call) -> Result<sandbox::Ended, sandbox::Error> {
        let ended = self.traced_call(call).await?;
        Ok(match (ended.exit, ended.result) {
            (Exit::Lost(why), _) => sandbox::Ended::Lost(why),
            (_, Some(result)) => sandbox::Ended::Finished(result),
            (exit, None) => sandbox::Ended::Finished(ToolResult::error(format!("no result ({exit:?})"))),
        })
    }

    async fn cancel(&self, id: &CallId) -> Result<(), sandbox::Error> {
        Ok(Self::cancel(self, id.clone()).await?)
    }
}
