use std::collections::HashMap;
use std::io::Write as _;

use super::*;

struct FakeEnv(HashMap<&'static str, &'static str>);

impl Env for FakeEnv {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|s| (*s).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().map(|s| (*s).to_owned()).collect()
    }
}

fn raw(env: &[(&'static str, &'static str)], flags: &[(&'static str, &str)], file: Option<&str>) -> Raw {
    let mut vars: HashMap<_, _> = env.iter().copied().collect();
    vars.entry("HOME").or_insert("/home/somebody");
    let flags = Overrides(flags.iter().map(|(k, v)| (*k, (*v).to_owned())).collect());
    let file = file.map(|text| {
        let mut f = tempfile::NamedTempFile::new().unwrap();
        f.write_all(text.as_bytes()).unwrap();
        f
    });
    Raw::gather(&flags, &FakeEnv(vars), file.as_ref().map(tempfile::NamedTempFile::path))
}

fn refused(env: &[(&'static str, &'static str)], flags: &[(&'static str, &str)]) -> String {
    Config::from_raw(&raw(env, flags, None)).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let file = Some("port = 1\nlease_ms = 500\nmodel = \"anthropic/from-file\"\n");
    let raw = raw(&[("PORT", "2"), ("TORPOR_MODEL", "anthropic/from-env")], &[("PORT", "3")], file);
    let config = Config::from_raw(&raw).unwrap();
    assert_eq!(config.bind.to_string(), "127.0.0.1:3");
    assert_eq!(config.model.to_string(), "anthropic/from-env");
    assert_eq!(config.worker.lease, Duration::from_millis(500));
    assert_eq!(config.data_dir, Path::new("/home/somebody/.local/state/torpor"));
    assert_eq!(config.result_ttl, Duration::from_secs(86_400));
}

#[test]
fn localhost_is_an_address() {
    let bound = |text: &'static str| Config::from_raw(&raw(&[("TORPOR_BIND", text)], &[], None)).unwrap().bind.ip();
    assert_eq!((bound("localhost"), bound("::1").is_loopback()), (LOOPBACK, true));
}

#[test]
fn what_is_wrong_is_named_with_its_source() {
    for (env, flags, want) in [
        (
            ("TORPOR_LEASE_MSS", "1"),
            None,
            "TORPOR_LEASE_MSS (environment): is not a setting; did you mean TORPOR_LEASE_MS?",
        ),
        (
            ("TORPOR_LEASE_MS", "soon"),
            None,
            "TORPOR_LEASE_MS (environment): expected an integer from 100 to 600000, got \"soon\"",
        ),
        (
            ("PORT", "80"),
            Some(("PORT", "http")),
            "PORT (flag --port): expected an integer from 0 to 65535, got \"http\"",
        ),
        (
            ("TORPOR_MODEL", "gpt"),
            None,
            "TORPOR_MODEL (environment): expected `provider/model` or `scripted:<file>`, got \"gpt\"",
        ),
        (
            ("TORPOR_SANDBOX", "docker"),
            None,
            "TORPOR_SANDBOX (environment): expected one of local, none, got \"docker\"",
        ),
        (
            ("TORPOR_MODEL", "mistral/large"),
            None,
            "TORPOR_MODEL (environment): \"mistral\" is no provider; there are anthropic, openai, scripted; for a server \
             that speaks Chat Completions write openai/…",
        ),
        (
            ("TORPOR_WEBHOOK_ALLOW", "ok.example,10.0.0.0/33"),
            None,
            "TORPOR_WEBHOOK_ALLOW (environment): \"10.0.0.0/33\" is no host name, address or network such as 10.1.0.0/16",
        ),
        (("TORPOR_DATA_DIR", "here"), None, "TORPOR_DATA_DIR (environment): expected an absolute path"),
        (
            ("REDIS_URL", "http://u:secret@h"),
            None,
            "REDIS_URL (environment): the scheme is not known; expected redis://host:port, rediss://host:port, \
             redis://host:port,host:port for a cluster, or redis-sentinel://host:port,host:port/?master=name",
        ),
        (
            ("TORPOR_REDIS_PREFIX", "a{b}"),
            None,
            "TORPOR_REDIS_PREFIX (environment): expected 1 to 64 letters, digits, `-`, `_`, `.` or `:`, got \"a{b}\"",
        ),
        (
            ("TORPOR_REDIS_SHARDS", "0"),
            None,
            "TORPOR_REDIS_SHARDS (environment): expected an integer from 1 to 256, got \"0\"",
        ),
        (
            ("TORPOR_REDIS_DURABILITY", "always"),
            None,
            "TORPOR_REDIS_DURABILITY (environment): expected off, synced, or synced:N for N replicas, at most 16, got \"always\"",
        ),
        (
            ("TORPOR_REDIS_CA_FILE", "/nowhere/ca.pem"),
            None,
            "TORPOR_REDIS_CA_FILE (environment): /nowhere/ca.pem: No such file or directory (os error 2)",
        ),
        (
            ("TORPOR_REDIS_CERT_FILE", "/dev/null"),
            None,
            "TORPOR_REDIS_CERT_FILE (environment): a certificate and its key (TORPOR_REDIS_KEY_FILE) go together",
        ),
        (
            ("TORPOR_SERVE_WORKER", "sync"),
            None,
            "TORPOR_SERVE_WORKER (environment): sync leaves work to `torpor worker`, which cannot share the embedded store; \
             set REDIS_URL, or use all",
        ),
    ] {
        assert_eq!(refused(&[env], flags.as_slice()), want);
    }
}

#[test]
fn what_models_hold_is_read_and_what_cannot_be_is_refused() {
    let env = [("TORPOR_MODEL_LIMITS", "qwen3:8b=32768/4096, openai/a/b=10/10/images, t=5/5/text,")];
    let models = Config::from_raw(&raw(&env, &[], None)).unwrap().models.models;
    let held: Vec<_> = models.iter().map(|(id, l)| (id.as_str(), l.context_window, l.max_output, l.images)).collect();
    let want = [("openai/a/b", 10, 10, Some(true)), ("qwen3:8b", 32_768, 4_096, None), ("t", 5, 5, Some(false))];
    assert_eq!(held, want);
    for wrong in
        ["m", "m=5", "m=5/6", "m=5/0", "=5/5", "m=a/b", "m=5/5;n=5/5", "m=5/5/", "m=5/5/audio", "m=5/5/text/text"]
    {
        let env: [(&str, &str); 1] = [("TORPOR_MODEL_LIMITS", wrong)];
        assert!(refused(&env, &[]).contains("expected `id=window/output`"), "{wrong}");
    }
}

#[test]
fn prices_are_read_over_those_that_are_known_and_a_limit_needs_one() {
    let prices = "own=0.5/2/0/0, openai/a/b=1/2.125/.1/1.25, claude-opus-4-8=1/1/1/1,";
    let config = Config::from_raw(&raw(&[("TORPOR_MODEL_PRICES", prices)], &[], None)).unwrap();
    let of = |name: &str| config.harness.prices.of(&Ref::parse(name).unwrap()).map(|p| p.rates);
    assert_eq!(of("openai/own").map(|r| (r.input, r.output, r.cache_read, r.cache_write)), Some((500, 2_000, 0, 0)));
    assert_eq!(of("openai/a/b").map(|r| (r.output, r.cache_read)), Some((2_125, 100)));
    assert_eq!(of("anthropic/claude-opus-4-8").map(|r| r.input), Some(1_000), "the operator knows better");
    assert_eq!(of("anthropic/claude-opus-4-7").map(|r| r.input), Some(5_000));
    for wrong in ["m", "m=1", "m=1/2/3", "m=1/2/3/4/5", "=1/2/3/4", "m=1/2/3/x", "m=-1/2/3/4", "m=0.0001/2/3/4"] {
        let env: [(&str, &str); 1] = [("TORPOR_MODEL_PRICES", wrong)];
        let refused = refused(&env, &[]);
        assert!(
            refused.starts_with("TORPOR_MODEL_PRICES (environment): expected `id=input/output"),
            "{wrong}: {refused}"
        );
    }
    let limited = Config::from_raw(&raw(&[("TORPOR_MAX_COST_USD", "2.50")], &[], None)).unwrap();
    assert_eq!(limited.harness.limits.cost.map(|usd| usd.to_string()).as_deref(), Some("$2.50"));
    for (env, want) in [
        (&[("TORPOR_MAX_COST_USD", "0")][..], "expected a number of dollars above 0 and at most 1000000, got \"0\""),
        (&[("TORPOR_MAX_COST_USD", "1"), ("TORPOR_MODEL", "openai/mine")], "no price is known for openai/mine"),
    ] {
        let refused = refused(env, &[]);
        assert!(refused.starts_with("TORPOR_MAX_COST_USD (environment)") && refused.contains(want), "{refused}");
    }
}

#[test]
fn a_file_with_unknown_keys_or_bad_syntax_is_refused() {
    for (text, want) in [
        ("colour = 1", "): is not a setting"),
        ("prot = 1", "did you mean port?"),
        ("lease-ms = 1", "did you mean lease_ms?"),
        ("TORPOR_LEASE_MS = 1", "did you mean lease_ms?"),
        ("port = [", "expected"),
        ("port = [1]", "expected a string"),
    ] {
        let problems = raw(&[], &[], Some(text)).problems.join("\n");
        assert!(problems.contains(want), "{text}: {problems}");
    }
}

#[test]
fn secrets_are_never_shown() {
    let env = [
        ("ANTHROPIC_API_KEY", "sk-canary"),
        ("ANTHROPIC_AUTH_TOKEN", "tok-canary"),
        ("REDIS_URL", "redis://u:canary@h"),
        ("ANTHROPIC_BASE_URL", "https://u:canary@h/v1"),
        ("OPENAI_BASE_URL", "https://h/v1?key=canary#canary"),
    ];
    let raw = raw(&env, &[], None);
    let shown = show(&raw) + &show_json(&raw).to_string();
    assert!(!shown.contains("canary"), "{shown}");
    assert!(shown.contains("ANTHROPIC_API_KEY"));
}
