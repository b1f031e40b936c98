//! Where a server's schedules come from: a file, or a folder of them, such as a mounted ConfigMap.
//!
//! Owns: which files count, noticing that they changed, and that a broken one changes nothing. Must not know: when
//! anything is due, or what a schedule says beyond whether it can be used here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use torpor_schedule::{Format, Invalid, Loaded, Schedule, Schedules, Source};

use crate::watched_file::{Stamp, read_text, stamp};

/// Most schedules of a server.
const MAX_SCHEDULES: usize = 500;

/// Says what is wrong with a schedule that can be read.
type Check = Box<dyn Fn(&Schedule) -> Result<(), Invalid> + Send + Sync>;

/// The files, and what they say.
pub(crate) struct Files {
    path: PathBuf,
    check: Check,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    files: BTreeMap<PathBuf, File>,
    /// Why the folder could not be looked into.
    lost: Option<String>,
    loaded: Loaded,
}

/// A file as it was last read.
struct File {
    /// `None` for one that could not be looked at.
    stamp: Option<Stamp>,
    /// What it said when it could last be used.
    schedule: Option<Arc<Schedule>>,
    /// Why it cannot be used now.
    problem: Option<String>,
}

impl Files {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong, one line a file.
    pub(crate) fn open(path: &Path, check: Check) -> Result<Self, String> {
        let files = Self { path: path.to_owned(), check, known: Mutex::default() };
        let mut known = Known::default();
        files.refresh(&mut known);
        known.loaded = known.together();
        if known.loaded.problems.is_empty() {
            Ok(Self { known: Mutex::new(known), ..files })
        } else {
            Err(known.loaded.problems.join("\n"))
        }
    }

    /// The files there are, each with its stamp; the path itself if it is one.
    fn list(&self) -> Result<BTreeMap<PathBuf, Option<Stamp>>, String> {
        let failed = |e: std::io::Error| format!("{}: {e}", self.path.display());
        let meta = std::fs::metadata(&self.path).map_err(failed)?;
        if !meta.is_dir() {
            return Ok(BTreeMap::from([(self.path.clone(), Some(stamp(&meta)))]));
        }
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // Hidden ones are how a mounted ConfigMap keeps its versions.
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            if !hidden && (Format::of(&path).is_some() || is_yaml(&path)) {
                let stamp = std::fs::metadata(&path).map(|meta| stamp(&meta)).ok();
                found.insert(path, stamp);
            }
        }
        if found.len() > MAX_SCHEDULES {
            return Err(format!("{}: holds {} schedules; at most {MAX_SCHEDULES}", self.path.display(), found.len()));
        }
        Ok(found)
    }

    fn read(&self, path: &Path) -> Result<(Stamp, Schedule), String> {
        let wrong = |e: String| format!("{}: {e}", path.display());
        if is_yaml(path) {
            return Err(wrong("YAML is not read; write the schedule in TOML or JSON".into()));
        }
        let (meta, text) = read_text(path)?;
        let format = Format::of(path).unwrap_or_else(|| Format::guess(&text));
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let schedule = Schedule::parse(&text, format, stem).map_err(|e| wrong(e.to_string()))?;
        if schedule.when.is_none() {
            return Err(wrong(
                "`cron` is required: without it nothing is ever due (`torpor dispatch` fires it)".into(),
            ));
        }
        (self.check)(&schedule).map_err(|e| wrong(e.to_string()))?;
        Ok((stamp(&meta), schedule))
    }

    /// Reads what changed; whether anything did.
    fn refresh(&self, known: &mut Known) -> bool {
        let listed = match self.list() {
            Ok(listed) => listed,
            Err(e) => {
                let news = known.lost.as_deref() != Some(&*e);
                known.lost = Some(e);
                return news;
            }
        };
        let before = known.files.len();
        let mut changed = known.lost.take().is_some();
        known.files.retain(|path, _| listed.contains_key(path));
        changed |= known.files.len() != before;
        for (path, stamp) in listed {
            if known.files.get(&path).is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            changed = true;
            let earlier = known.files.remove(&path).and_then(|file| file.schedule);
            let file = match self.read(&path) {
                Ok((stamp, schedule)) => File { stamp: Some(stamp), schedule: Some(Arc::new(schedule)), problem: None },
                Err(problem) => File { stamp, schedule: earlier, problem: Some(problem) },
            };
            known.files.insert(path, file);
        }
        changed
    }
}

impl Known {
    /// What all files say together. Of two schedules with one name, the first file's counts.
    fn together(&self) -> Loaded {
        let mut problems: Vec<String> = self.lost.iter().cloned().collect();
        let mut schedules = Schedules::new();
        let mut whose: BTreeMap<&str, &Path> = BTreeMap::new();
        for (path, file) in &self.files {
            problems.extend(file.problem.clone());
            let Some(schedule) = &file.schedule else { continue };
            if let Some(other) = whose.get(schedule.name.as_str()) {
                let (path, name, other) = (path.display(), &schedule.name, other.display());
                problems.push(format!("{path}: `name` {name:?} is that of {other}"));
                continue;
            }
            whose.insert(&schedule.name, path);
            schedules.insert(schedule.name.clone(), Arc::clone(schedule));
        }
        Loaded { schedules: Arc::new(schedules), problems: Arc::new(problems) }
    }
}

impl Source for Files {
    fn look(&self) -> Loaded {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.refresh(&mut known) {
            let loaded = known.together();
            for problem in loaded.problems.iter().filter(|p| !known.loaded.problems.contains(p)) {
                tracing::error!(problem, "a schedule file cannot be used; what it said before stays");
            }
            tracing::info!(schedules = loaded.schedules.len(), "the schedules were read");
            known.loaded = loaded;
        }
        known.loaded.clone()
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Files, String> {
        let odd = |schedule: &Schedule| schedule.check_with(|_| Err("is odd".into()));
        Files::open(path, Box::new(move |schedule| if schedule.name == "odd" { odd(schedule) } else { Ok(()) }))
    }

    fn toml(name: &str, hour: u32) -> String {
        format!("name = '{name}'\ncron = '0 {hour} * * *'\n[[items]]\nprompt = 'go'\n")
    }

    /// Each schedule with its hour, and how many problems there are.
    fn seen(files: &Files) -> (Vec<String>, usize) {
        let loaded = files.look();
        let all = loaded.schedules.values();
        let shown = all.map(|s| format!("{} {}", s.name, s.when.as_ref().map(|w| w.expression()).unwrap_or_default()));
        (shown.collect(), loaded.problems.len())
    }

    #[test]
    fn a_folder_is_followed_file_by_file_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("a.toml", &toml("a", 1));
        write("b.json", r#"{"cron": "0 2 * * *", "items": [{"prompt": "go"}]}"#);
        write(".hidden.toml", "broken");
        write("notes.txt", "broken");
        let files = open(dir.path()).unwrap();
        assert_eq!(seen(&files), (vec!["a 0 1 * * *".into(), "b 0 2 * * *".into()], 0));

        write("a.toml", "items = [");
        write("b.json", r#"{"cron": "0 22 * * *", "items": [{"prompt": "go"}]}"#);
        assert_eq!(seen(&files), (vec!["a 0 1 * * *".into(), "b 0 22 * * *".into()], 1), "the others are followed");
        assert!(files.look().problems[0].contains("a.toml: is not TOML"));
        write("a.toml", &toml("a", 11));
        write("c.toml", "broken");
        write("d.toml", &toml("b", 3));
        write("e.toml", &toml("odd", 3));
        let (all, problems) = seen(&files);
        assert_eq!((all, problems), (vec!["a 0 11 * * *".into(), "b 0 22 * * *".into()], 3));
        let said = files.look().problems.join("\n");
        assert!(said.contains("d.toml: `name` \"b\" is that of") && said.contains("e.toml: item 1: is odd"), "{said}");
        for name in ["b.json", "c.toml", "e.toml"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert_eq!(seen(&files), (vec!["a 0 11 * * *".into(), "b 0 3 * * *".into()], 0));
        drop(dir);
        assert_eq!(seen(&files), (vec!["a 0 11 * * *".into(), "b 0 3 * * *".into()], 1), "a folder that is gone");
    }

    #[test]
    fn a_single_file_is_followed_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("schedule");
        std::fs::write(&path, toml("a", 1)).unwrap();
        let files = open(&path).unwrap();
        assert_eq!(seen(&files), (vec!["a 0 1 * * *".into()], 0));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(seen(&files), (vec!["a 0 1 * * *".into()], 1), "what is not there says nothing new");
        std::fs::write(&path, toml("other", 12)).unwrap();
        assert_eq!(seen(&files), (vec!["other 0 12 * * *".into()], 0));
    }

    #[test]
    fn a_start_is_refused_with_a_line_that_names_the_file_and_the_field() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text, want) in [
            (
                "a.toml",
                "cron = '0 1 * * *'\n[[items]]\npromt = 'go'\n",
                "a.toml: item 1: `prompt` or `item` or `inputsRef` is required",
            ),
            ("a.toml", "[[items]]\nprompt = 'go'\n", "a.toml: `cron` is required"),
            ("a.yaml", "items: []", "a.yaml: YAML is not read"),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            for given in [dir.path(), &path] {
                let refused = open(given).map(drop).unwrap_err();
                assert!(refused.contains(want) && refused.lines().count() == 1, "{refused}");
            }
            std::fs::remove_file(&path).unwrap();
        }
        assert!(open(&dir.path().join("none")).map(drop).unwrap_err().contains("none: "));
    }
}
