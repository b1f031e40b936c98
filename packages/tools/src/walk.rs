//! Walking a directory tree as `grep` and `find` see it.
//!
//! Owns: which entries are left out (`.git`, what `.gitignore` files name), and the order. Must not know what is
//! looked for.

use std::fs;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, Match, WalkBuilder};

use crate::output::with_notices;
use crate::{Context, path};

/// Unreadable entries named in a notice; of more only the number is given.
const MAX_NAMED: usize = 3;

/// Entries below `root` (itself included), by name within each directory. Hidden ones are there, links are not
/// followed. A root that is itself ignored is walked: it was asked for.
pub(crate) fn walk(ctx: &Context, root: &Path) -> ignore::Walk {
    let above = rules_above(ctx, root);
    WalkBuilder::new(root)
        .hidden(false)
        // `.ignore` files and the user's own settings are a matter between people and other programs.
        .ignore(false)
        .git_global(false)
        .require_git(false)
        // Files above the working directory must not decide what is seen in it; those inside are in `above`.
        .parents(false)
        .follow_links(false)
        .sort_by_file_name(|a, b| a.cmp(b))
        .filter_entry(move |entry| entry.depth() == 0 || !(entry.file_name() == ".git" || is_ignored(&above, entry)))
        .build()
}

/// The rules of the directories from `root`'s parent up to the working directory or the top of the repository,
/// nearest first.
fn rules_above(ctx: &Context, root: &Path) -> Vec<Gitignore> {
    let mut rules = Vec::new();
    let mut dir = root;
    while dir != ctx.workdir && dir.starts_with(&ctx.workdir) && fs::symlink_metadata(dir.join(".git")).is_err() {
        let Some(parent) = dir.parent() else { break };
        dir = parent;
        let file = dir.join(".gitignore");
        // Not a pipe that would never answer.
        if file.is_file() {
            let mut builder = GitignoreBuilder::new(dir);
            // A malformed line is as if it were not there, as git has it.
            let _ = builder.add(file);
            rules.extend(builder.build());
        }
    }
    rules
}

fn is_ignored(rules: &[Gitignore], entry: &DirEntry) -> bool {
    let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
    for rule in rules {
        match rule.matched(entry.path(), is_dir) {
            Match::Ignore(_) => return true,
            Match::Whitelist(_) => return false,
            Match::None => {}
        }
    }
    false
}

/// What could not be looked at, to be said under the result.
#[derive(Default)]
pub(crate) struct Skipped {
    named: Vec<String>,
    more: usize,
}

impl Skipped {
    pub(crate) fn add(&mut self, ctx: &Context, path: &Path, why: &str) {
        if self.named.len() < MAX_NAMED {
            self.named.push(format!("{} ({why})", path::show(ctx, path)));
        } else {
            self.more += 1;
        }
    }

    /// An error of the walk itself.
    pub(crate) fn add_walk_error(&mut self, error: &ignore::Error) {
        if self.named.len() < MAX_NAMED {
            self.named.push(path::one_line(&error.to_string()));
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn notice(&self) -> Option<String> {
        let more = if self.more == 0 { String::new() } else { format!(" and {} more", self.more) };
        (!self.named.is_empty()).then(|| format!("Skipped: {}{more}", self.named.join(", ")))
    }
}

/// A text and its notices, that of `skipped` last.
pub(crate) fn finish(text: String, mut notices: Vec<String>, skipped: &Skipped) -> String {
    notices.extend(skipped.notice());
    with_notices(text, &notices)
}
