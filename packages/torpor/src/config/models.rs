//! The settings of model providers.

use std::collections::BTreeMap;

use super::Reader;

/// Providers, and what is known of models.
pub(super) fn read(r: &mut Reader<'_>) -> torpor_model::Config {
    use torpor_model::Secret;
    use torpor_model::config::{CacheMarks, TokenField};

    let given = |r: &Reader<'_>, name: &str| r.text(name).filter(|t| !t.is_empty()).map(str::to_owned);
    let marks = [("auto", CacheMarks::Auto), ("on", CacheMarks::On), ("off", CacheMarks::Off)];
    let cache_marks = r.one_of("TORPOR_MODEL_CACHE", &marks).unwrap_or_default();
    let fields = [
        ("auto", TokenField::Auto),
        ("max_tokens", TokenField::MaxTokens),
        ("max_completion_tokens", TokenField::MaxCompletionTokens),
    ];
    let token_field = r.one_of("TORPOR_OPENAI_TOKEN_FIELD", &fields).unwrap_or_default();
    let max_output_tokens =
        r.optional_number("TORPOR_MODEL_MAX_OUTPUT_TOKENS", 1, 10_000_000).and_then(|n| u32::try_from(n).ok());
    let anthropic = torpor_model::config::Anthropic {
        api_key: given(r, "ANTHROPIC_API_KEY").map(Secret::new),
        auth_token: given(r, "ANTHROPIC_AUTH_TOKEN").map(Secret::new),
        base_url: given(r, "ANTHROPIC_BASE_URL"),
        cache_marks,
        max_output_tokens,
    };
    let openai = torpor_model::config::Openai {
        api_key: given(r, "OPENAI_API_KEY").map(Secret::new),
        base_url: given(r, "OPENAI_BASE_URL"),
        include_usage: r.flag("TORPOR_OPENAI_INCLUDE_USAGE"),
        max_output_tokens,
        token_field,
    };
    let limits = "`id=window/output` in tokens, output from 1 to window, with `/images` or `/text` behind it where that \
                  is to be said, separated by `,`";
    let models = r.parse("TORPOR_MODEL_LIMITS", limits, |t| {
        let parts = t.split(',').map(str::trim).filter(|p| !p.is_empty());
        parts.map(read_limits).collect::<Option<BTreeMap<_, _>>>()
    });
    let http = torpor_model::config::Http {
        idle_timeout: r.seconds("TORPOR_MODEL_IDLE_SECONDS", 1, 3600),
        ..torpor_model::config::Http::default()
    };
    torpor_model::Config { anthropic, openai, models: models.unwrap_or_default(), http }
}

/// `id=window/output`, and whether the model takes images; an id may hold `/` itself.
fn read_limits(text: &str) -> Option<(String, torpor_model::Limits)> {
    let (id, limits) = text.split_once('=')?;
    let mut parts = limits.split('/');
    let (context_window, max_output) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let images = match parts.next() {
        None => None,
        Some("images") => Some(true),
        Some("text") => Some(false),
        Some(_) => return None,
    };
    let possible = (1..=context_window).contains(&u64::from(max_output)) && parts.next().is_none();
    let limits = torpor_model::Limits { context_window, max_output, images };
    (possible && !id.is_empty()).then(|| (id.to_owned(), limits))
}
