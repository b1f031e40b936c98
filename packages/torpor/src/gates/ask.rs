//! Asking the person at the terminal for a verdict.
//!
//! Owns: the question and what can be answered. Must not know: where verdicts go (the server decides whether one
//! stands; somebody else may have been faster).

use std::io::{BufRead as _, Read as _, Write as _};

use anyhow::Context as _;
use serde_json::Value;
use torpor_core::gate::Action;

use super::{Verdict, show};
use crate::cli::Error;
use crate::client::Client;
use crate::ui::Paint;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 64 << 10;

const QUESTION: &str = "\
[y] approve  [n] reject  [a] abort the run  [f] show it whole  [l] later
Words after the letter are told to the model: `n use git mv instead`";

/// What a person answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Verdict(Action, Option<String>),
    Whole,
    Later,
    /// Nothing that is understood.
    Unclear,
}

/// Asks for every gate that a record shows. False when the person puts it off.
pub(crate) async fn ask(client: &Client, record: &Value) -> Result<bool, Error> {
    let run = record["runId"].as_str().unwrap_or_default();
    for gate in record["gates"].as_array().into_iter().flatten() {
        let Some((action, feedback)) = verdict(gate).await? else { return Ok(false) };
        let approver = std::env::var("USER").ok();
        let given = Verdict { action, feedback, approver }.give(client, run, gate["gateId"].as_u64()).await;
        match given {
            Ok(_) if action == Action::Abort => break,
            Ok(_) => {}
            // Somebody was faster, or the gate has expired: what was decided is the next thing to be seen.
            Err(Error::Usage(why)) => {
                let first = why.lines().next().unwrap_or_default();
                eprintln!("{}", Paint::err().note(&format!("  the verdict does not count: {first}")));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// A verdict on one gate; `None` for later.
async fn verdict(gate: &Value) -> Result<Option<(Action, Option<String>)>, Error> {
    let paint = Paint::err();
    let print = |whole: bool| {
        eprintln!();
        show(gate, whole, paint, |line| eprintln!("{line}"));
    };
    print(false);
    loop {
        eprintln!("{}", paint.dim(QUESTION));
        match answer().await? {
            Said::Verdict(action, feedback) => return Ok(Some((action, feedback))),
            Said::Later => return Ok(None),
            Said::Whole => print(true),
            Said::Unclear => eprintln!("{}", paint.note("Please answer y, n, a, f or l.")),
        }
    }
}

/// One line of the person's. The end of input is `later`. Dropped, it leaves a thread behind that waits for a line.
pub(crate) async fn answer() -> Result<Said, Error> {
    // What was typed before the question could be read is no answer to it.
    let _ = rustix::termios::tcflush(std::io::stdin(), rustix::termios::QueueSelector::IFlush);
    let mut err = std::io::stderr();
    let _ = write!(err, "{} ", Paint::err().bold("Verdict?"));
    let _ = err.flush();
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().take(MAX_ANSWER).read_line(&mut line).map(|_| line)
    });
    let line = read.await.context("the terminal broke")?.context("cannot read from the terminal")?;
    Ok(if line.is_empty() { Said::Later } else { understood(&line) })
}

fn understood(line: &str) -> Said {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let feedback = Some(rest.trim()).filter(|words| !words.is_empty()).map(str::to_owned);
    match word.to_ascii_lowercase().as_str() {
        "y" | "yes" | "approve" => Said::Verdict(Action::Approve, feedback),
        "n" | "no" | "reject" => Said::Verdict(Action::Reject, feedback),
        "a" | "abort" => Said::Verdict(Action::Abort, feedback),
        "f" | "full" if feedback.is_none() => Said::Whole,
        "l" | "later" | "q" | "quit" if feedback.is_none() => Said::Later,
        _ => Said::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_a_letter_or_a_word_with_what_the_model_is_told() {
        let verdict = |action, words: Option<&str>| Said::Verdict(action, words.map(str::to_owned));
        for (line, said) in [
            ("y\n", verdict(Action::Approve, None)),
            (" Yes  only once \n", verdict(Action::Approve, Some("only once"))),
            ("n use git mv", verdict(Action::Reject, Some("use git mv"))),
            ("abort", verdict(Action::Abort, None)),
            ("f", Said::Whole),
            ("l\n", Said::Later),
            ("\n", Said::Unclear),
            ("yesterday", Said::Unclear),
            ("f y", Said::Unclear),
        ] {
            assert_eq!(understood(line), said, "{line:?}");
        }
    }
}
