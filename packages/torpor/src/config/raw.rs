//! What was said, and where: the merge of flags, environment, file and defaults, before anything is understood.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::table::{ELSEWHERE, Overrides, SETTINGS, Setting, find};

/// The environment, behind a trait so that tests need not touch the process.
pub(crate) trait Env {
    fn get(&self, name: &str) -> Option<String>;
    fn names(&self) -> Vec<String>;
}

/// The real environment.
pub(crate) struct ProcessEnv;

impl Env for ProcessEnv {
    fn get(&self, name: &str) -> Option<String> {
        std::env::var_os(name).map(|v| v.to_string_lossy().into_owned())
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().map(|(k, _)| k.to_string_lossy().into_owned()).collect()
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(String),
    Environment,
    File(PathBuf),
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag --{flag}"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value with its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) source: Source,
}

/// Everything that was said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Raw {
    values: BTreeMap<&'static str, Said>,
    /// Unknown names and unreadable files, found while merging.
    pub(crate) problems: Vec<String>,
}

impl Raw {
    /// Merges all sources. `file` is the TOML file that was named, if any.
    pub(crate) fn gather(overrides: &Overrides, env: &dyn Env, file: Option<&Path>) -> Self {
        let mut raw = Self::default();
        for s in SETTINGS {
            if let Some(d) = s.default {
                raw.say(s.name, d.to_owned(), Source::Default);
            }
        }
        if let Some(dir) = default_data_dir(env) {
            raw.say("TORPOR_DATA_DIR", dir, Source::Default);
        }
        if let Some(path) = file {
            raw.merge_file(path);
        }
        raw.merge_env(env);
        for (name, value) in &overrides.0 {
            let flag = find(name).map(Setting::flag).unwrap_or_default();
            raw.say(name, value.clone(), Source::Flag(flag));
        }
        raw
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Said> {
        self.values.get(name)
    }

    fn say(&mut self, name: &'static str, text: String, source: Source) {
        self.values.insert(name, Said { text, source });
    }

    fn merge_env(&mut self, env: &dyn Env) {
        for name in env.names() {
            let known = find(&name).is_some() || ELSEWHERE.contains(&name.as_str());
            if name.starts_with("TORPOR_") && !known {
                let near = did_you_mean(nearest(&name, |s| s.name.to_owned()));
                self.problems.push(format!("{name} (environment): is not a setting{near}"));
            }
        }
        for s in SETTINGS {
            if let Some(v) = env.get(s.name) {
                self.say(s.name, v, Source::Environment);
            }
        }
    }

    fn merge_file(&mut self, path: &Path) {
        let table = match std::fs::read_to_string(path) {
            Ok(text) => text.parse::<toml::Table>().map_err(|e| e.to_string().trim().replace('\n', " ")),
            Err(e) => Err(e.to_string()),
        };
        let table = match table {
            Ok(table) => table,
            Err(e) => return self.problems.push(format!("{}: {e}", path.display())),
        };
        for (key, value) in table {
            let Some(s) = SETTINGS.iter().find(|s| s.key() == key) else {
                // Flags are written with dashes and variables in capitals; in the file they are neither.
                let near = find(&key).map(Setting::key);
                let near = near.or_else(|| nearest(&key.replace('-', "_").to_lowercase(), Setting::key));
                self.problems.push(format!("{key} ({}): is not a setting{}", path.display(), did_you_mean(near)));
                continue;
            };
            let text = match value {
                toml::Value::String(t) => t,
                toml::Value::Integer(n) => n.to_string(),
                toml::Value::Boolean(b) => b.to_string(),
                _ => {
                    self.problems.push(format!("{key} ({}): expected a string, a number or a boolean", path.display()));
                    continue;
                }
            };
            self.say(s.name, text, Source::File(path.to_owned()));
        }
    }
}

/// `$XDG_STATE_HOME/torpor`, else `$HOME/.local/state/torpor`.
fn default_data_dir(env: &dyn Env) -> Option<String> {
    let absolute = |name: &str| env.get(name).filter(|v| Path::new(v).is_absolute());
    absolute("XDG_STATE_HOME")
        .map(|d| format!("{d}/torpor"))
        .or_else(|| absolute("HOME").map(|d| format!("{d}/.local/state/torpor")))
}

/// The setting whose name differs least, if it differs little.
fn nearest(name: &str, spell: impl Fn(&Setting) -> String) -> Option<String> {
    let spelt = SETTINGS.iter().map(spell).map(|s| (distance(name, &s), s));
    // Half of a short name changed is another name.
    spelt.min().filter(|(d, _)| *d <= 3 && d * 2 <= name.chars().count()).map(|(_, n)| n)
}

fn did_you_mean(name: Option<String>) -> String {
    name.map_or_else(String::new, |n| format!("; did you mean {n}?"))
}

/// Levenshtein distance, by rows.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
