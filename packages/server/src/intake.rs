//! What makes a submit acceptable, whoever brings it: a request, or a schedule.
//!
//! Owns: those checks, and the way in for runs that no request brings. Must not know: what requests and answers look
//! like.

use async_trait::async_trait;
use serde_json::Value;
use torpor_core::envelope::{self, Envelope, Spec};
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};
use torpor_core::{RunId, SessionKey, trace, webhook};
use torpor_harness::Refused;

use crate::app::App;
use crate::auth::Caller;
use crate::problem::Problem;
use crate::submit::{self, Accepted, Key};

/// The run that an envelope asks for, if it may be made.
pub(crate) fn checked(app: &App, caller: &Caller, envelope: Envelope, key: Option<&str>) -> Result<NewRun, Problem> {
    check_spec(app, &envelope.spec)?;
    let new = new_run(caller, envelope, key)?;
    check_webhook(app, &new)?;
    Ok(new)
}

/// Refuses at once what could only fail later.
fn check_spec(app: &App, spec: &Spec) -> Result<(), Problem> {
    torpor_harness::check(spec, &app.settings, app.sandbox.as_deref()).map_err(|e| match e {
        Refused::Field { field, message } => Problem::field(Code::EnvelopeInvalid, field, message),
        Refused::NoSandbox(_) => Problem::new(Code::NoSandbox, format!("{e}.")),
    })
}

/// Refuses a target that could never be reached, or whose secret is not there.
fn check_webhook(app: &App, new: &NewRun) -> Result<(), Problem> {
    let Some(target) = &new.spec.webhook else { return Ok(()) };
    let Some(webhooks) = &app.webhooks else {
        return Err(Problem::field(Code::EnvelopeInvalid, "webhook", "is refused: nothing here sends webhooks"));
    };
    let refused = |e: webhook::Refused| Problem::field(Code::EnvelopeInvalid, e.field, e.message);
    webhooks.check(new.session.tenant(), target).map_err(refused)
}

fn new_run(caller: &Caller, envelope: Envelope, key: Option<&str>) -> Result<NewRun, Problem> {
    let key = key.map(Key::Header).or_else(|| envelope.session_id.as_deref().map(Key::Session));
    let idempotency = key.map(|key| key.with(envelope.body_hash));
    let fresh;
    let session = match &envelope.session_id {
        Some(id) => id,
        None => {
            fresh = uuid::Uuid::new_v4().to_string();
            &fresh
        }
    };
    let tenant = caller.acts_for(envelope.tenant.as_deref()).ok_or_else(|| {
        Problem::new(Code::Forbidden, "The API key belongs to another tenant than the one that `tenant` names.")
    })?;
    // Both parts were checked by the envelope's parser.
    let session = SessionKey::new(tenant, session)
        .map_err(|e| Problem::field(Code::EnvelopeInvalid, "sessionId", e.to_string()))?;
    Ok(NewRun {
        run_id: RunId::generate(),
        session,
        spec: envelope.spec,
        idempotency,
        expects: Expects::New,
        not_before: envelope.not_before,
        priority: envelope.priority,
        interrupt: false,
        claim_for: None,
        trace: None,
    })
}

/// The way in for runs that no request brings: the same checks and the same queue, for any tenant. Cheap to clone.
#[derive(Clone)]
pub struct Intake(App);

impl Intake {
    /// Takes what this server would take.
    #[must_use]
    pub fn new(app: &App) -> Self {
        Self(app.clone())
    }

    /// Whether an envelope would be taken, as far as that can be said without the store.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, envelope: Value) -> Result<(), torpor_schedule::Refused> {
        self.read(envelope).map(drop).map_err(|problem| refused(&problem))
    }

    fn read(&self, envelope: Value) -> Result<NewRun, Problem> {
        let new = checked(&self.0, &Caller::anybody(), envelope::parse(envelope)?, None)?;
        // Nobody's request stands behind it, so it is the root of a trace.
        Ok(NewRun { trace: Some(trace::Context::fresh()), ..new })
    }
}

fn refused(problem: &Problem) -> torpor_schedule::Refused {
    let (code, status, _) = problem.code().describe();
    torpor_schedule::Refused { code, detail: problem.detail().to_owned(), passing: matches!(status, 429 | 503) }
}

#[async_trait]
impl torpor_schedule::Submit for Intake {
    async fn submit(&self, envelope: Value) -> Result<Option<RunId>, torpor_schedule::Refused> {
        let taken = async {
            let new = self.read(envelope)?;
            let expects = new.expects;
            match submit::accept(&self.0, new, false).await? {
                Accepted::Expired => Ok(None),
                accepted => accepted.ticket(expects).map(|ticket| Some(ticket.run)),
            }
        };
        taken.await.map_err(|problem: Problem| refused(&problem))
    }
}
