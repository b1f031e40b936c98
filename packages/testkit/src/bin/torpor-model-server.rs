//! The test kit's model server as a process, for load tests, demonstrations and clients in other languages.
//!
//! Owns: its command line. It prints its URL as the first line and serves until it is killed.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use torpor_testkit::model_server::{ModelServer, Options};

const USAGE: &str = "usage: torpor-model-server [--port N] [--host IP] [--delay MS] [--default SCRIPT]";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("{e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let bind = options.bind;
    match ModelServer::start_with(options).await {
        Ok(server) => {
            println!("{}", server.base_url());
            server.forever().await;
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("cannot listen on {bind}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options { record: 0, ..Options::default() };
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        let bad = |expected: &str| format!("{name}: expected {expected}, got {value:?}");
        match name.as_str() {
            "--port" => options.bind.set_port(value.parse().map_err(|_| bad("a port"))?),
            "--host" => {
                let ip = value.parse().map_err(|_| bad("an IP address"))?;
                options.bind = SocketAddr::new(ip, options.bind.port());
            }
            "--delay" => {
                options.delay = Duration::from_millis(value.parse().map_err(|_| bad("milliseconds"))?);
            }
            "--default" => options.default_script = value,
            _ => return Err(format!("unknown option {name:?}")),
        }
    }
    Ok(options)
}
