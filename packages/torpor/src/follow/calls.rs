//! Tool calls in the words of a person: what a call is about in one line, the whole call, and how it ended.

use serde_json::Value;

use crate::ui::{self, Paint};

/// Arguments that say what a call is about, the best first.
const TELLING: [&str; 7] = ["command", "path", "pattern", "summary", "verdict", "result", "prompt"];

/// Lines of one argument that are shown before it is folded.
const FOLD_LINES: usize = 20;
/// Characters of one line that are shown before it is folded.
const FOLD_CHARS: usize = 400;

/// What a call is about, in `width` characters.
pub(crate) fn about(input: &Value, width: usize) -> String {
    let told = TELLING.iter().find_map(|name| input[name].as_str());
    match told {
        Some(text) => ui::one_line(text, width),
        None if input.as_object().is_none_or(serde_json::Map::is_empty) => String::new(),
        None => ui::one_line(&input.to_string(), width),
    }
}

/// How a call ended: whether well, and in what words.
pub(super) fn ending(event: &Value) -> (bool, String) {
    let result = &event["result"];
    let words = || {
        let texts = result["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str());
        let last = texts.flat_map(str::lines).rfind(|line| !line.trim().is_empty());
        last.map(|line| format!(": {line}")).unwrap_or_default()
    };
    match event["ending"].as_str() {
        Some("refused") => (false, format!("refused{}", words())),
        Some("sandbox_lost") => (false, "the sandbox was lost; what became of it is not known".into()),
        _ if result["isError"] == true => (false, format!("failed{}", words())),
        _ => (true, "ok".into()),
    }
}

/// The exact call, argument by argument: whole, or with long ones folded. The second is how many lines were left out.
pub(crate) fn exact(call: &Value, whole: bool, paint: Paint) -> (Vec<String>, usize) {
    let mut lines = vec![paint.bold(&ui::harmless(call["tool"].as_str().unwrap_or("?")))];
    let mut hidden = 0;
    let none = serde_json::Map::new();
    for (name, value) in call["input"].as_object().unwrap_or(&none) {
        lines.push(format!("  {}", paint.dim(&format!("{}:", ui::harmless(name)))));
        let text = match value {
            Value::String(text) => ui::harmless(text),
            Value::Array(_) | Value::Object(_) => ui::harmless(&format!("{value:#}")),
            other => other.to_string(),
        };
        let all: Vec<&str> = text.split('\n').collect();
        let shown = if whole { all.len() } else { all.len().min(FOLD_LINES) };
        hidden += all.len() - shown;
        for line in &all[..shown] {
            let cut = line.char_indices().nth(FOLD_CHARS).filter(|_| !whole);
            let line = match cut {
                Some((at, _)) => {
                    hidden += 1;
                    format!("{}…", &line[..at])
                }
                None => (*line).to_owned(),
            };
            lines.push(format!("  {} {line}", paint.dim("│")));
        }
    }
    (lines, hidden)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_about_its_most_telling_argument() {
        for (input, shown) in [
            (json!({"timeout": 3, "command": "ls\n  -l"}), "ls -l"),
            (json!({"path": "a.rs", "limit": 3}), "a.rs"),
            (json!({"n": 1}), "{\"n\":1}"),
            (json!({}), ""),
        ] {
            assert_eq!(about(&input, 40), shown);
        }
    }

    #[test]
    fn the_exact_call_is_whole_or_says_what_is_folded() {
        let script = (0..30).map(|n| format!("echo {n}")).collect::<Vec<_>>().join("\n");
        let call = json!({"tool": "bash", "input": {"command": script, "timeout": 5, "x": "\u{1b}[8mhidden"}});
        let (folded, hidden) = exact(&call, false, Paint::none());
        assert_eq!((folded.len(), hidden), (1 + 1 + 20 + 2 + 2, 10));
        let (whole, hidden) = exact(&call, true, Paint::none());
        assert_eq!((whole.len(), hidden), (1 + 1 + 30 + 2 + 2, 0));
        assert_eq!(&whole[..3], ["bash", "  command:", "  │ echo 0"]);
        assert_eq!(whole.last().unwrap(), "  │ \\u{1b}[8mhidden");
        let long = json!({"tool": "bash", "input": {"command": "x".repeat(500)}});
        assert_eq!(exact(&long, false, Paint::none()).1, 1);
        assert!(exact(&long, true, Paint::none()).0[2].ends_with('x'));
    }
}
