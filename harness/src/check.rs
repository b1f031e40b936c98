//! What makes a run acceptable here: asked when it is submitted, and again when it starts (settings may have changed
//! in between).

use torpor_core::envelope::{Spec, Work};
use torpor_core::id::SessionKey;
use torpor_core::outcome::FailReason;
use torpor_core::sandbox::SandboxTransport;
use torpor_core::tool::Place;

use crate::approval::Policy;
use crate::catalogue;
use crate::output::Output;
use crate::settings::Settings;

/// Why a run cannot be worked on here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A field asks for something that is not there. Field name and what was expected.
    #[error("`{field}` {message}")]
    Field {
        /// The envelope's field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// It needs a sandbox, for the reason given, and none is configured.
    #[error("{0}, and no sandbox is configured")]
    NoSandbox(&'static str),
}

impl Refused {
    /// The reason of a run that ends with this.
    #[must_use]
    pub fn reason(&self) -> FailReason {
        match self {
            Self::Field { .. } => FailReason::BadInputs,
            Self::NoSandbox(_) => FailReason::NoSandbox,
        }
    }
}

/// Checks a run against what there is. No I/O.
///
/// # Errors
/// [`Refused`] with the first thing that is missing.
pub fn check(spec: &Spec, settings: &Settings, sandbox: Option<&dyn SandboxTransport>) -> Result<(), Refused> {
    let field = |field, message: String| Err(Refused::Field { field, message });
    if let Some(tools) = &spec.tools
        && let Err(e) = catalogue::check_names(tools)
    {
        return field("tools", e.to_string());
    }
    if let Err(e) = Policy::new(&spec.approvals) {
        return field("approvals", e);
    }
    if let Some(Err(e)) = spec.output_schema.as_ref().map(Output::new) {
        return field("outputSchema", e);
    }
    let model = match settings.resolve(spec) {
        Ok(model) => model,
        Err(e) => {
            return field(if spec.provider.is_some() { "provider" } else { "model" }, format!("cannot be used: {e}"));
        }
    };
    if let (Some(_), Err(e)) = (settings.budget(spec).max_cost, settings.check_price(&model)) {
        return field("budget.maxCostUsd", e);
    }
    let Some(sandbox) = sandbox else {
        return match needs_sandbox(spec) {
            Some(why) => Err(Refused::NoSandbox(why)),
            None => Ok(()),
        };
    };
    // Whether a workspace is allowed does not depend on the session.
    if let Ok(any) = SessionKey::new("t", "s")
        && let Err(e) = sandbox.workdir(&any, spec.workspace_ref.as_deref())
    {
        return field("workspaceRef", format!("is refused: {e}"));
    }
    Ok(())
}

/// What about a run needs a sandbox for certain. A free-form prompt may turn out to need none.
fn needs_sandbox(spec: &Spec) -> Option<&'static str> {
    let sandboxed = |name: &String| catalogue::find(name).is_some_and(|k| k.tool.place() == Place::Sandbox);
    if matches!(spec.work, Work::Review { .. }) {
        Some("`item` is a review, which reads files")
    } else if spec.tools.iter().flatten().any(sandboxed) {
        Some("`tools` names tools that run there")
    } else if spec.workspace_ref.is_some() {
        Some("`workspaceRef` names a folder there")
    } else {
        None
    }
}
