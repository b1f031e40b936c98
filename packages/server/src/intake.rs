//! What makes a submit acceptable, whoever brings it: a request, a schedule, or a file in the inbox.
//!
//! Owns: those checks, and the way in for runs that no request brings. Must not know: what requests and answers look
//! like.

use async_trait::async_trait;
use serde_json::Value;
use torpor_core::envelope::{self, Envelope, Spec};
use torpor_core::problem::Code;
use torpor_core::queue::{Expects, NewRun};
use torpor_core::volume::Task;
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

/// Makes places of the paths that the envelope names. Where there are API keys, each tenant has a part of the volume, and
/// no path leads out of it.
pub(crate) async fn locate(app: &App, new: &mut NewRun) -> Result<(), Problem> {
    let Some(field) = new.spec.needs_volume() else { return Ok(()) };
    let Some(volume) = &app.volume else {
        let message = "is refused: no shared volume is configured here (TORPOR_WORK_ROOT)";
        return Err(Problem::field(Code::EnvelopeInvalid, field, message));
    };
    let keys = app.keys.keys(None).await?;
    let tenant = keys.is_some_and(|all| !all.keys.is_empty()).then(|| new.session.tenant());
    new.spec.locate(|path| volume.place(tenant, path))?;
    // Where others do the work, the volume is theirs to see.
    if app.local.is_some()
        && let Err(e) = volume.ready().await
    {
        tracing::warn!(error = %e, "the shared volume is not there");
        return Err(Problem::new(
            Code::Unavailable,
            format!("The shared volume, which `{field}` needs, is not there (TORPOR_WORK_ROOT). Nothing was accepted."),
        ));
    }
    Ok(())
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
    let (code, _, _) = problem.code().describe();
    torpor_schedule::Refused { code, detail: problem.detail().to_owned(), passing: is_passing(problem) }
}

/// Whether the same may be taken later.
fn is_passing(problem: &Problem) -> bool {
    matches!(problem.code().describe().1, 429 | 503)
}

impl Intake {
    /// The run that a task asks for.
    async fn task(&self, envelope: Value, task: &Task, tenant: &str) -> Result<NewRun, Problem> {
        let mut envelope = envelope::parse(envelope)?;
        let field = |field, message: &str| Problem::field(Code::EnvelopeInvalid, field, message);
        if envelope.decision.is_some() {
            return Err(field("decision", "must not stand in a task: a verdict is a file of its own"));
        }
        if envelope.tenant.as_deref().is_some_and(|named| named != tenant) {
            return Err(field("tenant", "must be the inbox's own, or absent"));
        }
        envelope.tenant = Some(tenant.to_owned());
        let session = || format!("inbox/{}/{}", task.name, task.claim);
        envelope.session_id = Some(envelope.session_id.take().unwrap_or_else(session));
        let idempotency = Some(Key::Task(&task.claim).with(envelope.body_hash.clone()));
        let mut new = checked(&self.0, &Caller::anybody(), envelope, None)?;
        new.spec.task = Some(task.clone());
        locate(&self.0, &mut new).await?;
        Ok(NewRun { idempotency, trace: Some(trace::Context::fresh()), ..new })
    }
}

#[async_trait]
impl torpor_files::Submit for Intake {
    async fn submit(
        &self,
        envelope: Value,
        task: &Task,
        tenant: &str,
    ) -> Result<torpor_files::Taken, torpor_files::Refused> {
        let taken = async {
            let new = self.task(envelope, task, tenant).await?;
            let expects = new.expects;
            match submit::accept(&self.0, new, false).await? {
                Accepted::Expired => Ok(torpor_files::Taken::Expired),
                accepted => accepted.ticket(expects).map(|ticket| match ticket.settled {
                    Some(record) if record.status.is_terminal() => torpor_files::Taken::Ended(record),
                    _ => torpor_files::Taken::Run(ticket.run),
                }),
            }
        };
        taken.await.map_err(|problem: Problem| torpor_files::Refused {
            passing: is_passing(&problem),
            detail: problem.detail().to_owned(),
        })
    }
}

#[async_trait]
impl torpor_schedule::Submit for Intake {
    async fn submit(&self, envelope: Value) -> Result<Option<RunId>, torpor_schedule::Refused> {
        let taken = async {
            let mut new = self.read(envelope)?;
            locate(&self.0, &mut new).await?;
            let expects = new.expects;
            match submit::accept(&self.0, new, false).await? {
                Accepted::Expired => Ok(None),
                accepted => accepted.ticket(expects).map(|ticket| Some(ticket.run)),
            }
        };
        taken.await.map_err(|problem: Problem| refused(&problem))
    }
}
