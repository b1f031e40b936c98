//! The command line as a person at a terminal sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use serde_json::json;
use support::terminal::Terminal;
use support::{World, bash, script_tool};
use torpor_testkit::model_server::script;

/// A run with two calls that wait for a person.
fn two_gates(world: &World) -> (String, String) {
    let call = |word: &str| json!({"name": "bash", "input": {"command": format!("echo {word} >> tally")}});
    let two = json!([call("one"), call("two")]).to_string();
    let prompt = format!("go [[s:multi={};drip=3x1]]", script::encode(&two));
    (prompt, world.project().to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_shown_the_call_and_asked_and_the_run_goes_on() {
    let world = World::new().await;
    let _server = world.serve().await;
    let (prompt, workspace) = two_gates(&world);
    let mut person = Terminal::new(&world, &["run", &prompt, "--workspace", &workspace, "--approve", "bash"], None);
    person.until("Verdict?", 1).await;
    assert!(person.seen().contains("echo one >> tally"), "{}", person.seen());
    person.type_in("maybe\n");
    person.until("Please answer", 1).await;
    person.until("Verdict?", 2).await;
    person.type_in("n use the other file\n");
    person.until("Verdict?", 3).await;
    assert_eq!(world.count("tally", "o"), 0, "nothing runs before every verdict");
    person.type_in("y\n");
    assert_eq!(person.exit().await, Some(0), "{}", person.seen());
    assert_eq!((world.count("tally", "one"), world.count("tally", "two")), (0, 1));
    let seen = person.seen();
    assert!(seen.contains("use the other file") && seen.contains("\x1b[32m"), "{seen:?}");
    assert_eq!(seen.matches("drip drip drip").count(), 1, "the answer stands there once: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_may_put_it_off_and_come_back_and_no_color_is_kept() {
    let mut world = World::new().await;
    world.env("NO_COLOR", "1");
    let server = world.serve().await;
    let ask = script_tool("request_approval", &json!({"summary": "May I?", "proposed_action": "Do\u{1b}[8m it."}));
    let mut person = Terminal::new(&world, &["run", &format!("x [[s:{ask};text]]")], None);
    person.until("Verdict?", 1).await;
    person.type_in("l\n");
    assert_eq!(person.exit().await, Some(3), "{}", person.seen());
    let seen = person.seen();
    assert!(seen.contains("May I?") && seen.contains("Do\\u{1b}[8m it.") && seen.contains("torpor gates approve"));
    for colour in ["\x1b[1m", "\x1b[2m", "\x1b[3"] {
        assert!(!seen.contains(colour), "{seen:?}");
    }
    let run = server.get("/gates").await.body["gates"][0]["runId"].as_str().unwrap().to_owned();
    let answer = tempfile::tempfile().unwrap();
    let mut person = Terminal::new(&world, &["runs", "follow", &run], Some(answer.try_clone().unwrap()));
    person.until("Verdict?", 1).await;
    person.type_in("yes\n");
    assert_eq!(person.exit().await, Some(0), "{}", person.seen());
    let mut text = String::new();
    std::io::Seek::rewind(&mut &answer).unwrap();
    std::io::Read::read_to_string(&mut &answer, &mut text).unwrap();
    assert_eq!(text, "done\n", "the answer alone");
    assert!(person.seen().contains("approve by ann"), "{}", person.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_the_following_and_never_the_run() {
    let world = World::new().await;
    let server = world.serve().await;
    let run = server.submit(world.prompt(&format!("{};text", bash("touch begun; sleep 1")))).await;
    let mut person = Terminal::new(&world, &["runs", "follow", &run], None);
    person.until("touch begun", 1).await;
    person.interrupt();
    assert_eq!(person.exit().await, Some(130));
    assert!(person.seen().contains(&format!("torpor runs cancel {run}")), "{}", person.seen());
    assert_eq!(server.ended(&run).await["status"], json!("done"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_a_person_is_asked_too_and_ctrl_c_keeps_the_run() {
    let world = World::embedded().await;
    let (prompt, workspace) = two_gates(&world);
    let args = ["run", &prompt, "--workspace", &workspace, "--approve", "bash", "--session", "s"];
    let mut person = Terminal::new(&world, &args, None);
    person.until("Verdict?", 1).await;
    person.interrupt();
    assert_eq!(person.exit().await, Some(130), "{}", person.seen());
    assert!(person.seen().contains("the run is kept"), "{}", person.seen());
    let mut person = Terminal::new(&world, &args, None);
    person.until("Verdict?", 1).await;
    person.type_in("a\n");
    assert_eq!(person.exit().await, Some(1), "{}", person.seen());
    assert!(person.seen().contains("aborted"), "{}", person.seen());
    assert_eq!(world.count("tally", "o"), 0);
}
