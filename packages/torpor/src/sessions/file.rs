//! Sessions as files: out of a server and into one. Must not know: how the lines look, but for the last, without which a
//! file is not whole.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{Error, Exit};
use crate::client::{Client, path};
use crate::ui;

/// How the last line begins.
const END: &[u8] = b"{\"end\":";

/// More than the last line is long.
const TAIL: usize = 1_024;

/// Writes a session into `output`, or on standard output.
pub(super) async fn export(
    client: &Client,
    session: &str,
    tenant: (&str, Option<&str>),
    output: Option<&Path>,
    json: bool,
) -> Result<Exit, Error> {
    let route = path(&["sessions", session, "export"], &[tenant]);
    let Some(output) = output else {
        if io::stdout().is_terminal() {
            let next = "give --output FILE, or redirect standard output";
            return Err(Error::Usage(format!("a session's file is for machines: {next}")));
        }
        copy(client, &route, &mut io::stdout().lock()).await?;
        return Ok(Exit::Success);
    };
    if output.try_exists().unwrap_or(true) {
        return Err(Error::Usage(format!(
            "--output {}: it is there already; nothing is overwritten",
            output.display()
        )));
    }
    let written = keep(client, &route, output).await?;
    if json {
        ui::say!("{:#}", json!({"sessionId": session, "file": output, "bytes": written}));
    } else {
        ui::say!("{}  {written} bytes", output.display());
    }
    Ok(Exit::Success)
}

/// The whole of it under its name, or nothing.
async fn keep(client: &Client, route: &str, output: &Path) -> Result<u64, Error> {
    let mut partial = output.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let cannot = || format!("cannot write {}", partial.display());
    let mut file = File::create_new(&partial).with_context(cannot)?;
    let written = match copy(client, route, &mut file).await {
        Ok(written) => written,
        Err(e) => {
            let _ = fs::remove_file(&partial);
            return Err(e);
        }
    };
    file.sync_all().with_context(cannot)?;
    fs::rename(&partial, output).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(written)
}

/// Copies what comes; the number of bytes, if it came to its last line.
async fn copy(client: &Client, route: &str, to: &mut impl Write) -> Result<u64, Error> {
    let mut pieces = client.download(route).await?;
    let (mut written, mut tail) = (0, Vec::new());
    while let Some(piece) = pieces.next().await? {
        to.write_all(&piece).context("cannot write what was exported")?;
        written += piece.len() as u64;
        tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
        tail.drain(..tail.len().saturating_sub(TAIL));
    }
    to.flush().context("cannot write what was exported")?;
    if is_whole(&tail) { Ok(written) } else { Err(Error::Unavailable("the export was cut off; try again".into())) }
}

fn is_whole(tail: &[u8]) -> bool {
    let last = tail.strip_suffix(b"\n").and_then(|lines| lines.rsplit(|byte| *byte == b'\n').next());
    last.is_some_and(|line| line.starts_with(END))
}

/// Makes a session of a file; `-` is standard input.
pub(super) async fn import(
    client: &Client,
    file: &Path,
    into: Option<&str>,
    tenant: (&str, Option<&str>),
) -> Result<Value, Error> {
    let source = if file == Path::new("-") { Path::new("/dev/stdin") } else { file };
    let wrong = |e: io::Error| Error::Usage(format!("{}: {e}", file.display()));
    let open = tokio::fs::File::open(source).await.map_err(wrong)?;
    if open.metadata().await.map_err(wrong)?.is_dir() {
        return Err(Error::Usage(format!("{}: a folder, not a file", file.display())));
    }
    let route = path(&["sessions", "import"], &[("sessionId", into), tenant]);
    client.upload(&route, open).await?.success()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_with_its_last_line() {
        for (tail, whole) in [
            (&b"{\"entry\":{}}\n{\"end\":{\"entries\":1}}\n"[..], true),
            (b"{\"end\":{}}\n", true),
            (b"{\"end\":{\"ent", false),
            (b"{\"entry\":{}}\n", false),
            (b"\n", false),
            (b"", false),
        ] {
            assert_eq!(is_whole(tail), whole, "{tail:?}");
        }
    }
}
