use proptest::prelude::*;
use serde_json::json;

use super::*;

const TOML: &str = r#"
name = "nightly"
cron = "0 2 * * *"
timezone = "Europe/Berlin"
catchUp = "all"
tenant = "acme"

[[items]]
name = "tests"
prompt = "Which tests of __FIRE__ failed?"
budget = { maxTurns = 20, maxCostUsd = 0.5 }
notBefore = 2027-01-31T08:00:00Z

[[items]]
item = { item_id = "i-__FIRE__", file = "cart.py", pattern = "eval" }
"#;

fn parse(text: &str, stem: Option<&str>) -> Result<Schedule, Invalid> {
    Schedule::parse(text, Format::guess(text), stem)
}

fn wrong(text: &str) -> String {
    parse(text, Some("stem")).unwrap_err().to_string()
}

fn fire() -> FireId {
    FireId::new("f1").unwrap()
}

#[test]
fn toml_and_json_say_the_same() {
    let of = |text: &str| {
        let it = parse(text, None).unwrap();
        let when = it.when.as_ref().map(|w| (w.expression().to_owned(), w.zone().to_owned()));
        (it.name.clone(), it.tenant.clone(), when, it.catch_up, it.posts(&fire()))
    };
    let as_json = json!({
        "name": "nightly", "cron": "0 2 * * *", "timezone": "Europe/Berlin", "catchUp": "all", "tenant": "acme",
        "items": [
            {"name": "tests", "prompt": "Which tests of __FIRE__ failed?", "async": true,
             "budget": {"maxTurns": 20, "maxCostUsd": 0.5}, "notBefore": "2027-01-31T08:00:00Z"},
            {"item": {"item_id": "i-__FIRE__", "file": "cart.py", "pattern": "eval"}, "tenant": "acme"},
        ],
    });
    let (name, tenant, when, catch_up, posts) = of(TOML);
    assert_eq!((name.as_str(), tenant.as_deref(), catch_up), ("nightly", Some("acme"), CatchUp::All));
    assert_eq!(when, Some(("0 2 * * *".into(), "Europe/Berlin".into())));
    let sessions: Vec<_> = posts.iter().map(|p| (p.number, p.name.as_str(), p.session.as_str())).collect();
    assert_eq!(sessions, [(1, "tests", "nightly/f1/tests"), (2, "2", "nightly/f1/2")]);
    assert_eq!(posts[1].body["item"]["item_id"], "i-f1");
    assert_eq!(of(&as_json.to_string()).4, posts);
}

/// Equal bodies at every repetition are what makes a fire idempotent.
#[test]
fn a_fire_posts_the_same_every_time_and_another_fire_other_sessions() {
    let it = parse(TOML, None).unwrap();
    let hash = |fire: &FireId| -> Vec<String> {
        it.posts(fire).into_iter().map(|p| envelope::parse(p.body).unwrap().body_hash).collect()
    };
    assert_eq!(hash(&fire()), hash(&fire()));
    let other = FireId::new("f2").unwrap();
    let all: std::collections::HashSet<String> =
        it.posts(&fire()).into_iter().chain(it.posts(&other)).map(|p| p.session).collect();
    assert_eq!(all.len(), 4);
}

#[test]
fn a_file_with_nothing_but_items_is_enough() {
    let it = parse(r#"{"items": [{"prompt": "go"}]}"#, Some("nightly")).unwrap();
    assert_eq!((it.name.as_str(), it.tenant.is_none(), it.when.is_none()), ("nightly", true, true));
    assert_eq!(it.catch_up, CatchUp::Once);
    let one_of_theirs = parse(r#"{"items": [{"prompt": "go"}, {"prompt": "go", "tenant": "t"}]}"#, Some("n")).unwrap();
    assert_eq!(one_of_theirs.tenant.as_deref(), Some("t"));
    assert!(one_of_theirs.posts(&fire()).iter().all(|p| p.body["tenant"] == "t"));
}

#[test]
fn what_is_wrong_is_named_with_its_item_and_field() {
    for (text, want) in [
        (r#"{"items": [{"prompt": "go"}, {"promt": "go"}]}"#, "item 2: `promt` is not a known field"),
        (r#"{"items": [{"name": "a", "prompt": 7}]}"#, "item 1 (a): `prompt` must be a string, got 7"),
        (r#"{"items": [{"prompt": "go", "budget": {"maxTurns": 0}}]}"#, "item 1: `budget.maxTurns` must be an integer"),
        (r#"{"items": [{"prompt": "go", "async": false}]}"#, "item 1: `async` must be true or absent"),
        (r#"{"items": [{"prompt": "go", "sessionId": "s"}]}"#, "item 1: `sessionId` must contain __FIRE__"),
        (r#"{"items": ["go"]}"#, "item 1: must be an object"),
        (
            r#"{"items": [{"prompt": "a", "sessionId": "s__FIRE__"}, {"prompt": "b", "sessionId": "s__FIRE__"}]}"#,
            "item 2: `sessionId` is that of item 1",
        ),
        (
            r#"{"items": [{"prompt": "a", "name": "x"}, {"prompt": "b", "name": "x"}]}"#,
            "item 2 (x): `name` is that of item 1",
        ),
        (r#"{"items": [{"prompt": "a", "name": "2"}, {"prompt": "b"}]}"#, "item 2: `name` is that of item 1"),
        (r#"{"items": []}"#, "`items` must hold at least one envelope"),
        (r#"{"items": {}}"#, "`items` must be an array"),
        (r#"{"tasks": []}"#, "`tasks` is not a known field; there are name, cron"),
        (r#"{"name": "x"}"#, "`items` is required"),
        (r#"{"name": "a/b", "items": [{"prompt": "go"}]}"#, "`name` must be 1 to 64 letters"),
        (r#"{"name": 7, "items": [{"prompt": "go"}]}"#, "`name` must be a string"),
        (r#"{"cron": "0 25 * * *", "items": [{"prompt": "go"}]}"#, "`cron` cannot be read: the hour \"25\""),
        (r#"{"timezone": "UTC", "items": [{"prompt": "go"}]}"#, "`timezone` means nothing without `cron`"),
        (r#"{"catchUp": "twice", "items": [{"prompt": "go"}]}"#, "`catchUp` must be \"skip\", \"once\" or \"all\""),
        (
            r#"{"tenant": "a", "items": [{"prompt": "go", "tenant": "b"}]}"#,
            "`tenant` must be one for all items: it is \"a\", and one item says \"b\"",
        ),
        (r#"{"items": [], "items": []}"#, "is not JSON: the key \"items\" is given twice"),
        ("name = 'x'\nitems = [", "is not TOML: "),
        ("prompt", "at line 1"),
        ("", "`items` is required"),
    ] {
        let said = wrong(text);
        assert!(said.contains(want), "{text}\n  {said}\n  {want}");
    }
    let both = parse(r#"{"catchUp": 1, "items": [{"promt": 1}, {"x": 1}]}"#, Some("s")).unwrap_err();
    assert_eq!(both.0.len(), 1, "what the schedule says comes first");
    let all = parse(r#"{"items": [{"promt": 1}, {"prompt": "go"}, {"x": 1}]}"#, Some("s")).unwrap_err();
    let begins: std::collections::BTreeSet<_> = all.0.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(begins.into_iter().collect::<Vec<_>>(), ["item 1", "item 3"], "every item that is wrong is named");
    assert!(parse(r#"{"items": [{"prompt": "go"}]}"#, None).unwrap_err().to_string().contains("`name` is required"));
}

#[test]
fn a_schedule_is_bounded() {
    let of = |n: usize| json!({"items": vec![json!({"prompt": "go"}); n]}).to_string();
    assert_eq!(parse(&of(MAX_ITEMS), Some("s")).unwrap().items(), MAX_ITEMS);
    assert!(wrong(&of(MAX_ITEMS + 1)).contains("at most 1000 envelopes, got 1001"));
}

proptest! {
    #[test]
    fn no_text_upsets_the_reader(text in ".{0,200}", json in any::<bool>()) {
        let format = if json { Format::Json } else { Format::Toml };
        let _ = Schedule::parse(&text, format, Some("s"));
    }

    /// Whatever the names, what can be read is posted under sessions that are all different.
    #[test]
    fn sessions_are_distinct(names in prop::collection::vec(prop::option::of("[a-c0-9]{1,2}"), 1..6)) {
        let items: Vec<Value> = names.iter().map(|n| json!({"prompt": "go", "name": n})).collect();
        let text = json!({"items": items}).to_string();
        if let Ok(it) = parse(&text, Some("s")) {
            let sessions: std::collections::HashSet<String> = it.posts(&fire()).into_iter().map(|p| p.session).collect();
            prop_assert_eq!(sessions.len(), names.len());
        }
    }
}
