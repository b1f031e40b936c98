//! Seam: a tool as the model sees it.

use serde_json::Value;

use crate::message::ToolResult;
use crate::outcome::Verdict;

/// What the model is told about a tool. Constant for a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Name.
    pub name: &'static str,
    /// What it does and how to use it well.
    pub description: &'static str,
    /// JSON Schema of the arguments: an object.
    pub schema: Value,
}

/// Where a tool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the sandbox, by the hands.
    Sandbox,
    /// In the brain, on the session itself; no effect outside the log.
    Session,
    /// Nowhere: a person answers.
    Person,
}

/// What a session tool did.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionEffect {
    /// What the model is told.
    pub result: ToolResult,
    /// The verdict, if this call delivered it: the run is over.
    pub verdict: Option<Verdict>,
}

/// A tool. Its arguments have passed `spec().schema` before `run_session` is called.
pub trait Tool: Send + Sync + 'static {
    /// What the model is told.
    fn spec(&self) -> &Spec;

    /// Where it runs. `Sandbox` tools are sent to the hands by name and have no code here.
    fn place(&self) -> Place;

    /// Runs a session tool. Must be pure: after a crash it may run again with the same arguments.
    fn run_session(&self, input: &Value) -> SessionEffect;
}
