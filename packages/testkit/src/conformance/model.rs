//! Promises of [`ModelClient`].

use std::any::Any;
use std::sync::Arc;

use torpor_core::message::{Assistant, Block, StopReason};
use torpor_core::model::{Delta, Error, Message, ModelClient, Ref, Request, Retry};
use torpor_core::tool;

use super::soon;

/// A model to test, and what to say to it.
pub struct Model {
    /// The client.
    pub client: Arc<dyn ModelClient>,
    /// A model it knows.
    pub model: Ref,
    /// A user message that is answered with the text `done`.
    pub says: String,
    /// A user message that is answered with one call of the tool `bash`, arguments `{"command": "true"}`.
    pub calls: String,
    /// User messages whose answers break: each with a name for the fault.
    pub faults: Vec<(&'static str, String)>,
    /// Whatever must live as long as the model.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl Model {
    async fn ask(&self, user: &str, deltas: &mut Vec<Delta>) -> Result<Assistant, Error> {
        let messages = [Message::User(user.into())];
        let bash = tool();
        let request = Request { model: &self.model, system: "Be brief.", tools: &[&bash], messages: &messages };
        let prepared = self.client.prepare(&request).unwrap();
        soon(self.client.send(&prepared, &mut |d| deltas.push(d))).await
    }
}

fn tool() -> tool::Spec {
    tool::Spec { name: "bash", description: "Run a command.", schema: serde_json::json!({"type": "object"}) }
}

/// The same request has the same bytes; another has others.
pub async fn preparing_is_pure(m: Model) {
    let prepare = |text: &str| {
        let messages = [Message::User(text.into())];
        let bash = tool();
        let request = Request { model: &m.model, system: "s", tools: &[&bash], messages: &messages };
        m.client.prepare(&request).unwrap()
    };
    let (a, b, c) = (prepare("hello"), prepare("hello"), prepare("hello!"));
    assert_eq!((&a.body, &a.fingerprint), (&b.body, &b.fingerprint));
    assert_ne!(a.fingerprint, c.fingerprint);
    assert_eq!(a.fingerprint.len(), 64);
    assert!(a.estimate > 0);
}

/// A provider that is not there is refused before anything is sent, and for good.
pub async fn an_unknown_provider_is_refused_for_good(m: Model) {
    let model = Ref { provider: "no-such-provider".into(), model: "m".into() };
    let messages = [Message::User("hello".into())];
    let request = Request { model: &model, system: "s", tools: &[], messages: &messages };
    let error = m.client.prepare(&request).unwrap_err();
    assert_eq!(error.retry, Retry::Never);
    assert!(error.message.contains("no-such-provider"), "{error}");
}

/// An answer comes whole, with its usage, and its pieces add up to it.
pub async fn an_answer_comes_whole(m: Model) {
    let mut deltas = Vec::new();
    let answer = m.ask(&m.says, &mut deltas).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.stop), ("done", StopReason::EndTurn));
    let pieces: String =
        deltas.iter().filter_map(|d| if let Delta::Text(t) = d { Some(t.as_str()) } else { None }).collect();
    assert_eq!(pieces, "done");
}

/// Tool arguments are complete objects.
pub async fn tool_arguments_are_objects(m: Model) {
    let answer = m.ask(&m.calls, &mut Vec::new()).await.unwrap();
    let uses: Vec<_> = answer.blocks.iter().filter(|b| matches!(b, Block::ToolUse { .. })).collect();
    let [Block::ToolUse { id, name, input }] = uses[..] else { panic!("{answer:?}") };
    assert_eq!((name.as_str(), input["command"].as_str()), ("bash", Some("true")));
    assert!(!id.is_empty());
    assert_eq!(answer.stop, StopReason::ToolUse);
}

/// What breaks off, or is no answer, is an error that may pass; it is never an answer to act on.
pub async fn a_broken_answer_is_an_error_to_retry(m: Model) {
    for (name, user) in &m.faults {
        let error = m.ask(user, &mut Vec::new()).await.expect_err(name);
        assert_ne!(error.retry, Retry::Never, "{name}: {error}");
        assert!(!error.message.is_empty(), "{name}");
    }
}
