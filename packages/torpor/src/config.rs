//! Configuration: flags over environment over an optional TOML file over defaults, in two stages. [`Raw`] is what was
//! said and where; [`Config`] is what it means, or every reason why it means nothing.
//!
//! An unknown key, a malformed value or a contradiction stops the start with a line that names it; there is no
//! silent default.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use torpor_core::model::Ref;

use crate::watching::spans::{self, Collector};

mod models;
mod prices;
mod raw;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod volume;

#[cfg(test)]
use raw::Env;
pub(crate) use raw::{ProcessEnv, Raw};
pub(crate) use store::Redis;
pub(crate) use table::{Overrides, SETTINGS};
pub(crate) use volume::Volume;

/// Where tools run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SandboxKind {
    /// The hands on this machine.
    Local,
    /// Nowhere.
    None,
}

/// How strongly a command must be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    /// Namespaces, Landlock, seccomp, limits.
    Full,
    /// Landlock and seccomp at least.
    Reduced,
    /// None. For people who know that the machine itself is the sandbox.
    Unconfined,
}

/// Checked configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) bind: SocketAddr,
    /// Where a worker answers probes.
    pub(crate) probe_bind: Option<SocketAddr>,
    /// A bind beyond loopback is allowed without a key.
    pub(crate) insecure_no_auth: bool,
    pub(crate) api_keys_file: Option<PathBuf>,
    pub(crate) webhook_secrets_file: Option<PathBuf>,
    /// A file, or a folder of them.
    pub(crate) schedules: Option<PathBuf>,
    pub(crate) webhook_allow: torpor_webhook::Allow,
    pub(crate) data_dir: PathBuf,
    /// Where runs may have files, if anywhere.
    pub(crate) volume: Option<Volume>,
    /// The store that processes share; `None` is the embedded one in the data folder.
    pub(crate) redis: Option<Redis>,
    pub(crate) model: Ref,
    pub(crate) models: torpor_model::Config,
    pub(crate) harness: torpor_harness::Settings,
    pub(crate) worker: torpor_worker::Config,
    pub(crate) server: torpor_server::Config,
    pub(crate) sandbox: SandboxKind,
    pub(crate) sandbox_limits: torpor_hands::Limits,
    pub(crate) confinement: Confinement,
    pub(crate) sandbox_network: bool,
    pub(crate) workspace_roots: Vec<PathBuf>,
    pub(crate) sandbox_readable: Vec<PathBuf>,
    pub(crate) sandbox_path: Option<String>,
    pub(crate) orphan: Duration,
    pub(crate) result_ttl: Duration,
    /// Sessions that were idle for longer are removed; `None` keeps them.
    pub(crate) session_ttl: Option<Duration>,
    /// How long dead letters are kept, and the records of their runs.
    pub(crate) dead_letter_ttl: Duration,
    /// Most dead letters that are kept.
    pub(crate) max_dead_letters: u64,
    pub(crate) max_queued: u64,
    /// Where spans go, if anywhere.
    pub(crate) collector: Option<Collector>,
    pub(crate) log: String,
    pub(crate) log_json: bool,
}

/// Why a start was refused: one line a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) Vec<String>);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Reads single settings out of the raw ones and collects what is wrong.
struct Reader<'a> {
    raw: &'a Raw,
    problems: Vec<String>,
}

impl Reader<'_> {
    fn text(&self, name: &str) -> Option<&str> {
        self.raw.get(name).map(|v| v.text.as_str())
    }

    fn problem(&mut self, name: &str, message: impl std::fmt::Display) {
        self.problems.push(match self.raw.get(name) {
            Some(v) => format!("{name} ({}): {message}", v.source),
            None => format!("{name}: {message}"),
        });
    }

    fn parse<T>(&mut self, name: &str, expected: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let parsed = read(text);
        if parsed.is_none() {
            let shown = if table::is_secret(name) { "a value that is not".to_owned() } else { format!("{text:?}") };
            self.problem(name, format_args!("expected {expected}, got {shown}"));
        }
        parsed
    }

    fn number(&mut self, name: &str, min: u64, max: u64) -> u64 {
        self.optional_number(name, min, max).unwrap_or(min)
    }

    fn optional_number(&mut self, name: &str, min: u64, max: u64) -> Option<u64> {
        let expected = format!("an integer from {min} to {max}");
        self.parse(name, &expected, |t| t.parse().ok().filter(|n| (min..=max).contains(n)))
    }

    fn seconds(&mut self, name: &str, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(name, min, max))
    }

    fn flag(&mut self, name: &str) -> bool {
        let read = |t: &str| match t {
            "1" | "true" => Some(true),
            "0" | "false" | "" => Some(false),
            _ => None,
        };
        self.parse(name, "true or false", read).unwrap_or(false)
    }

    fn one_of<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|c| c.0).collect();
        let expected = format!("one of {}", names.join(", "));
        self.parse(name, &expected, |t| choices.iter().find(|c| c.0 == t).map(|c| c.1))
    }
}

const DAY: u64 = 86_400;

impl Config {
    /// Checks what was said.
    pub(crate) fn from_raw(raw: &Raw) -> Result<Self, Refused> {
        let mut r = Reader { raw, problems: raw.problems.clone() };
        let bind = read_bind(&mut r);
        let model = r.parse("TORPOR_MODEL", "`provider/model` or `scripted:<file>`", |t| Ref::parse(t).ok());
        if let Some(unknown) = model.as_ref().filter(|m| !torpor_model::PROVIDERS.contains(&m.provider.as_str())) {
            let known = torpor_model::PROVIDERS.join(", ");
            r.problem(
                "TORPOR_MODEL",
                format_args!(
                    "{:?} is no provider; there are {known}; for a server that speaks Chat Completions write openai/…",
                    unknown.provider
                ),
            );
        }
        let sandbox = read_sandbox(&mut r);
        let confinement = r
            .one_of(
                "TORPOR_SANDBOX_LEVEL",
                &[
                    ("full", Confinement::Full),
                    ("reduced", Confinement::Reduced),
                    ("unconfined", Confinement::Unconfined),
                ],
            )
            .unwrap_or(Confinement::Full);
        let workspace_roots = read_folders(&mut r, "TORPOR_WORKSPACE_ROOTS");
        let sandbox_readable = read_folders(&mut r, "TORPOR_SANDBOX_READABLE");
        let data_dir = read_data_dir(&mut r);
        let lease = Duration::from_millis(r.number("TORPOR_LEASE_MS", 100, 600_000));
        let models = models::read(&mut r);
        let model = model.unwrap_or_else(|| Ref { provider: "anthropic".into(), model: String::new() });
        let mut harness = torpor_harness::Settings::new(model.clone());
        let openai = models.openai.api_key.is_some() || models.openai.base_url.is_some();
        for (provider, there) in [("anthropic", true), ("openai", openai)] {
            if there && model.provider != provider {
                harness.providers.push(provider.into());
            }
        }
        harness.retry.attempts = u32::try_from(r.number("TORPOR_MODEL_ATTEMPTS", 1, 20)).unwrap_or(1);
        harness.limits.tokens = r.optional_number("TORPOR_MAX_TOKENS", 1, u64::MAX);
        harness.prices = prices::read(&mut r);
        harness.limits.cost = prices::limit(&mut r);
        if harness.limits.cost.is_some()
            && let Err(e) = harness.check_price(&model)
        {
            r.problem("TORPOR_MAX_COST_USD", e);
        }
        harness.limits.seconds = r.optional_number("TORPOR_MAX_SECONDS", 1, 31_536_000);
        let gate = r.seconds("TORPOR_GATE_SECONDS", 0, 3650 * DAY);
        harness.gate_ttl = (!gate.is_zero()).then_some(gate);
        harness.approvals = read_approvals(&mut r);
        if let Err(e) = harness.check_approvals() {
            r.problem("TORPOR_APPROVALS", e);
        }
        let worker = torpor_worker::Config {
            concurrency: usize::try_from(r.number("TORPOR_CONCURRENCY", 1, 100_000)).unwrap_or(1),
            lease,
            max_attempts: u32::try_from(r.number("TORPOR_MAX_ATTEMPTS", 1, 100)).unwrap_or(1),
            drain: r.seconds("TORPOR_DRAIN_SECONDS", 0, 3600),
            claims: store::read_claims(&mut r),
        };
        let patience = r.seconds("TORPOR_CLIENT_SECONDS", 1, 3600);
        let server = torpor_server::Config {
            header_timeout: patience / 3,
            body_timeout: patience,
            write_timeout: patience,
            body_limit: usize::try_from(r.number("TORPOR_BODY_LIMIT_BYTES", 1024, 1 << 30)).unwrap_or(1024),
            import_limit: r.number("TORPOR_IMPORT_LIMIT_BYTES", 1024, 1 << 50),
            sync_max: r.seconds("TORPOR_SYNC_MAX_SECONDS", 1, DAY),
            drain: worker.drain,
            rate: torpor_core::key::Rate {
                per_second: rate(&mut r, "TORPOR_RATE_PER_SECOND"),
                burst: rate(&mut r, "TORPOR_RATE_BURST"),
            },
            local_only: bind.ip().is_loopback() && !r.flag("TORPOR_INSECURE_NO_AUTH"),
            require_keys: r.text("TORPOR_API_KEYS_FILE").is_some_and(|t| !t.is_empty()),
            ..torpor_server::Config::default()
        };
        let config = Self {
            bind,
            probe_bind: r
                .parse("TORPOR_PROBE_BIND", "an IP address and a port, as in 127.0.0.1:8081", |t| t.parse().ok()),
            insecure_no_auth: r.flag("TORPOR_INSECURE_NO_AUTH"),
            api_keys_file: r.text("TORPOR_API_KEYS_FILE").filter(|t| !t.is_empty()).map(PathBuf::from),
            webhook_secrets_file: r.text("TORPOR_WEBHOOK_SECRETS_FILE").filter(|t| !t.is_empty()).map(PathBuf::from),
            schedules: r.text("TORPOR_SCHEDULES").filter(|t| !t.is_empty()).map(PathBuf::from),
            webhook_allow: read_webhook_allow(&mut r),
            data_dir,
            volume: volume::read(&mut r),
            redis: store::read_redis(&mut r),
            models,
            model,
            harness,
            worker,
            server,
            sandbox,
            confinement,
            sandbox_limits: read_sandbox_limits(&mut r),
            sandbox_network: r.flag("TORPOR_SANDBOX_NETWORK"),
            workspace_roots,
            sandbox_readable,
            sandbox_path: r.text("TORPOR_SANDBOX_PATH").map(str::to_owned),
            orphan: r.seconds("TORPOR_ORPHAN_SECONDS", 1, 30 * DAY),
            result_ttl: r.seconds("TORPOR_RESULT_TTL_SECONDS", 1, 3650 * DAY),
            dead_letter_ttl: r.seconds("TORPOR_DEAD_LETTER_TTL_SECONDS", 1, 3650 * DAY),
            max_dead_letters: r.number("TORPOR_MAX_DEAD_LETTERS", 0, 10_000_000),
            session_ttl: r.optional_number("TORPOR_SESSION_TTL_SECONDS", 1, 3650 * DAY).map(Duration::from_secs),
            max_queued: r.number("TORPOR_MAX_QUEUED", 1, 1 << 40),
            collector: read_collector(&mut r),
            log: r.text("TORPOR_LOG").unwrap_or("info").to_owned(),
            log_json: r.one_of("TORPOR_LOG_FORMAT", &[("text", false), ("json", true)]).unwrap_or(false),
        };
        if r.problems.is_empty() { Ok(config) } else { Err(Refused(r.problems)) }
    }
}

/// Where spans go: nowhere without an endpoint.
fn read_collector(r: &mut Reader<'_>) -> Option<Collector> {
    let text = |name| r.text(name).unwrap_or_default();
    let endpoint = text("OTEL_EXPORTER_OTLP_ENDPOINT");
    if endpoint.is_empty() {
        return None;
    }
    match spans::read(endpoint, text("OTEL_EXPORTER_OTLP_HEADERS"), text("OTEL_SERVICE_NAME")) {
        Ok(collector) => Some(collector),
        Err((name, problem)) => {
            r.problem(name, problem);
            None
        }
    }
}

impl Config {
    /// What to do about a model that is configured without the credential it needs.
    pub(crate) fn missing_credential(&self) -> Option<String> {
        let (anthropic, openai) = (&self.models.anthropic, &self.models.openai);
        let missing = match self.model.provider.as_str() {
            "anthropic" if anthropic.api_key.is_none() && anthropic.auth_token.is_none() => {
                "ANTHROPIC_API_KEY, or ANTHROPIC_AUTH_TOKEN with ANTHROPIC_BASE_URL for a gateway"
            }
            "openai" if openai.api_key.is_none() && openai.base_url.is_none() => {
                "OPENAI_API_KEY, or OPENAI_BASE_URL for a server that wants no key"
            }
            _ => return None,
        };
        Some(format!("{}: no credential; set {missing}", self.model))
    }
}

fn rate(r: &mut Reader<'_>, name: &str) -> u32 {
    u32::try_from(r.number(name, 1, u64::from(torpor_core::key::Rate::MAX))).unwrap_or(1)
}

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn read_bind(r: &mut Reader<'_>) -> SocketAddr {
    let ip = r
        .parse("TORPOR_BIND", "an IP address", |t| if t == "localhost" { Some(LOOPBACK) } else { t.parse().ok() })
        .unwrap_or(LOOPBACK);
    let port = u16::try_from(r.number("PORT", 0, 65_535)).unwrap_or(0);
    SocketAddr::new(ip, port)
}

fn read_sandbox(r: &mut Reader<'_>) -> SandboxKind {
    let choices = [("local", SandboxKind::Local), ("none", SandboxKind::None)];
    let kind = r.text("TORPOR_SANDBOX").unwrap_or_default();
    if kind.starts_with("kube:") || kind.starts_with("kube-pool:") {
        r.problem("TORPOR_SANDBOX", "Kubernetes sandboxes are not in this version; use local or none");
        return SandboxKind::None;
    }
    r.one_of("TORPOR_SANDBOX", &choices).unwrap_or(SandboxKind::None)
}

/// Folders separated by `:`, as real paths. The root folder is none: it would share everything.
fn read_folders(r: &mut Reader<'_>, name: &str) -> Vec<PathBuf> {
    let given = r.text(name).unwrap_or_default().split(':').filter(|s| !s.is_empty());
    let given: Vec<PathBuf> = given.map(PathBuf::from).collect();
    let mut real = Vec::with_capacity(given.len());
    for folder in given {
        match std::fs::canonicalize(&folder) {
            Ok(p) if p.is_dir() && p != Path::new("/") => real.push(p),
            Ok(p) => r.problem(name, format_args!("{} is not a folder that can be shared", p.display())),
            Err(e) => r.problem(name, format_args!("{}: {e}", folder.display())),
        }
    }
    real
}

fn read_approvals(r: &mut Reader<'_>) -> Vec<torpor_core::gate::Rule> {
    let expected = "a JSON array of rules {\"tool\": …, \"pattern\": …}";
    r.parse("TORPOR_APPROVALS", expected, |t| serde_json::from_str(t).ok()).unwrap_or_default()
}

fn read_webhook_allow(r: &mut Reader<'_>) -> torpor_webhook::Allow {
    let read = torpor_webhook::Allow::parse(r.text("TORPOR_WEBHOOK_ALLOW").unwrap_or_default());
    read.map_err(|e| r.problem("TORPOR_WEBHOOK_ALLOW", e)).unwrap_or_default()
}

fn read_data_dir(r: &mut Reader<'_>) -> PathBuf {
    match r.text("TORPOR_DATA_DIR") {
        Some(dir) if Path::new(dir).is_absolute() => PathBuf::from(dir),
        Some(_) => {
            r.problem("TORPOR_DATA_DIR", "expected an absolute path");
            PathBuf::new()
        }
        None => {
            r.problem(
                "TORPOR_DATA_DIR",
                "is not set and there is no home directory to put it in (HOME, XDG_STATE_HOME)",
            );
            PathBuf::new()
        }
    }
}

fn read_sandbox_limits(r: &mut Reader<'_>) -> torpor_hands::Limits {
    use torpor_hands::cgroup::Choice;

    const MIB: u64 = 1 << 20;
    let choice = |t: &str| match t {
        "auto" => Some(Choice::Auto),
        "off" => Some(Choice::Off),
        path => Some(Choice::Below(path.into())).filter(|_| path.starts_with('/')),
    };
    torpor_hands::Limits {
        memory: r.number("TORPOR_SANDBOX_MEMORY_MIB", 64, MIB * MIB) * MIB,
        processes: r.number("TORPOR_SANDBOX_PROCESSES", 32, 1_000_000),
        disk: r.number("TORPOR_SANDBOX_DISK_MIB", 16, MIB * MIB) * MIB,
        min_free: r.number("TORPOR_SANDBOX_MIN_FREE_MIB", 0, MIB * MIB) * MIB,
        cgroup: r.parse("TORPOR_SANDBOX_CGROUP", "auto, off or an absolute path", choice).unwrap_or_default(),
    }
}

/// The merged configuration as people may see it: every setting, its value, where it came from; secrets masked.
pub(crate) fn show(raw: &Raw) -> String {
    let mut out = String::new();
    for s in SETTINGS {
        let (value, source) = match raw.get(s.name) {
            Some(v) if s.secret && !v.text.is_empty() => (hidden(s.name, &v.text), v.source.to_string()),
            Some(v) => (format!("{:?}", masked(&v.text)), v.source.to_string()),
            None => ("(unset)".to_owned(), "default".to_owned()),
        };
        let _ = writeln!(out, "{:<28} = {value}  # {source}", s.name);
    }
    out
}

/// The merged configuration for machines.
pub(crate) fn show_json(raw: &Raw) -> serde_json::Value {
    let entries: BTreeMap<&str, serde_json::Value> = SETTINGS
        .iter()
        .map(|s| {
            let v = raw.get(s.name);
            let value =
                v.map(|v| if s.secret && !v.text.is_empty() { hidden(s.name, &v.text) } else { masked(&v.text) });
            let source = v.map_or_else(|| "default".to_owned(), |v| v.source.to_string());
            (s.name, serde_json::json!({"value": value, "source": source}))
        })
        .collect();
    serde_json::json!(entries)
}

/// What may be seen of a secret.
fn hidden(name: &str, text: &str) -> String {
    if name == "REDIS_URL" { store::shown(text) } else { "***".to_owned() }
}

/// A value without the credentials that a URL may hold.
fn masked(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => {
            format!("{}***{}", &text[..scheme + 3], without_query(&text[at..]))
        }
        (Some(_), _) => without_query(text),
        _ => text.to_owned(),
    }
}

/// A URL up to its query, which often carries a key.
fn without_query(url: &str) -> String {
    url.find(['?', '#']).map_or_else(|| url.to_owned(), |at| format!("{}***", &url[..=at]))
}
