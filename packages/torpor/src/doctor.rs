//! `torpor doctor`: check this machine and configuration, and say what to do about what is wrong.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use torpor_core::SystemClock;
use torpor_core::observe::Nobody;
use torpor_core::sandbox::SandboxTransport as _;
use torpor_schedule::Source as _;

use crate::cli::{Error, Exit, Sources};
use crate::client::Client;
use crate::config::{Config, Overrides, SandboxKind};
use crate::schedule_files::Files;
use crate::stores::{Role, Stores};
use crate::{runtime, ui};

#[derive(Args)]
#[command(after_help = "\
Exit codes: 0 nothing is wrong; 1 something is.

Examples:
  torpor doctor
  TORPOR_DATA_DIR=/srv/torpor torpor doctor --json")]
pub(crate) struct Arguments {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sources: Sources,
}

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    /// Works, but somebody should know.
    Note,
    Bad,
}

struct Finding {
    name: &'static str,
    mark: Mark,
    text: String,
}

pub(crate) fn main(args: &Arguments) -> Result<Exit, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let findings = runtime.block_on(examine(args));
    let well = findings.iter().all(|f| f.mark != Mark::Bad);
    if args.json {
        let all: Vec<_> = findings
            .iter()
            .map(
                |f| json!({"check": f.name, "ok": f.mark != Mark::Bad, "note": f.mark == Mark::Note, "detail": f.text}),
            )
            .collect();
        ui::say!("{:#}", json!({"ok": well, "checks": all}));
    } else {
        for f in &findings {
            let mark = match f.mark {
                Mark::Good => ui::good("ok  "),
                Mark::Note => ui::bold("note"),
                Mark::Bad => ui::bad("FAIL"),
            };
            ui::say!("{mark}  {:<14} {}", f.name, f.text);
        }
    }
    Ok(if well { Exit::Success } else { Exit::NotWell })
}

async fn examine(args: &Arguments) -> Vec<Finding> {
    let mut findings = vec![finding("version", Mark::Good, env!("CARGO_PKG_VERSION").to_owned())];
    let config = match args.sources.config(&Overrides::default()) {
        Ok(config) => config,
        Err(refused) => {
            findings.push(finding("configuration", Mark::Bad, refused.to_string()));
            return findings;
        }
    };
    findings.push(finding("configuration", Mark::Good, "every setting is understood".to_owned()));
    findings.extend(store_and_sandbox(&config).await);
    findings.push(model(&config));
    findings.extend(config.schedules.as_deref().map(schedules));
    findings
}

fn finding(name: &'static str, mark: Mark, text: String) -> Finding {
    Finding { name, mark, text }
}

/// Store and sandbox. They are opened for real, unless a server has them open already: then that is asked. A shared
/// store is opened all the same: this configuration may name another one than the server's.
async fn store_and_sandbox(config: &Config) -> [Finding; 2] {
    let asked = match Client::here(&config.data_dir) {
        Ok(Some(client)) => Some(ask_server(&client).await),
        Ok(None) => None,
        Err(e) => return ["store", "sandbox"].map(|name| finding(name, Mark::Bad, e.to_string())),
    };
    let asked = match asked {
        Some(all) if config.redis.is_none() || all[0].mark == Mark::Bad => return all,
        Some([_, sandbox]) => Some(sandbox),
        None => None,
    };
    match Stores::open(config, Role::Command, Arc::new(SystemClock), Arc::new(Nobody)).await {
        Ok(stores) => {
            let text = match &config.redis {
                Some(redis) => format!("{} answers", redis.address),
                None => format!("{} opens and can be written", config.data_dir.display()),
            };
            let sandbox = match asked {
                Some(sandbox) => sandbox,
                None => sandbox(config, &stores.id).await,
            };
            [finding("store", Mark::Good, text), sandbox]
        }
        Err(e) => {
            let untried = || finding("sandbox", Mark::Note, "not tried: its folder belongs to the store".to_owned());
            [finding("store", Mark::Bad, e.to_string()), asked.unwrap_or_else(untried)]
        }
    }
}

async fn ask_server(client: &Client) -> [Finding; 2] {
    let url = client.base();
    let answer = match client.get("/readyz").await {
        Ok(answer) => answer,
        Err(e) => return ["store", "sandbox"].map(|name| finding(name, Mark::Bad, e.to_string())),
    };
    ["store", "sandbox"].map(|name| {
        let check = &answer.body["checks"][name];
        let mark = if check["ok"] == json!(true) { Mark::Good } else { Mark::Bad };
        finding(name, mark, format!("the server at {url} says: {}", check["detail"].as_str().unwrap_or("nothing")))
    })
}

async fn sandbox(config: &Config, store_id: &str) -> Finding {
    if config.sandbox == SandboxKind::None {
        return finding("sandbox", Mark::Note, "none is configured: runs that need tools are refused".to_owned());
    }
    let probed = match runtime::sandbox(config, store_id) {
        Ok(Some(sandbox)) => sandbox.probe().await.map_err(|e| e.to_string()),
        Ok(None) => Err("none is configured".to_owned()),
        Err(e) => Err(e.to_string()),
    };
    match probed {
        Ok(text) => finding("sandbox", Mark::Good, text),
        Err(e) => finding("sandbox", Mark::Bad, e),
    }
}

fn schedules(path: &Path) -> Finding {
    match Files::open(path, Box::new(|_| Ok(()))) {
        Ok(files) => {
            let count = ui::count(files.look().schedules.len() as u64, "schedule");
            finding("schedules", Mark::Good, format!("{}: {count}", path.display()))
        }
        Err(e) => finding("schedules", Mark::Bad, e),
    }
}

fn model(config: &Config) -> Finding {
    let name = config.model.to_string();
    if config.model.provider == "scripted" {
        return match std::fs::metadata(&config.model.model) {
            Ok(_) => finding("model", Mark::Note, format!("{name}: answers come from a file, not from a model")),
            Err(e) => finding("model", Mark::Bad, format!("{name}: {e}")),
        };
    }
    if let Some(text) = config.missing_credential() {
        return finding("model", Mark::Bad, text);
    }
    finding("model", Mark::Good, format!("{name}: a credential is set (it was not tried)"))
}
