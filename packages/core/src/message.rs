//! What a conversation is made of. Neutral between providers, except for the parts that a provider signed:
//! those are kept exactly as they came.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model asks for a tool.
    ToolUse {
        /// The provider's id of this use; results refer to it.
        id: String,
        /// Tool name.
        name: String,
        /// Arguments, complete and well-formed JSON.
        input: Value,
    },
    /// A part that only its provider understands (signed thinking, for instance), kept verbatim and sent back to
    /// that provider only.
    Opaque {
        /// Provider name, as in `provider/model`.
        provider: String,
        /// The part as it came.
        value: Value,
    },
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// It had nothing more to say.
    EndTurn,
    /// It wants its tool calls answered.
    ToolUse,
    /// The output limit cut it off. Tool calls of such a message are not acted on.
    MaxTokens,
    /// It refused for policy reasons.
    Refusal,
}

impl StopReason {
    /// The name used on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndTurn => "end_turn",
            Self::ToolUse => "tool_use",
            Self::MaxTokens => "max_tokens",
            Self::Refusal => "refusal",
        }
    }
}

/// Tokens spent. All counts are tokens as the provider reported them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Fresh input.
    pub input: u64,
    /// Output, thinking included.
    pub output: u64,
    /// Input served from the provider's cache.
    pub cache_read: u64,
    /// Input written to the provider's cache.
    pub cache_write: u64,
}

impl Usage {
    /// All four together; what a token budget counts.
    #[must_use]
    pub fn total(&self) -> u64 {
        let cached = self.cache_read.saturating_add(self.cache_write);
        self.input.saturating_add(self.output).saturating_add(cached)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, o: Self) {
        // What a provider reports is input: absurd numbers must exhaust a budget, not wrap around it.
        self.input = self.input.saturating_add(o.input);
        self.output = self.output.saturating_add(o.output);
        self.cache_read = self.cache_read.saturating_add(o.cache_read);
        self.cache_write = self.cache_write.saturating_add(o.cache_write);
    }
}

/// A complete answer of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assistant {
    /// The parts, in order.
    pub blocks: Vec<Block>,
    /// Why it stopped.
    pub stop: StopReason,
    /// What it cost.
    pub usage: Usage,
}

impl Assistant {
    /// The text parts, joined.
    #[must_use]
    pub fn text(&self) -> String {
        let parts: Vec<&str> = self
            .blocks
            .iter()
            .filter_map(|b| if let Block::Text { text } = b { Some(text.as_str()) } else { None })
            .collect();
        parts.join("")
    }

    /// The same with an id of its own for every tool use. A use whose id came before in the message gets a number behind
    /// it: results, intents and verdicts name uses by id, and none of them may reach another use than the one meant.
    #[must_use]
    pub fn with_distinct_uses(mut self) -> Self {
        let mut taken: HashSet<String> = HashSet::new();
        for block in &mut self.blocks {
            if let Block::ToolUse { id, .. } = block {
                if taken.contains(id) {
                    let fresh = (2_u64..).map(|n| format!("{id}_{n}")).find(|fresh| !taken.contains(fresh));
                    *id = fresh.unwrap_or_default(); // there are more numbers than uses
                }
                taken.insert(id.clone());
            }
        }
        self
    }
}

/// What a picture counts, in tokens, where nothing was counted by a provider. Pictures are made smaller before a model
/// sees them, so their bytes say nothing; this is about what the largest one costs with most models.
pub const IMAGE_TOKENS: u64 = 1_600;

/// One part of a tool's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Content {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture. A text beside it says what it is, for those who cannot see it.
    #[serde(rename_all = "camelCase")]
    Image {
        /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`, by what the file holds.
        media_type: String,
        /// The file in base64.
        data: String,
    },
}

impl Content {
    /// The text of a text part.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text { text } => Some(text),
            Self::Image { .. } => None,
        }
    }
}

/// What the model is told about a tool call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolResult {
    /// The parts, in order.
    pub content: Vec<Content>,
    /// Whether the model should read this as a failure.
    #[serde(default)]
    pub is_error: bool,
}

impl ToolResult {
    /// A successful text answer.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { content: vec![Content::Text { text: text.into() }], is_error: false }
    }

    /// A failed text answer.
    #[must_use]
    pub fn error(text: impl Into<String>) -> Self {
        Self { is_error: true, ..Self::text(text) }
    }

    /// The text parts, joined by line breaks.
    #[must_use]
    pub fn as_text(&self) -> String {
        let parts: Vec<&str> = self.content.iter().filter_map(Content::as_text).collect();
        parts.join("\n")
    }

    /// Whether there is anything to be seen in it.
    #[must_use]
    pub fn has_images(&self) -> bool {
        self.content.iter().any(|c| matches!(c, Content::Image { .. }))
    }

    /// The same with `note` in the place of every picture that `keep` refuses.
    #[must_use]
    pub fn replace_images(&self, note: &str, mut keep: impl FnMut() -> bool) -> Self {
        let part = |part: &Content| match part {
            Content::Image { .. } if !keep() => Content::Text { text: note.to_owned() },
            part => part.clone(),
        };
        Self { content: self.content.iter().map(part).collect(), is_error: self.is_error }
    }
}
