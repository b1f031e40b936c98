//! A model that does what its user says: the prompt is a plan, one answer a line.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::sleep;
use torpor_core::message::Assistant;
use torpor_core::model::{self, Delta, Message, ModelClient, Prepared, Request, Retry};
use torpor_testkit::fakes::{calls, says};

use crate::net::{Dice, Process};

/// What a run is to do: for each answer its calls, as (tool, arguments).
pub(crate) type Plan = Vec<Vec<(String, Value)>>;

/// A plan whose commands have names of their own.
pub(crate) fn plan(name: &str, dice: &mut Dice) -> Plan {
    let mut n = 0;
    let mut call = |dice: &mut Dice| {
        n += 1;
        match dice.roll(10) {
            0 => ("read".to_owned(), json!({"path": format!("{name}-{n}")})),
            1 => ("write".to_owned(), json!({"path": format!("{name}-{n}"), "content": "x"})),
            2 => ("request_approval".to_owned(), json!({"summary": "s", "proposed_action": format!("{name}-{n}")})),
            3 | 4 => ("bash".to_owned(), json!({"command": format!("hold {name}-{n}")})),
            _ => ("bash".to_owned(), json!({"command": format!("{name}-{n}")})),
        }
    };
    let answers = 1 + dice.roll(4);
    (0..answers).map(|_| (0..1 + dice.roll(3)).map(|_| call(dice)).collect()).collect()
}

pub(crate) struct Planned(pub(crate) Arc<Process>);

#[async_trait]
impl ModelClient for Planned {
    fn prepare(&self, request: &Request<'_>) -> Result<Prepared, model::Error> {
        let turn = request.messages.iter().rposition(|m| matches!(m, Message::User(_))).unwrap_or(0);
        let Some(Message::User(plan)) = request.messages.get(turn) else { panic!("a conversation begins with a user") };
        let answers = request.messages[turn..].iter().filter(|m| matches!(m, Message::Assistant(_))).count();
        let plan: Plan = serde_json::from_str(plan).unwrap();
        let body = serde_json::to_vec(&plan.get(answers)).unwrap();
        let fingerprint = format!("{plan:?} {answers}");
        let model = request.model.clone();
        Ok(Prepared { model, fingerprint, body: Bytes::from(body), estimate: 1, room: u64::MAX, trace: None })
    }

    async fn send(&self, prepared: &Prepared, _: &mut (dyn FnMut(Delta) + Send)) -> Result<Assistant, model::Error> {
        let process = &self.0;
        process.awake().await;
        let mut dice = process.sky.dice(&prepared.fingerprint, process.nth(&prepared.fingerprint));
        sleep(dice.ms(50, 3_000)).await;
        process.awake().await;
        if process.sky.is_stormy() && dice.one_in(15) {
            let message = "overloaded".to_owned();
            return Err(model::Error {
                message,
                retry: Retry::After(dice.ms(10, 2_000)),
                overflow: false,
                images: false,
            });
        }
        let uses: Option<Vec<(String, Value)>> = serde_json::from_slice(&prepared.body).unwrap();
        let uses = uses.unwrap_or_default();
        let uses: Vec<(&str, Value)> = uses.iter().map(|(tool, input)| (tool.as_str(), input.clone())).collect();
        Ok(if uses.is_empty() { says("done") } else { calls(&uses) })
    }
}
