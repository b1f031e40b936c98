//! Every tool use of a conversation has its answer, in order, right after it: each wire format insists on that.
//!
//! Owns: which uses wait for an answer, and what stands for what cannot be sent. Must not know: any wire format.

use torpor_core::message::{Assistant, Block, ToolResult};
use torpor_core::model::{Error, Retry};

/// What stands for a text without any visible character; providers refuse those.
const BLANK: &str = "(blank)";
/// The answer to a call that has none: it was never carried out.
pub(crate) const NOT_RUN: &str = "This call was not carried out.";

/// Tool uses that wait for their answer, in order.
#[derive(Debug, Default)]
pub(crate) struct Uses<'a>(Vec<&'a str>);

impl<'a> Uses<'a> {
    /// Takes the uses of an answer of the model.
    pub(crate) fn ask(&mut self, answer: &'a Assistant) {
        self.0.extend(answer.blocks.iter().filter_map(|b| match b {
            Block::ToolUse { id, .. } => Some(id.as_str()),
            _ => None,
        }));
    }

    /// Gives every waiting use its result, in the order of the uses; `None` for one that was never carried out.
    ///
    /// # Errors
    /// A result that no use waits for.
    pub(crate) fn answer(
        &mut self,
        results: &'a [(String, ToolResult)],
    ) -> Result<impl Iterator<Item = (&'a str, Option<&'a ToolResult>)> + use<'a>, Error> {
        if let Some((stray, _)) = results.iter().find(|(id, _)| !self.0.contains(&id.as_str())) {
            let text =
                format!("the conversation holds a result for tool use {stray:?}, which the model did not ask for");
            return Err(Error::new(Retry::Never, text));
        }
        let uses = std::mem::take(&mut self.0).into_iter();
        Ok(uses.map(|id| (id, results.iter().find(|(of, _)| of == id).map(|(_, r)| r))))
    }
}

/// The text, or what stands for it when there is nothing to see.
pub(crate) fn visible(text: &str) -> &str {
    if text.trim().is_empty() { BLANK } else { text }
}
