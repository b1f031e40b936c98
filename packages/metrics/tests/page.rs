//! The page as a scraper reads it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use torpor_core::message::Usage;
use torpor_core::model::Ref;
use torpor_core::observe::{Called, Event, Level, Observer, Posted, Sent, Span, Work};
use torpor_core::outcome::{FailReason, Status};
use torpor_core::price::Usd;
use torpor_core::queue::Backlog;
use torpor_core::trace::Context;
use torpor_core::{RunId, SessionKey};
use torpor_metrics::{Known, Metrics};
use torpor_testkit::exposition::read;

const TOOK: Duration = Duration::from_millis(3);

fn model(name: &str) -> Ref {
    Ref::parse(name).unwrap()
}

/// A page on which everything has happened.
fn page() -> String {
    let known = Known {
        models: vec![model("anthropic/known"), model("scripted:/secret/path.json")],
        providers: vec!["openai".into()],
    };
    let metrics = Metrics::new(&known);
    let context = Context::fresh();
    let span = Span { context: &context, parent: None, took: TOOK };
    let (run, session) = (RunId::generate(), SessionKey::new("tenant-canary", "session-canary").unwrap());
    let work = Work { run: &run, session: &session };
    let usage = Some(Usage { input: 1, output: 2, cache_read: 3, cache_write: 4 });
    let request = |model: &Ref, retry, ended, usage: Option<Usage>| {
        let cost = usage.map(|_| Usd(1_500_000));
        metrics.observe(&Event::ModelRequest { model, ended, retry, took: TOOK, usage, cost });
    };
    request(&model("anthropic/known"), false, Sent::Failed, None);
    request(&model("anthropic/known"), true, Sent::Answered, usage);
    request(&model("scripted:/secret/path.json"), false, Sent::Answered, usage);
    for n in 0..1_000 {
        request(&model(&format!("made-up-{n}/model-{n}")), false, Sent::Answered, None);
        let (route, method) = (format!("/route/{n}"), format!("METHOD{n}"));
        metrics.observe(&Event::Request { span, route: Some(&route), method: &method, status: 100 + n });
    }
    let mut events = vec![
        Event::Request { span, route: Some("/runs"), method: "POST", status: 200 },
        Event::Request { span, route: None, method: "GET", status: 404 },
        Event::Entered(Level::Connections),
        Event::Entered(Level::Connections),
        Event::Left(Level::Connections),
        Event::Entered(Level::Leaves),
        Event::Accepted,
        Event::Claimed { work, waited: Some(span), took_over: false },
        Event::Claimed { work, waited: None, took_over: true },
        Event::Ended { status: Status::Done, reason: None, took: TOOK },
        Event::LeaseLost,
        Event::DeadLetter,
        Event::Webhook { ended: Posted::Sent, took: TOOK },
        Event::Webhook { ended: Posted::GivenUp, took: TOOK },
        Event::Files { ended: Posted::Failed, took: TOOK },
        Event::Commit { commands: 3, took: TOOK, stored: true },
        Event::Commit { commands: 1, took: TOOK, stored: false },
    ];
    events.extend(FailReason::ALL.map(|r| Event::Ended { status: Status::Failed, reason: Some(r), took: TOOK }));
    events.extend(Called::ALL.map(|ended| Event::ToolCall { span, work, tool: "bash", id: "use", ended }));
    events.iter().for_each(|event| metrics.observe(event));
    metrics.text(Some(Backlog { ready: 1, waiting: 2, leased: 3, paused: 5, dead: 4, webhooks: 6, files: 7 }))
}

#[test]
fn what_happened_is_on_the_page() {
    let page = read(&page()).unwrap();
    for (name, labels, want) in [
        ("torpor_http_requests_total", &[("route", "/runs"), ("method", "POST"), ("status", "2xx")][..], 0.0),
        ("torpor_http_requests_total", &[("status", "other")], 500.0),
        ("torpor_http_requests_total", &[], 1_002.0),
        ("torpor_http_request_duration_seconds_count", &[], 1_002.0),
        ("torpor_http_connections", &[], 1.0),
        ("torpor_leaves", &[], 1.0),
        ("torpor_runs_accepted_total", &[], 1.0),
        ("torpor_runs_ended_total", &[("status", "done"), ("reason", "")], 1.0),
        ("torpor_runs_ended_total", &[("status", "failed"), ("reason", "no_sandbox")], 1.0),
        ("torpor_run_duration_seconds_count", &[], 11.0),
        ("torpor_run_queue_wait_seconds_count", &[], 1.0),
        ("torpor_run_claims_total", &[], 2.0),
        ("torpor_run_takeovers_total", &[], 1.0),
        ("torpor_model_requests_total", &[("provider", "anthropic"), ("model", "known"), ("outcome", "failed")], 1.0),
        ("torpor_model_requests_total", &[("model", "other")], 1_000.0),
        ("torpor_model_retries_total", &[], 1.0),
        ("torpor_model_tokens_total", &[("model", "known"), ("kind", "cache_write")], 4.0),
        ("torpor_model_tokens_total", &[("model", "scripted"), ("kind", "input")], 1.0),
        ("torpor_tool_calls_total", &[("tool", "bash"), ("outcome", "sandbox_lost")], 1.0),
        ("torpor_tool_call_duration_seconds_count", &[("tool", "bash")], 5.0),
        ("torpor_store_commits_total", &[("outcome", "failed")], 1.0),
        ("torpor_store_commit_commands_sum", &[], 4.0),
        ("torpor_store_commit_commands_bucket", &[("le", "4")], 2.0),
        ("torpor_queue_runs", &[("state", "dead")], 4.0),
        ("torpor_queue_up", &[], 1.0),
        ("torpor_webhooks_due", &[], 6.0),
        ("torpor_webhook_attempts_total", &[("outcome", "given_up")], 1.0),
        ("torpor_webhook_attempt_duration_seconds_count", &[], 2.0),
        ("torpor_files_due", &[], 7.0),
        ("torpor_file_attempts_total", &[("outcome", "failed")], 1.0),
        ("torpor_file_attempt_duration_seconds_count", &[], 1.0),
    ] {
        // The route came after the table was full: it is counted all the same.
        let found = page.sum(name, labels).unwrap_or(0.0);
        assert!((found - want).abs() < 1e-9, "{name}{labels:?}: {found}, expected {want}");
    }
    for name in
        ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds"]
    {
        assert!(page.sum(name, &[]).is_some_and(|n| n > 0.0 || name.contains("cpu")), "{name}");
    }
    let took = page.sum("torpor_run_queue_wait_seconds_sum", &[]).unwrap();
    assert!((took - TOOK.as_secs_f64()).abs() < 1e-9, "{took}");
}

/// Whatever clients and models come up with, the number of series has a bound, and none names a tenant, a session, a run
/// or a path.
#[test]
fn labels_are_bounded_and_name_nobody() {
    let text = page();
    for canary in ["canary", "secret", "made-up", "run_"] {
        assert!(!text.replace("torpor_run_", "").contains(canary), "{canary}");
    }
    let mut series: BTreeMap<String, usize> = BTreeMap::new();
    for sample in read(&text).unwrap().samples.iter().filter(|s| !s.name.ends_with("_bucket")) {
        *series.entry(sample.name.clone()).or_default() += 1;
    }
    let most = series.iter().max_by_key(|(_, n)| **n).unwrap();
    assert!(*most.1 <= 64 * 8 * 6, "{most:?}");
}

/// Prometheus' own linter, where it is installed.
#[test]
fn promtool_finds_nothing_to_complain_about() {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else {
        eprintln!(
            "SKIPPED: promtool is not installed (Debian: apt-get install prometheus); the strict reader has checked the page"
        );
        return;
    };
    child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.trim().is_empty(), "{said}");
}

/// Counting while somebody reads: no reader sees a page that contradicts itself, and nothing gets lost.
#[test]
fn reading_does_not_disturb_counting() {
    let metrics = Metrics::new(&Known::default());
    let each = 20_000;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..each {
                    metrics.observe(&Event::Commit { commands: 1, took: TOOK, stored: true });
                }
            });
        }
        for _ in 0..20 {
            read(&metrics.text(None)).unwrap();
        }
    });
    let page = read(&metrics.text(None)).unwrap();
    assert_eq!(page.sum("torpor_store_commits_total", &[]), Some(2.0 * f64::from(each)));
}
