//! What can be said of the scripts without a server: every name that one calls was defined before, and none that only reads calls
//! what writes. The server itself would say so only when a call comes to that place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed expectation is the result

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the language and the server define.
const KNOWN: &str = "if and or not while for in return function unpack pairs ipairs tonumber tostring type call pcall";

/// Commands that change something.
const WRITES: &str =
    "HSET HDEL HINCRBY HSETNX ZADD ZREM SADD SREM SPOP SET DEL XADD XACK XREADGROUP XTRIM XGROUP RPUSH LPUSH PEXPIRE";

/// A script as the program puts it together.
struct Assembled {
    name: String,
    reads: bool,
    source: String,
}

fn source_files() -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = fs::read_dir(src).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ext| ext == "rs")).collect()
}

/// Every `script!(…)` of the crate.
fn scripts() -> Vec<Assembled> {
    let lua = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lua");
    let text = |name: &str| fs::read_to_string(lua.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut found = Vec::new();
    for file in source_files() {
        let code = fs::read_to_string(&file).unwrap();
        for part in code.split("= script!(").skip(1).chain(code.split("=\n    script!(").skip(1)) {
            let (inner, _) = part.split_once(';').unwrap();
            let names: Vec<&str> = inner.split('"').skip(1).step_by(2).collect();
            let (name, libs) = names.split_first().unwrap_or_else(|| panic!("{}: {inner}", file.display()));
            let mut source = text("prelude.lua");
            libs.iter().for_each(|lib| source += &text(&format!("lib/{lib}.lua")));
            source += &text(&format!("{name}.lua"));
            found.push(Assembled { name: (*name).to_owned(), reads: inner.trim_start().starts_with("reads"), source });
        }
    }
    found
}

/// Without comments and texts.
fn bare(line: &str) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match quote {
            Some(_) if c == '\\' => {
                chars.next();
            }
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == '-' && chars.peek() == Some(&'-') => break,
            None => out.push(c),
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The names that a line defines, and those that it calls.
fn names(line: &str) -> (Vec<String>, Vec<String>) {
    let mut defined = Vec::new();
    if let Some(rest) = line.split_once("local function ").map(|(_, rest)| rest) {
        defined.extend(rest.split(['(', ')', ',']).map(|name| name.trim().to_owned()));
    } else if let Some((_, rest)) = line.split_once("local ") {
        defined.extend(rest.split('=').next().unwrap_or("").split(',').map(|name| name.trim().to_owned()));
    }
    if let Some((_, rest)) = line.split_once("for ") {
        defined.extend(rest.split(['=', ' ', ',']).map(|name| name.trim().to_owned()));
    }
    let called = line.match_indices('(').filter_map(|(at, _)| {
        let before = &line[..at];
        let name: String =
            before.chars().rev().take_while(|c| is_word(*c)).collect::<Vec<_>>().into_iter().rev().collect();
        let part_of_another = before[..before.len() - name.len()].ends_with(['.', ':']);
        (!name.is_empty() && !part_of_another).then_some(name)
    });
    (defined, called.collect())
}

/// The first name that a script calls and does not know, with its line; `known` are names that it need not define.
fn unknown(script: &Assembled, known: &BTreeSet<String>) -> Option<String> {
    let mut known = known.clone();
    for line in script.source.lines().map(bare) {
        let (defined, called) = names(&line);
        known.extend(defined);
        if let Some(name) = called.into_iter().find(|name| !known.contains(name)) {
            return Some(format!("`{}` calls `{name}`, which is not there: {line}", script.name));
        }
    }
    None
}

#[test]
fn what_a_script_calls_was_defined_before() {
    let scripts = scripts();
    assert!(scripts.len() > 20, "only {} scripts were found", scripts.len());
    let builtin: BTreeSet<String> = KNOWN.split(' ').map(str::to_owned).collect();
    for script in &scripts {
        // A body may be sent with less, for calls that do not come to where the rest is needed.
        let whole = scripts.iter().filter(|other| other.name == script.name).max_by_key(|other| other.source.len());
        let mut known = builtin.clone();
        if let Some(whole) = whole.filter(|whole| whole.source != script.source) {
            known.extend(whole.source.lines().flat_map(|line| names(&bare(line)).0));
        }
        assert_eq!(unknown(script, &known), None);
    }
}

#[test]
fn what_only_reads_calls_nothing_that_writes() {
    for script in scripts().into_iter().filter(|script| script.reads) {
        // Functions of shared pieces that are there and not called do no harm; a body is what is run.
        let body =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/lua/{}.lua", script.name)));
        for command in WRITES.split(' ') {
            // As `call('HSET'`, and `pcall('HSET'`; names that are asked about are none of these.
            assert!(
                !body.as_ref().unwrap().contains(&format!("call('{command}'")),
                "`{}` calls {command}",
                script.name
            );
        }
    }
}
