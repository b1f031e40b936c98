//! How much a model reads and writes.
//!
//! Owns: the limits that operators declare, those that are known by family, and the fallback. Must not know: how a
//! conversation is made to fit.

use std::collections::BTreeMap;

use torpor_core::model::Ref;

use crate::config;

/// Limits of one model, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Input and output of one call together.
    pub context_window: u64,
    /// Output of one call.
    pub max_output: u32,
    /// Whether it takes images; `None`: not said. A model that is not known to is told of them in words, since a
    /// server whose model takes none refuses the whole request.
    pub images: Option<bool>,
}

/// A model that takes images.
const fn limits(context_window: u64, max_output: u32) -> Limits {
    Limits { context_window, max_output, images: Some(true) }
}

/// A model that takes text only.
const fn text_only(context_window: u64, max_output: u32) -> Limits {
    Limits { context_window, max_output, images: Some(false) }
}

/// For a model that nobody has said anything about. Most open models of the last years are served with at least this
/// window; a server that was started with a smaller one needs a declaration.
const FALLBACK: Limits = Limits { context_window: 128_000, max_output: 8_192, images: None };

/// Limits by the beginning of a model's id; the first that fits counts, so longer beginnings stand before shorter ones.
/// Source: the model overviews of the two makers (docs.claude.com "Models overview"; platform.openai.com, the page of
/// each model). Where members of a family differ, the smallest counts: too small costs a summary, too large a refusal.
const FAMILIES: &[(&str, Limits)] = &[
    ("claude-2.0", text_only(100_000, 4_096)),
    ("claude-2", text_only(200_000, 4_096)),
    ("claude-instant", text_only(100_000, 4_096)),
    ("claude-3-5-", limits(200_000, 8_192)),
    ("claude-3-haiku", limits(200_000, 4_096)),
    ("claude-3-opus", limits(200_000, 4_096)),
    ("claude-3-sonnet", limits(200_000, 4_096)),
    ("claude-", limits(200_000, 32_000)),
    ("gpt-3.5", text_only(16_385, 4_096)),
    ("gpt-4-turbo", limits(128_000, 4_096)),
    ("gpt-4.1", limits(1_047_576, 32_768)),
    ("gpt-4o", limits(128_000, 16_384)),
    ("gpt-4-32k", text_only(32_768, 8_192)),
    ("gpt-4", text_only(8_192, 8_192)),
    ("gpt-5-chat", limits(128_000, 16_384)),
    ("gpt-5", limits(400_000, 128_000)),
    ("o1-mini", text_only(128_000, 65_536)),
    ("o1-preview", text_only(128_000, 32_768)),
    ("o1", limits(200_000, 100_000)),
    ("o3-mini", text_only(200_000, 100_000)),
    ("o3", limits(200_000, 100_000)),
    ("o4-mini", limits(200_000, 100_000)),
];

/// What operators have declared, over what is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(BTreeMap<String, Limits>);

impl Known {
    /// Checks the declarations. A key is a model's id, or `provider/id` for one provider only.
    pub(crate) fn new(declared: &BTreeMap<String, Limits>) -> Result<Self, config::Error> {
        for (id, l) in declared {
            if l.max_output == 0 || u64::from(l.max_output) > l.context_window {
                let problem = format!(
                    "{id}: expected an output limit from 1 to the context window of {} tokens, got {}",
                    l.context_window, l.max_output
                );
                return Err(config::Error { setting: "models", problem });
            }
        }
        Ok(Self(declared.clone()))
    }

    /// What was declared for a model; the more specific key wins.
    pub(crate) fn declared(&self, model: &Ref) -> Option<Limits> {
        self.0.get(&model.to_string()).or_else(|| self.0.get(&model.model)).copied()
    }

    /// Whether a model is known to take images.
    pub(crate) fn takes_images(&self, model: &Ref) -> bool {
        let declared = self.declared(model).and_then(|l| l.images);
        declared.or_else(|| family(&model.model)?.images).unwrap_or(false)
    }

    /// What is known about a model, however little.
    pub(crate) fn of(&self, model: &Ref) -> Limits {
        self.declared(model).or_else(|| family(&model.model)).unwrap_or(FALLBACK)
    }
}

/// What a family is known to allow. Gateways put the maker before the id (`maker/model`).
pub(crate) fn family(model: &str) -> Option<Limits> {
    let name = model.rsplit('/').next().unwrap_or(model);
    FAMILIES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, limits)| *limits)
}

/// The output limit to ask for: what the operator set for every call, but no more than what was declared for this
/// model; `None` when neither was said.
pub(crate) fn cap(setting: Option<u32>, declared: Option<u32>) -> Option<u32> {
    match (setting, declared) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(declared: &[(&str, Limits)]) -> Result<Known, config::Error> {
        Known::new(&declared.iter().map(|(id, l)| ((*id).to_owned(), *l)).collect())
    }

    #[test]
    fn what_is_declared_beats_what_is_known_beats_the_fallback() {
        let known = known(&[("tiny", limits(4_096, 512)), ("openai/gpt-4o", limits(64_000, 1_000))]).unwrap();
        let cases = [
            ("openai/tiny", limits(4_096, 512)),
            ("anthropic/tiny", limits(4_096, 512)),
            ("openai/gpt-4o", limits(64_000, 1_000)),
            ("anthropic/gpt-4o", limits(128_000, 16_384)),
            ("openai/openai/gpt-4o-mini", limits(128_000, 16_384)),
            ("openai/gpt-4-0613", text_only(8_192, 8_192)),
            ("openai/gpt-4.1-nano", limits(1_047_576, 32_768)),
            ("openai/gpt-5.1", limits(400_000, 128_000)),
            ("openai/o3-mini", text_only(200_000, 100_000)),
            ("anthropic/claude-opus-9", limits(200_000, 32_000)),
            ("anthropic/claude-3-5-haiku-latest", limits(200_000, 8_192)),
            ("openai/qwen3-coder", FALLBACK),
            ("scripted:/turns.json", FALLBACK),
        ];
        for (model, expected) in cases {
            assert_eq!(known.of(&Ref::parse(model).unwrap()), expected, "{model}");
        }
        // A beginning that stands behind a shorter one would never be found.
        for (i, (prefix, _)) in FAMILIES.iter().enumerate() {
            assert!(FAMILIES[..i].iter().all(|(p, _)| !prefix.starts_with(p)), "{prefix}");
        }
    }

    #[test]
    fn images_are_for_models_that_are_known_to_take_them() {
        let declared = Limits { images: Some(true), ..FALLBACK };
        let silent = Limits { images: None, ..FALLBACK };
        let known = known(&[("llava", declared), ("claude-9", silent), ("gpt-4o-text", text_only(9, 1))]).unwrap();
        for (model, expected) in [
            ("openai/llava", true),
            ("anthropic/claude-9", true),
            ("openai/gpt-4o-text", false),
            ("anthropic/claude-haiku-4-5", true),
            ("openai/o3", true),
            ("openai/o3-mini", false),
            ("openai/gpt-4", false),
            ("openai/qwen3-coder", false),
        ] {
            assert_eq!(known.takes_images(&Ref::parse(model).unwrap()), expected, "{model}");
        }
    }

    #[test]
    fn declarations_that_cannot_be_true_are_refused() {
        for wrong in [limits(10, 0), limits(10, 11), limits(0, 0)] {
            let e = known(&[("m", wrong)]).unwrap_err().to_string();
            assert!(e.starts_with("models: m: expected"), "{e}");
        }
    }

    #[test]
    fn the_smaller_output_limit_counts() {
        let cases =
            [(None, None, None), (Some(1), None, Some(1)), (None, Some(2), Some(2)), (Some(3), Some(2), Some(2))];
        for (setting, declared, expected) in cases {
            assert_eq!(cap(setting, declared), expected);
        }
    }
}
