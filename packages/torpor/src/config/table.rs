//! The one table of settings: names, defaults, help. Flags, environment, file keys and `--print-config` all come
//! from it.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// One setting.
pub(crate) struct Setting {
    /// Environment variable; flag and file key are derived from it.
    pub(crate) name: &'static str,
    /// The default, as text.
    pub(crate) default: Option<&'static str>,
    /// Whether it must never be shown. Secrets have no flag: command lines are visible to everybody.
    pub(crate) secret: bool,
    /// Whether the flag takes no value.
    pub(crate) switch: bool,
    /// What it means.
    pub(crate) help: &'static str,
}

impl Setting {
    const fn new(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, default: Some(default), secret: false, switch: false, help }
    }

    const fn unset(name: &'static str, help: &'static str) -> Self {
        Self { name, default: None, secret: false, switch: false, help }
    }

    const fn secret(name: &'static str, help: &'static str) -> Self {
        Self { secret: true, ..Self::unset(name, help) }
    }

    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { switch: true, ..Self::new(name, "false", help) }
    }

    /// `TORPOR_LEASE_MS` → `lease-ms`.
    pub(crate) fn flag(&self) -> String {
        self.key().replace('_', "-")
    }

    /// `TORPOR_LEASE_MS` → `lease_ms`.
    pub(crate) fn key(&self) -> String {
        self.name.strip_prefix("TORPOR_").unwrap_or(self.name).to_lowercase()
    }
}

/// Every setting of this build.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting::new("PORT", "8080", "Port to listen on; 0 picks a free one"),
    Setting::new("TORPOR_BIND", "127.0.0.1", "Address to listen on"),
    Setting::switch("TORPOR_INSECURE_NO_AUTH", "Allow a bind beyond loopback although there are no API keys"),
    Setting::unset("TORPOR_API_KEYS_FILE", "TOML file with API keys (their digests), read again when it changes"),
    Setting::new("TORPOR_RATE_PER_SECOND", "1000", "Requests a second of an API key that has no rate of its own"),
    Setting::new("TORPOR_RATE_BURST", "2000", "Requests at once of such a key, after a pause"),
    Setting::unset(
        "TORPOR_WEBHOOK_SECRETS_FILE",
        "TOML file with the secrets that sign webhooks, by tenant and name, read again when it changes",
    ),
    Setting::new(
        "TORPOR_WEBHOOK_ALLOW",
        "",
        "Hosts, addresses and networks, separated by `,`, that webhooks may reach though they are not public",
    ),
    Setting::new(
        "TORPOR_WORK_ROOT",
        "/mnt/torpor",
        "Folder under which `inputsRef` and `resultRef` name files; empty for none",
    ),
    Setting::new("TORPOR_INBOX", "", "Folder below it whose *.task.json files become runs; empty for none"),
    Setting::new("TORPOR_INBOX_TENANT", "default", "The tenant whose runs they become"),
    Setting::secret(
        "REDIS_URL",
        "Redis that processes share: redis://, rediss:// (TLS), several hosts = cluster, redis-sentinel://HOST,HOST/?master=NAME; \
         unset = the embedded store",
    ),
    Setting::new("TORPOR_REDIS_PREFIX", "torpor", "What the names of all keys in Redis begin with"),
    Setting::new(
        "TORPOR_REDIS_SHARDS",
        "1",
        "Into how many parts a new store in Redis is divided, by tenant; then it is fixed",
    ),
    Setting::new(
        "TORPOR_REDIS_DURABILITY",
        "off",
        "What an intent in Redis waits for: off, synced (the server's disk), or synced:N (N replicas as well)",
    ),
    Setting::unset(
        "TORPOR_REDIS_CA_FILE",
        "Authorities (PEM) that vouch for a rediss:// server [default: the system's]",
    ),
    Setting::unset("TORPOR_REDIS_CERT_FILE", "Certificate (PEM) for a Redis that asks its clients for one"),
    Setting::unset("TORPOR_REDIS_KEY_FILE", "The certificate's key (PEM)"),
    Setting::unset("TORPOR_DATA_DIR", "Embedded store, workspaces, journals [default: the user's state folder]"),
    Setting::new("TORPOR_MODEL", "anthropic/claude-opus-4-8", "`provider/model`, or `scripted:<file>`"),
    Setting::secret("ANTHROPIC_API_KEY", "Key for the Anthropic API"),
    Setting::secret("ANTHROPIC_AUTH_TOKEN", "Bearer token for a gateway; replaces the key"),
    Setting::unset("ANTHROPIC_BASE_URL", "Base URL of the Anthropic API or of a gateway that speaks it"),
    Setting::secret("OPENAI_API_KEY", "Key for the OpenAI API, or for a server that speaks Chat Completions"),
    Setting::unset("OPENAI_BASE_URL", "Base URL of the OpenAI API or of a server that speaks it"),
    Setting::new(
        "TORPOR_OPENAI_TOKEN_FIELD",
        "auto",
        "Field of the output limit: auto (by server), max_tokens, max_completion_tokens",
    ),
    Setting::new(
        "TORPOR_OPENAI_INCLUDE_USAGE",
        "true",
        "Ask for token counts in streams; false for servers that refuse",
    ),
    Setting::unset(
        "TORPOR_MODEL_LIMITS",
        "What models hold, in tokens: `id=window/output`, with `/images` or `/text` behind it if the model takes images or \
         does not, separated by `,` [default: what is known by family; models that are not known take text]",
    ),
    Setting::unset(
        "TORPOR_MODEL_PRICES",
        "What models cost, in dollars for a million tokens: `id=input/output/cacheRead/cacheWrite`, separated by `,` \
         [default: list prices of known models]",
    ),
    Setting::new("TORPOR_MODEL_CACHE", "auto", "Prompt-cache marks: auto (off for gateways), on, off"),
    Setting::unset(
        "TORPOR_MODEL_MAX_OUTPUT_TOKENS",
        "Output limit of a model call [default: what the model is known to allow]",
    ),
    Setting::new("TORPOR_MODEL_ATTEMPTS", "5", "Requests per model call before the run fails"),
    Setting::new("TORPOR_MODEL_IDLE_SECONDS", "120", "Silence after which a model stream is cut and retried"),
    Setting::new("TORPOR_SANDBOX", "local", "Where tools run: local, none"),
    Setting::new("TORPOR_SANDBOX_LEVEL", "full", "Weakest confinement to accept: full, reduced, unconfined"),
    Setting::switch("TORPOR_SANDBOX_NETWORK", "Let commands use the network"),
    Setting::new("TORPOR_WORKSPACE_ROOTS", "", "Folders, separated by `:`, inside which a `workspaceRef` may point"),
    Setting::new(
        "TORPOR_SANDBOX_READABLE",
        "",
        "Further folders, separated by `:`, that commands may read and run programs from",
    ),
    Setting::new("TORPOR_SANDBOX_MEMORY_MIB", "4096", "Memory of a session's processes together"),
    Setting::new("TORPOR_SANDBOX_PROCESSES", "2048", "Processes and threads of a session"),
    Setting::new("TORPOR_SANDBOX_DISK_MIB", "10240", "Disk that a session's files may take"),
    Setting::new("TORPOR_SANDBOX_MIN_FREE_MIB", "256", "Free disk space below which commands end and none is started"),
    Setting::new(
        "TORPOR_SANDBOX_CGROUP",
        "auto",
        "Control group (version 2) for commands: auto (where it is allowed), off, or the path of a delegated one",
    ),
    Setting::unset("TORPOR_SANDBOX_PATH", "Search path of commands [default: the usual system folders]"),
    Setting::new("TORPOR_ORPHAN_SECONDS", "600", "How long commands live on without a brain"),
    Setting::new("TORPOR_RESULT_TTL_SECONDS", "86400", "How long records of ended runs are kept"),
    Setting::unset(
        "TORPOR_SESSION_TTL_SECONDS",
        "How long a session is kept after its last run or entry [default: for ever]",
    ),
    Setting::new(
        "TORPOR_DEAD_LETTER_TTL_SECONDS",
        "604800",
        "How long runs that were given up are kept to be driven again, with their records",
    ),
    Setting::new("TORPOR_MAX_DEAD_LETTERS", "10000", "Dead letters that are kept; the oldest go first"),
    Setting::new(
        "TORPOR_MAX_QUEUED",
        "1000000",
        "Runs that may be queued, running or paused at once (in Redis: in each shard)",
    ),
    Setting::unset(
        "TORPOR_SCHEDULES",
        "Schedule file, or folder of them (*.toml, *.json), that this server fires; read again when they change",
    ),
    Setting::new("TORPOR_LEASE_MS", "3000", "Takeover time; the heartbeat is a third of it"),
    Setting::new("TORPOR_CONCURRENCY", "512", "Leaves that run at once in this process"),
    Setting::new("TORPOR_MAX_ATTEMPTS", "5", "Attempts without progress before a run is given up"),
    Setting::unset("TORPOR_MAX_TOKENS", "Token limit of a run that names none"),
    Setting::unset("TORPOR_MAX_COST_USD", "Cost limit of a run that names none, in dollars; needs known prices"),
    Setting::unset("TORPOR_MAX_SECONDS", "Time limit of a run that names none"),
    Setting::unset(
        "TORPOR_APPROVALS",
        "Calls that need a person's approval in every run: JSON, for instance `[{\"tool\":\"bash\",\"pattern\":\"^git push\"}]`",
    ),
    Setting::new("TORPOR_GATE_SECONDS", "604800", "How long a gate waits before it counts as rejected; 0 is for ever"),
    Setting::new("TORPOR_SYNC_MAX_SECONDS", "280", "How long a synchronous call waits before it is answered 202"),
    Setting::new("TORPOR_BODY_LIMIT_BYTES", "8388608", "Largest request body"),
    Setting::new("TORPOR_IMPORT_LIMIT_BYTES", "1073741824", "Largest file that is imported as a session"),
    Setting::new(
        "TORPOR_CLIENT_SECONDS",
        "30",
        "How long a client may take to send a body (a third of it for a head), and leave an answer unread",
    ),
    Setting::new(
        "TORPOR_SERVE_WORKER",
        "all",
        "What `torpor serve` works on: all that is queued, or sync: what its own callers wait for; `torpor worker` does the \
         rest, webhooks included (needs REDIS_URL)",
    ),
    Setting::unset(
        "TORPOR_PROBE_BIND",
        "Address and port where `torpor worker` answers /livez, /readyz and /metrics, and nothing else [default: none]",
    ),
    Setting::new("TORPOR_DRAIN_SECONDS", "20", "How long running work may finish after SIGTERM"),
    Setting::new("TORPOR_LOG", "info", "Log filter, for instance `info` or `torpor_worker=debug,warn`"),
    Setting::new("TORPOR_LOG_FORMAT", "text", "text or json"),
    Setting::unset("OTEL_EXPORTER_OTLP_ENDPOINT", "Base URL of a collector that takes spans over OTLP/HTTP (protobuf)"),
    Setting::secret("OTEL_EXPORTER_OTLP_HEADERS", "Headers for the collector: `name=value`, separated by `,`"),
    Setting::new("OTEL_SERVICE_NAME", "torpor", "Name under which spans are sent"),
];

/// Variables with our prefix that are no settings of this process: the clients' own, and the shared volume's root,
/// which means something only with envelope fields that are still refused.
pub(crate) const ELSEWHERE: &[&str] =
    &["TORPOR_URL", "TORPOR_API_KEY", "TORPOR_CONFIG", "TORPOR_WORK_ROOT", "TORPOR_FIRE", "TORPOR_FIRE_JOB"];

pub(crate) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

pub(crate) fn is_secret(name: &str) -> bool {
    find(name).is_some_and(|s| s.secret)
}

/// What was said on the command line, by setting name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides(pub(crate) BTreeMap<&'static str, String>);

impl Args for Overrides {
    fn augment_args(cmd: Command) -> Command {
        SETTINGS.iter().filter(|s| !s.secret).fold(cmd, |cmd, s| {
            let default = s.default.filter(|d| !d.is_empty()).map_or_else(String::new, |d| format!(" [default: {d}]"));
            let arg = Arg::new(s.name)
                .long(s.flag())
                .help(format!("{}{default} [env: {}]", s.help, s.name))
                .help_heading("Settings (flag over environment over file)");
            cmd.arg(if s.switch {
                arg.action(ArgAction::SetTrue)
            } else {
                arg.value_name("VALUE").action(ArgAction::Set)
            })
        })
    }

    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

impl FromArgMatches for Overrides {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut out = Self::default();
        for s in SETTINGS.iter().filter(|s| !s.secret) {
            if s.switch {
                if matches.get_flag(s.name) {
                    out.0.insert(s.name, "true".into());
                }
            } else if let Some(v) = matches.get_one::<String>(s.name) {
                out.0.insert(s.name, v.clone());
            }
        }
        Ok(out)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
