//! Keeps credentials out of error texts, whatever a server echoes.
//!
//! Owns: the list of known credentials and the shapes of common ones. Must not know: where the text came from.

use crate::config::Secret;

/// What a credential is replaced by.
const MASK: &str = "***";
/// How much of a message is kept, in characters.
const MAX_MESSAGE: usize = 2_000;
/// How the keys of common providers begin; another tenant's key in an echo is a leak as well.
const KEY_PREFIXES: &[&str] = &["sk-"];
/// A word that begins like a key and is at least this long is taken for one.
const MIN_KEY: usize = 12;
/// Shorter pieces of a known credential are left alone: they would match ordinary words.
const MIN_SECRET: usize = 4;

/// Cleans messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redactor {
    secrets: Vec<Secret>,
}

impl Redactor {
    pub(crate) fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        Self { secrets: secrets.into_iter().filter(|s| s.expose().len() >= MIN_SECRET).collect() }
    }

    /// The message without credentials or control characters, cut to a length that fits a log line.
    pub(crate) fn clean(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.expose(), MASK);
        }
        for prefix in KEY_PREFIXES {
            text = mask_words(&text, prefix);
        }
        // Cut last, so that no half of a credential stays unrecognised at the edge.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match text.char_indices().nth(MAX_MESSAGE) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

fn mask_words(text: &str, prefix: &str) -> String {
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '*' | '.');
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(prefix) {
        let starts_word = !rest[..at].chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric());
        let end = at + rest[at..].find(|c| !is_key(c)).unwrap_or(rest.len() - at);
        out.push_str(&rest[..at]);
        out.push_str(if starts_word && end - at >= MIN_KEY { MASK } else { &rest[at..end] });
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_disappear_and_the_rest_stays() {
        let redactor = Redactor::new([Secret::new("hunter2-token"), Secret::new("ab")]);
        let cases = [
            ("invalid key hunter2-token, see abc", "invalid key ***, see abc"),
            ("Bearer hunter2-tokenhunter2-token", "Bearer ******"),
            ("key: sk-ant-api03-AAAA_bbbb!", "key: ***!"),
            ("key \"sk-proj-****************abcd\"", "key \"***\""),
            ("a task-based-approach-to-disk-io and sk-1", "a task-based-approach-to-disk-io and sk-1"),
            ("line\nbreak\u{7}", "line break "),
        ];
        for (text, expected) in cases {
            assert_eq!(redactor.clean(text), expected);
        }
    }

    #[test]
    fn a_credential_at_the_cut_is_not_left_in_half() {
        let redactor = Redactor::new([Secret::new("hunter2-token")]);
        for pad in MAX_MESSAGE - 20..MAX_MESSAGE + 2 {
            let cleaned = redactor.clean(&format!("{}hunter2-token", "é".repeat(pad)));
            assert!(!cleaned.contains("hunter") && cleaned.chars().count() <= MAX_MESSAGE + 1, "{pad}");
        }
    }
}
