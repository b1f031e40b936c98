//! A `torpor serve` of the demo's own, as a real process that can really be killed.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::stage::Stage;
use crate::cli::Error;
use crate::client::Client;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// The demo's hands leave soon after its last server.
const ORPHAN_SECONDS: &str = "10";

pub(super) struct Server {
    child: Child,
    client: Client,
}

impl Server {
    /// Starts it and waits until it listens.
    pub(super) async fn start(stage: &Stage) -> Result<Self, Error> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(stage.server_log());
        let mut command = Command::new(program);
        command
            .arg("serve")
            .env("PORT", "0")
            .env("TORPOR_BIND", "127.0.0.1")
            .env("TORPOR_DATA_DIR", stage.data())
            .env("TORPOR_WORKSPACE_ROOTS", stage.project())
            .env("TORPOR_SANDBOX", "local")
            .env("TORPOR_SANDBOX_LEVEL", "reduced")
            .env("TORPOR_ORPHAN_SECONDS", ORPHAN_SECONDS)
            .env_remove("TORPOR_CONFIG")
            .env_remove("REDIS_URL")
            .env_remove("TORPOR_API_KEYS_FILE")
            .env_remove("TORPOR_SCHEDULES")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.context("cannot write the server's log")?)
            .kill_on_drop(true);
        if let Some(model) = stage.model() {
            command.env("TORPOR_MODEL", model);
        }
        let mut child = command.spawn().context("cannot start the server")?;
        let out = child.stdout.take().context("the server has no output")?;
        let line = tokio::time::timeout(START_LIMIT, BufReader::new(out).lines().next_line())
            .await
            .context("the server did not start in time")?
            .context("cannot read the server's output")?;
        let url = line.as_deref().and_then(|l| l.rsplit(' ').next()).filter(|u| u.starts_with("http"));
        let Some(url) = url else {
            let log = std::fs::read_to_string(stage.server_log()).unwrap_or_default();
            return Err(Error::Unavailable(format!("the server did not start: {}", log.trim())));
        };
        Ok(Self { child, client: Client::new(url)? })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What the server says about its sandbox.
    pub(super) async fn sandbox(&self) -> Result<String, Error> {
        let ready = self.client.get("/readyz").await?;
        let said = &ready.body["checks"]["sandbox"]["detail"];
        match said.as_str() {
            Some(text) if ready.status.is_success() => Ok(text.to_owned()),
            _ => Err(Error::Unavailable(format!("the sandbox is not ready: {}", ready.body))),
        }
    }

    /// `kill -9`; answers the process id that is gone.
    pub(super) async fn kill(mut self) -> Result<u32, Error> {
        let pid = self.child.id().unwrap_or_default();
        self.child.kill().await.context("cannot kill the server")?;
        Ok(pid)
    }

    /// Asks it to stop and waits until it has.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("cannot stop the server")?;
        }
        tokio::time::timeout(STOP_LIMIT, self.child.wait())
            .await
            .context("the server did not stop in time")?
            .context("cannot wait for the server")?;
        Ok(())
    }
}
