//! What this program is besides the one that measures: each in a process of its own, so that CPU and memory can be told
//! apart.
//!
//! Owns: a bare HTTP server (what HTTP alone costs), the test kit's model server, and a reader of the exec channel.
//! Must not know: rows.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use async_trait::async_trait;
use clap::{Args, Subcommand};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinHandle;
use torpor_core::{CallId, Epoch, Position, SessionKey};
use torpor_exec_channel::message::Open;
use torpor_exec_channel::{Chunk, Client, Dial, Error, Options, Source, Stream};
use torpor_testkit::model_server::{self, ModelServer};

use crate::http::ms;
use crate::process;

/// Which.
#[derive(Args)]
pub(crate) struct Role {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// Prints its URL and serves.
    ModelServer,
    /// Prints its URL and answers everything at once.
    Hello,
    /// Runs a command over the exec channel, reads its output to the end, and prints what that took.
    Read {
        /// State folder of the hands.
        state: PathBuf,
        /// Shell command.
        command: String,
    },
}

/// Plays it.
pub(crate) async fn play(role: Role) -> anyhow::Result<()> {
    match role.kind {
        Kind::ModelServer => {
            let options = model_server::Options { record: 0, ..model_server::Options::default() };
            let server = ModelServer::start_with(options).await?;
            println!("{}", server.base_url());
            server.forever().await;
            Ok(())
        }
        Kind::Hello => {
            let (address, serving) = hello().await?;
            println!("http://{address}");
            Ok(serving.await?)
        }
        Kind::Read { state, command } => read(state, command).await,
    }
}

/// The least that an HTTP server does: read the body, answer.
pub(crate) async fn hello() -> anyhow::Result<(SocketAddr, JoinHandle<()>)> {
    async fn answer(request: hyper::Request<Incoming>) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
        let _ = request.into_body().collect().await;
        Ok(hyper::Response::new(Full::new(Bytes::from_static(b"{\"ok\":true}"))))
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service_fn(answer)));
        }
    });
    Ok((address, serving))
}

struct Socket(PathBuf);

#[async_trait]
impl Dial for Socket {
    async fn dial(&self) -> Result<Box<dyn Stream>, Error> {
        let stream = UnixStream::connect(&self.0).await.map_err(|e| Error::Unreachable(e.to_string()))?;
        Ok(Box::new(stream))
    }
}

/// A client of the hands with this state folder.
pub(crate) fn hands_client(state: &Path) -> Source {
    let (program, name, patience) = ("experiments".into(), "local".into(), Duration::from_secs(5));
    Client::new(Socket(state.join("sock")), Options { program, name, patience, settings: None })
}

async fn read(state: PathBuf, command: String) -> anyhow::Result<()> {
    let client = hands_client(&state);
    let key = SessionKey::new("default", &uuid::Uuid::new_v4().to_string())?;
    let session = client.open(Open { session: key.digest(), epoch: Epoch(1), born: Epoch(0), workspace: None }).await?;
    let id = |n| CallId { session: key.digest(), position: Position(n) };
    // The first command of a session also starts its domain; that is another row's matter.
    let mut warm = session.exec_stream(id(1), "bash", json!({"command": "true"}), 0).await?;
    while !matches!(warm.next().await?, Chunk::Ended(_)) {}

    let before = process::peak_mib(std::process::id());
    let began = Instant::now();
    let mut exec = session.exec_stream(id(2), "bash", json!({"command": command}), 0).await?;
    let (mut bytes, mut missing) = (0u64, 0u64);
    let ended = loop {
        match exec.next().await? {
            Chunk::Stdout { data, .. } | Chunk::Stderr { data, .. } => bytes += data.len() as u64,
            Chunk::Gap { length, .. } => missing += length,
            Chunk::Ended(ended) => break ended,
        }
    };
    let wall = ms(began.elapsed());
    let peak = process::peak_mib(std::process::id());
    let line = json!({"wallMs": wall, "bytes": bytes, "missing": missing, "peakMib": peak, "grownMib": peak - before,
        "exit": format!("{:?}", ended.exit)});
    println!("{line}");
    std::io::Write::flush(&mut std::io::stdout()).context("standard output")
}
