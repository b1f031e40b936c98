use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The problems of an envelope, as `field: message` lines.
fn problems(v: Value) -> Vec<String> {
    match parse(v) {
        Ok(e) => panic!("accepted as {e:?}"),
        Err(Invalid(p)) => p.into_iter().map(|p| format!("{}: {}", p.field, p.message)).collect(),
    }
}

#[test]
fn a_prompt_and_a_review_are_accepted() {
    let e = parse(json!({"prompt": "hi", "sessionId": "a/b", "async": true, "budget": {"maxTurns": 3}})).unwrap();
    assert_eq!(e.spec.work, Work::Prompt { prompt: "hi".into() });
    assert_eq!((e.session_id.as_deref(), e.run_async, e.spec.budget.max_turns), (Some("a/b"), true, Some(3)));

    let e = parse(json!({"kind": "converge", "maxTurns": 7, "tenant": null,
        "item": {"item_id": "i1", "file": "a.rs", "pattern": "unsafe", "require_approval": false}}))
    .unwrap();
    assert!(matches!(e.spec.work, Work::Review { .. }));
    assert_eq!((e.tenant, e.spec.budget.max_turns), (None, Some(7)));
}

#[test]
fn every_problem_is_named() {
    for (envelope, want) in [
        (json!([]), "body: must be a JSON object"),
        (json!(null), "body: must be a JSON object"),
        (json!({}), "prompt: or `item` or `inputsRef` is required: an envelope carries exactly one kind of work"),
        (json!({"prompt": "  "}), "prompt: must not be blank"),
        (json!({"prompt": 7}), "prompt: must be a string, got 7"),
        (json!({"prompt": "x", "sessionId": ""}), "sessionId: must not be empty"),
        (json!({"prompt": "x", "colour": 1}), "colour: is not a known field"),
        (json!({"prompt": "x", "async": "true"}), "async: must be true or false, got \"true\""),
        (json!({"prompt": "x", "maxTurns": 0}), "maxTurns: must be an integer of at least 1, got 0"),
        (json!({"prompt": "x", "maxTurns": 1.5}), "maxTurns: must be an integer of at least 1, got 1.5"),
        (json!({"prompt": "x", "budget": {"maxPens": 1}}), "budget.maxPens: is not a known field"),
        (
            json!({"prompt": "x", "budget": {"maxCostUsd": 0}}),
            "budget.maxCostUsd: must be a number of dollars above 0 and at most 1000000, got 0",
        ),
        (
            json!({"prompt": "x", "budget": {"maxCostUsd": "2"}}),
            "budget.maxCostUsd: must be a number of dollars above 0 and at most 1000000, got \"2\"",
        ),
        (
            json!({"prompt": "x", "notBefore": "soon"}),
            "notBefore: must be an RFC 3339 time such as \"2027-01-31T08:00:00Z\", got \"soon\"",
        ),
        (
            json!({"prompt": "x", "repoUrl": "https://example.com/r.git"}),
            "repoUrl: is not supported by this version: check the repository out into a folder and name that with \
             `workspaceRef`",
        ),
        (json!({"prompt": "x", "kind": "dance"}), "kind: must be \"converge\" (or absent)"),
        (json!({"item": {"item_id": "a", "file": "b"}}), "item.pattern: is required"),
        (json!({"prompt": "x", "webhook": "https://x"}), "webhook: must be an object, got \"https://x\""),
        (json!({"prompt": "x", "webhook": {}}), "webhook.url: is required"),
        (
            json!({"prompt": "x", "webhook": {"url": "https://x", "secret": "s"}}),
            "webhook.secret: is not a known field",
        ),
        (
            json!({"prompt": "x", "webhook": {"url": "https://x", "secretRef": ""}}),
            "webhook.secretRef: must not be blank",
        ),
        (
            json!({"prompt": "x", "webhook": {"url": "x".repeat(2_049)}}),
            "webhook.url: must be at most 2048 bytes, got 2049",
        ),
        (
            json!({"item": {"item_id": "a", "file": "b", "pattern": "c", "require_approval": "yes"}}),
            "item.require_approval: must be true or false, got \"yes\"",
        ),
        (json!({"prompt": "x", "approvals": {}}), "approvals: must be an array, got an object"),
        (
            json!({"prompt": "x", "approvals": ["bash"]}),
            "approvals[0]: must be an object {tool, pattern?}, got \"bash\"",
        ),
        (json!({"prompt": "x", "approvals": [{"tool": "bash"}, {"pattern": "a"}]}), "approvals[1].tool: is required"),
        (
            json!({"prompt": "x", "decision": {"gateId": 0, "action": "maybe"}}),
            "decision.action: must be approve, reject or abort, got \"maybe\"",
        ),
        (
            json!({"prompt": "x", "decision": {"gateId": "0", "action": "approve"}}),
            "decision.gateId: must be an integer of at least 0, got \"0\"",
        ),
    ] {
        assert_eq!(problems(envelope.clone()), [want], "{envelope}");
    }
}

#[test]
fn the_hash_ignores_order_async_and_decision_and_nothing_else() {
    let hash = |v: Value| match v {
        Value::Object(m) => body_hash(&m),
        _ => String::new(),
    };
    let a = hash(json!({"prompt": "x", "budget": {"maxTurns": 1, "maxTokens": 2}}));
    assert_eq!(
        a,
        hash(json!({"async": true, "budget": {"maxTokens": 2, "maxTurns": 1}, "prompt": "x", "model": null}))
    );
    assert_ne!(a, hash(json!({"prompt": "x", "budget": {"maxTurns": 1, "maxTokens": 3}})));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        "[a-z]{1,6}",
        prop::sample::select(vec!["prompt", "item", "budget", "tools", "metadata", "async", "item_id", "maxTurns"])
            .prop_map(String::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|kv| Value::Object(kv.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_either_accepted_or_explained(v in any_json()) {
        match parse(v) {
            Ok(e) => prop_assert_eq!(e.body_hash.len(), 64),
            Err(Invalid(p)) => prop_assert!(!p.is_empty()),
        }
    }
}

#[test]
fn rules_and_a_verdict_are_read() {
    let e = parse(json!({"prompt": "x", "approvals": [{"tool": "bash", "pattern": "^git push"}, {"tool": "*"}],
        "decision": {"gateId": 2, "action": "reject", "feedback": "not on a Friday"}}))
    .unwrap();
    assert_eq!(e.spec.approvals[0], Rule { tool: "bash".into(), pattern: Some("^git push".into()) });
    assert_eq!(e.spec.approvals[1], Rule { tool: "*".into(), pattern: None });
    let verdict = e.decision.unwrap();
    assert_eq!(verdict.gate, Some(2));
    assert_eq!(verdict.decision.feedback.as_deref(), Some("not on a Friday"));
}

#[test]
fn what_needs_approval_never_becomes_less_in_a_session() {
    let rule = |tool: &str| Rule { tool: tool.into(), pattern: None };
    let first = Spec { approvals: vec![rule("bash")], ..Spec::prompt("a") };
    let mut next = Spec { approvals: vec![rule("write"), rule("bash")], ..Spec::prompt("b") };
    next.inherit(&first.wishes());
    assert_eq!(next.approvals, [rule("bash"), rule("write")]);
}
