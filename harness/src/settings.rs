//! What an operator may set about the loop, and which model a run gets.

use std::time::Duration;

use torpor_core::envelope::{Budget, Spec, Work};
use torpor_core::gate::Rule;
use torpor_core::model;
use torpor_core::price::{Price, Prices, Usd};

use crate::approval::Policy;

/// How often and how patiently a failed model call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Requests in all, the first included.
    pub attempts: u32,
    /// Wait before the second; doubled for each further one, with up to a quarter of jitter.
    pub base: Duration,
    /// Longest wait, also for what a provider asks for.
    pub cap: Duration,
}

/// Limits that hold where a run names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Model calls of a free-form run.
    pub prompt_turns: u32,
    /// Model calls of a review.
    pub review_turns: u32,
    /// Tokens of all kinds; `None` is no limit.
    pub tokens: Option<u64>,
    /// Seconds since the run started; `None` is no limit.
    pub seconds: Option<u64>,
    /// Cost; `None` is no limit.
    pub cost: Option<Usd>,
}

/// Settings of the loop.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model of a run that names none.
    pub model: model::Ref,
    /// Providers that a run may name.
    pub providers: Vec<String>,
    /// What models cost.
    pub prices: Prices,
    /// Repeating failed model calls.
    pub retry: RetryPolicy,
    /// Default limits.
    pub limits: Limits,
    /// Calls that need approval in every run, beside a run's own rules.
    pub approvals: Vec<Rule>,
    /// How long a gate waits for a verdict before the default one falls; `None` is for ever.
    pub gate_ttl: Option<Duration>,
    /// Tool calls of one message that run at once.
    pub parallel_calls: usize,
    /// How long a leaf waits for its store to come back before it stops (the log stays as it is).
    pub store_patience: Duration,
}

impl Settings {
    /// The defaults, with this model.
    #[must_use]
    pub fn new(model: model::Ref) -> Self {
        Self {
            providers: vec![model.provider.clone()],
            model,
            prices: Prices::default(),
            retry: RetryPolicy { attempts: 5, base: Duration::from_secs(1), cap: Duration::from_secs(60) },
            limits: Limits { prompt_turns: 200, review_turns: 40, tokens: None, seconds: None, cost: None },
            approvals: Vec::new(),
            gate_ttl: Some(Duration::from_secs(7 * 86_400)),
            parallel_calls: 16,
            store_patience: Duration::from_secs(30),
        }
    }

    /// The model that a run gets.
    ///
    /// # Errors
    /// [`UnknownModel`] for a provider that is not configured. `scripted` can only be configured, never named by a
    /// run: its model id is a path on this machine.
    pub fn resolve(&self, spec: &Spec) -> Result<model::Ref, UnknownModel> {
        let named = |provider: &str| provider != "scripted" && self.providers.iter().any(|p| p == provider);
        let unknown = |provider: &str| UnknownModel {
            provider: provider.to_owned(),
            known: self.providers.iter().filter(|p| *p != "scripted").cloned().collect(),
        };
        match (spec.provider.as_deref(), spec.model.as_deref()) {
            (None, None) => Ok(self.model.clone()),
            (Some(p), m) if p == self.model.provider && m.is_none_or(|m| m == self.model.model) => {
                Ok(self.model.clone())
            }
            (Some(p), _) if !named(p) => Err(unknown(p)),
            (Some(p), Some(m)) => Ok(model::Ref { provider: p.into(), model: m.into() }),
            (Some(p), None) => Ok(model::Ref { provider: p.into(), model: self.model.model.clone() }),
            (None, Some(m)) if m == self.model.model || m == self.model.to_string() => Ok(self.model.clone()),
            (None, Some(m)) => match m.split_once('/') {
                Some((p, rest)) if named(p) && !rest.is_empty() => {
                    Ok(model::Ref { provider: p.into(), model: rest.into() })
                }
                _ if named(&self.model.provider) => {
                    Ok(model::Ref { provider: self.model.provider.clone(), model: m.into() })
                }
                _ => Err(unknown(m)),
            },
        }
    }

    /// What needs approval in a run.
    pub(crate) fn policy(&self, spec: &Spec) -> Result<Policy, String> {
        Policy::new(&[&self.approvals[..], &spec.approvals].concat())
    }

    /// Checks the rules that hold for every run.
    ///
    /// # Errors
    /// A sentence that names the rule and what is wrong with it.
    pub fn check_approvals(&self) -> Result<(), String> {
        Policy::new(&self.approvals).map(drop)
    }

    /// The limits of a run: its own where it names them.
    pub(crate) fn budget(&self, spec: &Spec) -> Budget {
        let turns = match spec.work {
            Work::Prompt { .. } | Work::Inputs { .. } => self.limits.prompt_turns,
            Work::Review { .. } => self.limits.review_turns,
        };
        Budget {
            max_turns: spec.budget.max_turns.or(Some(turns)),
            max_tokens: spec.budget.max_tokens.or(self.limits.tokens),
            max_seconds: spec.budget.max_seconds.or(self.limits.seconds),
            max_cost: spec.budget.max_cost.or(self.limits.cost),
        }
    }

    /// Checks that a limit of cost can be kept with this model.
    ///
    /// # Errors
    /// What is missing, and how it is said.
    pub fn check_price(&self, model: &model::Ref) -> Result<Price, String> {
        self.prices.of(model).ok_or_else(|| {
            format!(
                "cannot be kept: no price is known for {model}; it is declared with \
                 TORPOR_MODEL_PRICES={model}=input/output/cacheRead/cacheWrite, in dollars for a million tokens"
            )
        })
    }
}

/// A run named a model that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("provider or model {provider:?} is not available here; configured providers: {}", .known.join(", "))]
pub struct UnknownModel {
    /// What was named.
    pub provider: String,
    /// What there is.
    pub known: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gets_the_model_it_names_if_it_may() {
        let mut settings = Settings::new(model::Ref::parse("anthropic/claude-x").unwrap());
        let resolve = |s: &Settings, provider: Option<&str>, model: Option<&str>| {
            let spec = Spec { provider: provider.map(Into::into), model: model.map(Into::into), ..Spec::prompt("p") };
            s.resolve(&spec).map(|r| r.to_string()).map_err(|e| e.to_string())
        };
        for (provider, model, want) in [
            (None, None, "anthropic/claude-x"),
            (None, Some("claude-y"), "anthropic/claude-y"),
            (None, Some("anthropic/claude-y"), "anthropic/claude-y"),
            (None, Some("meta/llama"), "anthropic/meta/llama"),
            (Some("anthropic"), None, "anthropic/claude-x"),
            (Some("anthropic"), Some("a/b"), "anthropic/a/b"),
        ] {
            assert_eq!(resolve(&settings, provider, model), Ok(want.to_owned()), "{provider:?} {model:?}");
        }
        assert!(resolve(&settings, Some("openai"), None).unwrap_err().contains("configured providers: anthropic"));
        assert!(resolve(&settings, Some("scripted"), Some("/etc/passwd")).is_err());

        settings.model = model::Ref::parse("scripted:/demo.json").unwrap();
        settings.providers = vec!["scripted".into()];
        assert_eq!(resolve(&settings, None, None), Ok("scripted:/demo.json".into()));
        assert!(resolve(&settings, None, Some("/etc/passwd")).is_err());
        assert!(resolve(&settings, None, Some("scripted:/etc/passwd")).is_err());
    }
}
