//! `GET /schedules`, `GET /schedules/{id}`, and `POST /schedules/{id}/pause`, `/resume` and `/fire`.
//!
//! Owns: their answers. Must not know: when anything is due, or what a fire posts.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use torpor_core::id::DEFAULT_TENANT;
use torpor_core::problem::Code;
use torpor_core::schedule::{Accepted, Fire, FireId, Refusal};
use torpor_schedule::{Fired, Schedule, Scheduler, View};

use crate::answer;
use crate::auth::Caller;
use crate::body;
use crate::problem::Problem;
use crate::routes::query::parameters;
use crate::submit::{Shared, check_open};

/// A fire, as clients see it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FireShown<'a> {
    fire: &'a FireId,
    /// Absent for a fire that somebody asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<String>,
    begun_at: String,
    /// Absent while its items are being posted; then the counts are too.
    #[serde(skip_serializing_if = "Option::is_none")]
    posted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    accepted: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<u32>,
    /// The first runs.
    runs: Vec<RunShown<'a>>,
    /// The first refusals.
    refusals: &'a [Refusal],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RunShown<'a> {
    item: &'a str,
    /// Absent where the run had been before, and its record has expired.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<&'a str>,
}

impl<'a> FireShown<'a> {
    fn of(fire: &'a Fire) -> Self {
        let report = fire.report.as_ref();
        let run = |it: &'a Accepted| RunShown { item: &it.item, run_id: it.run.as_ref().map(|run| run.as_str()) };
        Self {
            fire: &fire.id,
            due_at: fire.due.map(|at| at.rfc3339()),
            begun_at: fire.begun_at.rfc3339(),
            posted_at: report.map(|report| report.at.rfc3339()),
            accepted: report.map(|report| report.accepted),
            refused: report.map(|report| report.refused),
            runs: report.map(|report| report.runs.iter().map(run).collect()).unwrap_or_default(),
            refusals: report.map(|report| report.refusals.as_slice()).unwrap_or_default(),
        }
    }
}

/// A schedule, as clients see it: when it is due and what became of it, not what it asks for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    name: &'a str,
    tenant: &'a str,
    cron: &'a str,
    timezone: &'a str,
    catch_up: &'static str,
    items: usize,
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_at: Option<String>,
    next_fires: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_fire: Option<FireShown<'a>>,
    /// Its last fires, the newest first; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    fires: Option<Vec<FireShown<'a>>>,
}

impl<'a> Shown<'a> {
    fn line(view: &'a View) -> Self {
        let (schedule, state) = (&view.schedule, view.state.as_ref());
        let when = schedule.when.as_ref();
        let paused = state.and_then(|state| state.paused);
        Self {
            name: &schedule.name,
            tenant: tenant(schedule),
            cron: when.map(|when| when.expression()).unwrap_or_default(),
            timezone: when.map(|when| when.zone()).unwrap_or_default(),
            catch_up: schedule.catch_up.as_str(),
            items: schedule.items(),
            paused: paused.is_some(),
            paused_at: paused.map(|at| at.rfc3339()),
            next_fires: view.next.iter().map(|at| at.rfc3339()).collect(),
            last_fire: state.and_then(|state| state.fires.first()).map(FireShown::of),
            fires: None,
        }
    }

    fn whole(view: &'a View) -> Self {
        let fires = view.state.iter().flat_map(|state| &state.fires);
        Self { fires: Some(fires.map(FireShown::of).collect()), ..Self::line(view) }
    }
}

fn tenant(schedule: &Schedule) -> &str {
    schedule.tenant.as_deref().unwrap_or(DEFAULT_TENANT)
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct List<'a> {
        schedules: Vec<Shown<'a>>,
        /// What is wrong with the files; for those who may see every tenant's.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        problems: Vec<&'a str>,
    }
    let mut named = None;
    for (name, value) in parameters(request.uri())? {
        if name != "tenant" {
            let expected = "is not a known parameter; there is tenant";
            return Err(Problem::field(Code::RequestInvalid, &name, expected));
        }
        torpor_core::id::check_id(&value).map_err(|e| Problem::field(Code::RequestInvalid, "tenant", e.to_string()))?;
        named = Some(value);
    }
    let visible = caller.narrow(&mut named);
    let Some(scheduler) = shared.app.schedules.as_ref().filter(|_| visible) else {
        return Ok(answer::json(StatusCode::OK, &List { schedules: Vec::new(), problems: Vec::new() }));
    };
    let views = scheduler.list().await?;
    let wanted = |view: &&View| named.as_deref().is_none_or(|named| tenant(&view.schedule) == named);
    let problems = scheduler.problems();
    let problems = problems.iter().filter(|_| caller.is_everywhere()).map(String::as_str);
    let body = List { schedules: views.iter().filter(wanted).map(Shown::line).collect(), problems: problems.collect() };
    Ok(answer::json(StatusCode::OK, &body))
}

pub(crate) async fn show(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (scheduler, schedule) = find(&shared, &caller, request.uri(), "")?;
    Ok(answer::json(StatusCode::OK, &Shown::whole(&scheduler.view(&schedule).await?)))
}

pub(crate) async fn pause(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (scheduler, schedule) = find(&shared, &caller, request.uri(), "/pause")?;
    Ok(answer::json(StatusCode::OK, &Shown::line(&scheduler.pause(&schedule, true).await?)))
}

pub(crate) async fn resume(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    let (scheduler, schedule) = find(&shared, &caller, request.uri(), "/resume")?;
    Ok(answer::json(StatusCode::OK, &Shown::line(&scheduler.pause(&schedule, false).await?)))
}

/// 200 with the fire once its items are posted, also by an earlier wish; 202 if that takes longer than a caller should
/// wait.
pub(crate) async fn fire(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    request: Request,
) -> Result<Response, Problem> {
    check_open(&shared)?;
    let (parts, body) = request.into_parts();
    let (scheduler, schedule) = find(&shared, &caller, &parts.uri, "/fire")?;
    let id = wished(body::json_or_nothing(body, &shared).await?)?;
    match scheduler.fire(&schedule, id).await? {
        Fired::There(fire) => {
            let status = if fire.report.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok(answer::json(status, &FireShown::of(&fire)))
        }
        Fired::Crowded => Err(Problem::new(
            Code::Unavailable,
            "As many fires of this schedule are under way as there may be. Nothing was fired; try again later.",
        )),
    }
}

/// The id that a wish for a fire names, if any.
fn wished(body: Value) -> Result<Option<FireId>, Problem> {
    let invalid = |field: &str, message: String| Problem::field(Code::RequestInvalid, field, message);
    let map = match body {
        Value::Null => return Ok(None),
        Value::Object(map) => map,
        _ => return Err(invalid("body", "must be a JSON object, or absent".into())),
    };
    let mut id = None;
    for (field, value) in map {
        match (field.as_str(), value) {
            ("fire", Value::Null) => {}
            ("fire", Value::String(text)) => {
                id = Some(FireId::new(&text).map_err(|e| invalid("fire", format!("{e}, got {text:?}")))?);
            }
            ("fire", _) => return Err(invalid("fire", "must be a string".into())),
            _ => return Err(invalid(&field, "is not a known field; there is fire".into())),
        }
    }
    Ok(id)
}

/// The schedule that a path `/schedules/{id}` with this suffix names, if it exists for this caller.
fn find<'a>(
    shared: &'a Shared,
    caller: &Caller,
    uri: &Uri,
    suffix: &str,
) -> Result<(&'a Scheduler, Arc<Schedule>), Problem> {
    let name = uri.path().strip_prefix("/schedules/").and_then(|rest| rest.strip_suffix(suffix));
    let scheduler = shared.app.schedules.as_ref();
    let found = scheduler.zip(name).and_then(|(scheduler, name)| Some((scheduler, scheduler.find(name)?)));
    found
        .filter(|(_, schedule)| caller.sees(tenant(schedule)))
        .ok_or_else(|| Problem::new(Code::ScheduleNotFound, "There is no schedule with this name."))
}
