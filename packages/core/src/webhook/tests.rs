use super::*;

#[test]
fn a_message_is_thin_and_its_form_is_fixed() {
    let id = Id::parse("msg_0123456789abcdef0123456789abcdef").unwrap();
    let run = RunId::generate();
    let session = SessionKey::new("acme", "a/\"b\"").unwrap();
    let event = Event {
        kind: Kind::Paused,
        at: Timestamp(1_795_173_689_999),
        run: &run,
        session: &session,
        status: Status::Paused,
        gate: Some(2),
    };
    assert_eq!(
        event.body(&id),
        format!(
            r#"{{"id":"{id}","type":"run.paused","createdAt":"2026-11-20T11:21:29.999Z","data":{{"runId":"{run}","sessionId":"a/\"b\"","tenant":"acme","status":"paused","gateId":2}}}}"#
        )
    );
    let to = Destination::Webhook(Target { url: "https://h".into(), secret_ref: None });
    let message =
        Message { id: id.clone(), run: run.clone(), tenant: "acme".into(), to, body: event.body(&id), ended_at: None };
    let told = Told { kind: Kind::Paused, at: event.at, session: session.clone(), status: Status::Paused };
    assert_eq!(message.told(), Some(told), "it is read back");
    assert_eq!(Message { body: "{}".into(), ..message }.told(), None);
    let ended = Event { kind: Kind::Ended, status: Status::Failed, gate: None, ..event };
    let body: serde_json::Value = serde_json::from_str(&ended.body(&id)).unwrap();
    assert_eq!((body["type"].as_str(), body["data"]["gateId"].as_u64()), (Some("run.ended"), None));
}

#[test]
fn ids_and_names_are_read_back() {
    let id = Id::generate();
    assert_eq!(Id::parse(id.as_str()), Some(id.clone()));
    assert!(!id.as_str().contains('.'), "the signature joins its parts with dots");
    for bad in ["", "msg_", "msg_0123456789ABCDEF0123456789ABCDEF", &id.as_str()[1..]] {
        assert_eq!(Id::parse(bad), None, "{bad}");
    }
    for failure in Failure::ALL {
        assert_eq!(Failure::parse(failure.as_str()), Some(failure));
        assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
    }
}

#[test]
fn destinations_are_read_back_by_their_channel() {
    let url = Destination::Webhook(Target { url: "https://h/x".into(), secret_ref: None });
    let place = volume::Place::new(None, "out/a.json");
    let files = Destination::Files(volume::Target { result: Some(place), task: None });
    for to in [url, files] {
        let json = to.encode().unwrap();
        assert_eq!(Destination::decode(to.channel(), json.as_bytes()), Some(to.clone()));
        assert_eq!(Channel::parse(to.channel().as_str()), Some(to.channel()));
        assert!(to.channel().carries(Kind::Ended) && to.channel().carries(Kind::Paused));
        assert_eq!(to.channel().carries(Kind::Decided), to.channel() == Channel::Files);
    }
}

#[test]
fn no_debug_form_shows_a_url() {
    let target = Target { url: "https://h/capability".into(), secret_ref: Some("name".into()) };
    let shown = format!("{target:?}");
    assert!(!shown.contains("capability") && shown.contains("name"), "{shown}");
}
