//! Lists that come in pages, from any route that has them: printed as they come, so that none is held whole.

use clap::Args;
use serde_json::Value;

use crate::cli::{Error, Exit};
use crate::client::{Client, path};
use crate::ui;

/// The largest page a server gives.
const MAX_PAGE: u32 = 200;

/// How much of a list is wanted.
#[derive(Args)]
pub(crate) struct Pages {
    /// At most so many; see --all
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PAGE)))]
    limit: u32,
    /// Go on where an earlier page ended: its `nextCursor`
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Every page to the end
    #[arg(long)]
    all: bool,
}

impl Pages {
    /// Prints the list at `route`, whose items stand under `field`: in JSON as one document, else each by `show`.
    pub(crate) async fn print(
        &self,
        client: &Client,
        (route, field): (&str, &str),
        filters: &[(&str, Option<&str>)],
        json: bool,
        mut show: impl FnMut(&Value),
    ) -> Result<Exit, Error> {
        let size = if self.all { MAX_PAGE } else { self.limit }.to_string();
        let mut cursor = self.cursor.clone();
        let mut count = 0_u64;
        loop {
            let page = [("limit", Some(size.as_str())), ("cursor", cursor.as_deref())];
            let parameters: Vec<_> = filters.iter().copied().chain(page).collect();
            let mut body = client.get(&path(&[route], &parameters)).await?.success()?;
            if json && !self.all {
                ui::say!("{body:#}");
                return Ok(Exit::Success);
            }
            let next = body["nextCursor"].as_str().map(str::to_owned);
            if let Value::Array(items) = body[field].take() {
                for item in &items {
                    if json {
                        ui::say!("{} {item}", if count == 0 { format!("{{\"{field}\": [") } else { ",".into() });
                    } else {
                        show(item);
                    }
                    count += 1;
                }
            }
            let more = next.is_some();
            cursor = next;
            if !self.all || !more {
                break;
            }
        }
        if json {
            ui::say!("{}]}}", if count == 0 { format!("{{\"{field}\": [") } else { String::new() });
        } else if count == 0 {
            eprintln!("{}", ui::Paint::err().dim(&format!("no {} match", words(field))));
        } else if let Some(cursor) = cursor {
            let more = format!("There are more: --all shows every one, --cursor '{cursor}' the next page.");
            eprintln!("{}", ui::Paint::err().dim(&more));
        }
        Ok(Exit::Success)
    }
}

/// A field's name as people say it: `deadLetters` are dead letters.
fn words(field: &str) -> String {
    let spaced = |c: char| if c.is_ascii_uppercase() { format!(" {}", c.to_ascii_lowercase()) } else { c.to_string() };
    field.chars().map(spaced).collect()
}
