//! Counts what happens and says it in the text format that Prometheus reads.
//!
//! Owns: which metrics there are, their labels and their bounds. Every series is a handful of atomics: counting takes no
//! lock, and neither does reading. Labels are bounded by construction: each takes its values from a fixed list, or from a
//! table of a fixed size, and anything else is `other`. No id, no tenant and no text of anybody is ever a label.
//!
//! Must not know: who asks, how it is served, what any event led to.

mod family;
mod kinds;
mod process;
mod text;

use std::time::Duration;

use torpor_core::message::Usage;
use torpor_core::model::Ref;
use torpor_core::observe::{Called, Event, Level, Observer, Posted, Sent};
use torpor_core::outcome::{FailReason, Status};
use torpor_core::queue::Backlog;

use family::{Family, Label};
use kinds::{Billionths, Counter, Gauge, Histogram, Kind};
use text::Page;

/// The media type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Route templates that are told apart; more than there are.
const MAX_ROUTES: usize = 63;

/// Tools that are told apart; more than there are.
const MAX_TOOLS: usize = 31;

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const STATUSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
const TOKENS: [&str; 4] = ["input", "output", "cache_read", "cache_write"];

/// Bounds of histograms in seconds. A request or a commit takes from a tenth of a millisecond on, a model call or a command
/// up to minutes, a run or its wait up to hours.
const SHORT: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];
const LONG: &[f64] = &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const LONGEST: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0];
const BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// What may be a label's value.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// `provider/model` of every model that is configured or declared. Others are counted as `other`.
    pub models: Vec<Ref>,
    /// Providers; those of `models` need not be repeated.
    pub providers: Vec<String>,
}

/// All metrics of a process. See the module's page.
pub struct Metrics {
    connections: Gauge,
    requests_now: Gauge,
    followers: Gauge,
    leaves: Gauge,
    requests: Family<3, Counter>,
    request_seconds: Family<2, Histogram>,
    accepted: Counter,
    ended: Family<2, Counter>,
    run_seconds: Family<1, Histogram>,
    claims: Counter,
    takeovers: Counter,
    waits: Histogram,
    leases_lost: Counter,
    dead_letters: Counter,
    model_requests: Family<3, Counter>,
    model_seconds: Family<2, Histogram>,
    retries: Family<2, Counter>,
    tokens: Family<3, Counter>,
    cost: Family<2, Billionths>,
    tool_calls: Family<2, Counter>,
    tool_seconds: Family<1, Histogram>,
    webhooks: Family<1, Counter>,
    webhook_seconds: Histogram,
    files: Family<1, Counter>,
    files_seconds: Histogram,
    commits: Family<1, Counter>,
    commit_seconds: Histogram,
    commit_commands: Histogram,
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new(known: &Known) -> Self {
        let providers: Vec<&str> =
            known.models.iter().map(|m| &m.provider).chain(&known.providers).map(|s| &**s).collect();
        let provider = || Label::of("provider", providers.iter().copied());
        let model = || Label::of("model", known.models.iter().map(shown));
        let tool = || Label::open("tool", MAX_TOOLS);
        let route = || Label::open("route", MAX_ROUTES);
        let method = || Label::of("method", METHODS);
        let statuses = Status::ALL.into_iter().filter(|s| s.is_terminal()).map(Status::as_str);
        let reasons = FailReason::ALL.map(FailReason::as_str).into_iter().chain([""]);
        Self {
            connections: Gauge::new(()),
            requests_now: Gauge::new(()),
            followers: Gauge::new(()),
            leaves: Gauge::new(()),
            requests: Family::new([route(), method(), Label::of("status", STATUSES)], ()),
            request_seconds: Family::new([route(), method()], SHORT),
            accepted: Counter::new(()),
            ended: Family::new([Label::of("status", statuses.clone()), Label::of("reason", reasons)], ()),
            run_seconds: Family::new([Label::of("status", statuses)], LONGEST),
            claims: Counter::new(()),
            takeovers: Counter::new(()),
            waits: Histogram::new(LONGEST),
            leases_lost: Counter::new(()),
            dead_letters: Counter::new(()),
            model_requests: Family::new([provider(), model(), Label::of("outcome", Sent::ALL.map(Sent::as_str))], ()),
            model_seconds: Family::new([provider(), model()], LONG),
            retries: Family::new([provider(), model()], ()),
            tokens: Family::new([provider(), model(), Label::of("kind", TOKENS)], ()),
            cost: Family::new([provider(), model()], ()),
            tool_calls: Family::new([tool(), Label::of("outcome", Called::ALL.map(Called::as_str))], ()),
            tool_seconds: Family::new([tool()], LONG),
            webhooks: Family::new([Label::of("outcome", Posted::ALL.map(Posted::as_str))], ()),
            webhook_seconds: Histogram::new(LONG),
            files: Family::new([Label::of("outcome", Posted::ALL.map(Posted::as_str))], ()),
            files_seconds: Histogram::new(LONG),
            commits: Family::new([Label::of("outcome", ["stored", "failed"])], ()),
            commit_seconds: Histogram::new(SHORT),
            commit_commands: Histogram::new(BATCHES),
        }
    }

    /// All metrics in Prometheus' text format. Reads atomics and `/proc/self`; takes no lock.
    #[must_use]
    pub fn text(&self, backlog: Option<Backlog>) -> String {
        let mut page = Page::default();
        page.one(
            "torpor_build_info",
            "Which build this is; always 1.",
            Kind::Gauge,
            &[("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        );
        self.http(&mut page);
        self.runs(&mut page, backlog);
        self.calls(&mut page);
        page.family(
            "torpor_webhook_attempts_total",
            "Attempts to send a webhook, by outcome; one that is given up is not tried again.",
            &self.webhooks,
        );
        page.single("torpor_webhook_attempt_duration_seconds", "Time of such an attempt.", &self.webhook_seconds);
        page.family(
            "torpor_file_attempts_total",
            "Attempts to write a run's files, by outcome; one that is given up is not tried again.",
            &self.files,
        );
        page.single("torpor_file_attempt_duration_seconds", "Time of such an attempt.", &self.files_seconds);
        page.family("torpor_store_commits_total", "Commits of the store.", &self.commits);
        page.single(
            "torpor_store_commit_duration_seconds",
            "Time of a commit until it is durable.",
            &self.commit_seconds,
        );
        page.single("torpor_store_commit_commands", "Commands that shared a commit.", &self.commit_commands);
        process::write(&mut page);
        page.finish()
    }

    fn http(&self, page: &mut Page) {
        page.family(
            "torpor_http_requests_total",
            "Answered HTTP requests by route template, method and class of status.",
            &self.requests,
        );
        page.family(
            "torpor_http_request_duration_seconds",
            "Time until an HTTP request was answered, or the head of a streamed answer was ready.",
            &self.request_seconds,
        );
        page.single("torpor_http_requests_in_flight", "HTTP requests that are not answered yet.", &self.requests_now);
        page.single("torpor_http_connections", "Open HTTP connections.", &self.connections);
        page.single("torpor_event_followers", "Followers of event streams.", &self.followers);
    }

    fn runs(&self, page: &mut Page, backlog: Option<Backlog>) {
        page.single("torpor_runs_accepted_total", "Runs accepted; repeated posts do not count.", &self.accepted);
        page.family("torpor_runs_ended_total", "Runs ended, by status and by the reason of a failure.", &self.ended);
        page.family("torpor_run_duration_seconds", "Time from a run's acceptance to its end.", &self.run_seconds);
        page.single("torpor_run_queue_wait_seconds", "Time from a run's acceptance to its first claim.", &self.waits);
        page.single("torpor_run_claims_total", "Claims of runs.", &self.claims);
        page.single(
            "torpor_run_takeovers_total",
            "Claims of runs that another leaf had begun: after a crash, a drain or a pause.",
            &self.takeovers,
        );
        page.single("torpor_leases_lost_total", "Leases lost to another owner.", &self.leases_lost);
        page.single("torpor_dead_letters_total", "Runs given up after attempts without progress.", &self.dead_letters);
        page.single("torpor_leaves", "Leaves at work in this process.", &self.leaves);
        let up = if backlog.is_some() { 1.0 } else { 0.0 };
        page.one("torpor_queue_up", "Whether the queue told its counts to this scrape.", Kind::Gauge, &[], up);
        if let Some(Backlog { ready, waiting, leased, paused, dead, webhooks, files }) = backlog {
            let states =
                [("ready", ready), ("waiting", waiting), ("leased", leased), ("paused", paused), ("dead", dead)];
            page.head("torpor_queue_runs", "Runs in the queue by state; dead letters kept are `dead`.", Kind::Gauge);
            for (state, n) in states {
                page.sample("torpor_queue_runs", &[("state", state)], n as f64);
            }
            page.one(
                "torpor_webhooks_due",
                "Webhooks to be sent now; those being sent count.",
                Kind::Gauge,
                &[],
                webhooks as f64,
            );
            page.one(
                "torpor_files_due",
                "Runs whose files are to be written now; those being written count.",
                Kind::Gauge,
                &[],
                files as f64,
            );
        }
    }

    fn calls(&self, page: &mut Page) {
        page.family(
            "torpor_model_requests_total",
            "Requests to models by outcome; repeated ones count.",
            &self.model_requests,
        );
        page.family(
            "torpor_model_request_duration_seconds",
            "Time of a request to a model, to the end of its answer.",
            &self.model_seconds,
        );
        page.family("torpor_model_retries_total", "Requests to models that repeated a failed one.", &self.retries);
        page.family("torpor_model_tokens_total", "Tokens as models reported them, by kind.", &self.tokens);
        page.family(
            "torpor_model_cost_usd_total",
            "Cost of answered requests to models whose price is known, in US dollars.",
            &self.cost,
        );
        page.family("torpor_tool_calls_total", "Tool calls by outcome.", &self.tool_calls);
        page.family("torpor_tool_call_duration_seconds", "Time of a tool call as its leaf saw it.", &self.tool_seconds);
    }

    fn level(&self, level: Level) -> &Gauge {
        match level {
            Level::Connections => &self.connections,
            Level::Requests => &self.requests_now,
            Level::Followers => &self.followers,
            Level::Leaves => &self.leaves,
        }
    }

    fn request(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        let route = route.unwrap_or("unmatched");
        let class = STATUSES.get(usize::from(status / 100).wrapping_sub(1)).copied().unwrap_or_default();
        self.requests.with([route, method, class], |c| c.add(1));
        self.request_seconds.with([route, method], |h| h.seconds(took));
    }

    fn model_request(&self, model: &Ref, (ended, retry): (Sent, bool), took: Duration, usage: Option<Usage>) {
        let names = [&*model.provider, shown(model)];
        let [provider, model] = names;
        self.model_requests.with([provider, model, ended.as_str()], |c| c.add(1));
        self.model_seconds.with(names, |h| h.seconds(took));
        if retry {
            self.retries.with(names, |c| c.add(1));
        }
        if let Some(Usage { input, output, cache_read, cache_write }) = usage {
            for (kind, n) in TOKENS.into_iter().zip([input, output, cache_read, cache_write]) {
                self.tokens.with([provider, model, kind], |c| c.add(n));
            }
        }
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::Entered(level) => self.level(level).add(1),
            Event::Left(level) => self.level(level).add(-1),
            Event::Request { span, route, method, status } => self.request(route, method, status, span.took),
            Event::Accepted => self.accepted.add(1),
            Event::Claimed { waited, took_over, .. } => {
                self.claims.add(1);
                self.takeovers.add(u64::from(took_over));
                if let Some(span) = waited {
                    self.waits.seconds(span.took);
                }
            }
            Event::Ended { status, reason, took } => {
                let (status, reason) = (status.as_str(), reason.map_or("", FailReason::as_str));
                self.ended.with([status, reason], |c| c.add(1));
                self.run_seconds.with([status], |h| h.seconds(took));
            }
            Event::LeaseLost => self.leases_lost.add(1),
            Event::DeadLetter => self.dead_letters.add(1),
            Event::ModelRequest { model, ended, retry, took, usage, cost } => {
                if let Some(cost) = cost {
                    self.cost.with([&*model.provider, shown(model)], |c| c.add(cost.0));
                }
                self.model_request(model, (ended, retry), took, usage);
            }
            Event::ToolCall { span, tool, ended, .. } => {
                self.tool_calls.with([tool, ended.as_str()], |c| c.add(1));
                self.tool_seconds.with([tool], |h| h.seconds(span.took));
            }
            Event::Webhook { ended, took } => {
                self.webhooks.with([ended.as_str()], |c| c.add(1));
                self.webhook_seconds.seconds(took);
            }
            Event::Files { ended, took } => {
                self.files.with([ended.as_str()], |c| c.add(1));
                self.files_seconds.seconds(took);
            }
            Event::Commit { commands, took, stored } => {
                self.commits.with([if stored { "stored" } else { "failed" }], |c| c.add(1));
                self.commit_seconds.seconds(took);
                self.commit_commands.value(commands as u64);
            }
            Event::Leaf { .. } | Event::ModelCall { .. } => {} // parts of them were counted
        }
    }
}

/// A model as a label. Which file a scripted one plays is nobody's business.
fn shown(model: &Ref) -> &str {
    if model.provider == "scripted" { "scripted" } else { &model.model }
}
