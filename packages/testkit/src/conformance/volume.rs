//! Promises of [`Volume`].

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use torpor_core::volume::{Error, Kind, Place, Volume};

/// What lies outside of the volume, and must never be seen.
const SECRET: &str = "secret";

/// A fresh volume to test.
pub struct Files {
    /// Its files.
    pub volume: Arc<dyn Volume>,
    /// An empty folder. The volume's root is `root` in it, and not made yet; everything else in it is outside.
    pub around: PathBuf,
    /// Whether links that stay inside are followed where they may be.
    pub follows: bool,
    /// What has to live as long as the folder.
    pub keep: Box<dyn std::any::Any + Send + Sync>,
}

/// The suite of the volume seam: every promise a test. `$fresh` makes fresh [`Files`].
#[macro_export]
macro_rules! volume_conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, volume: [
            paths_name_places
            a_volume_that_is_not_there_is_away
            files_come_and_go
            nothing_is_left_beside_a_file
            reading_is_bounded
            only_regular_files_are_read
            nothing_leads_out
            links_inside_stay_inside
            tenants_do_not_meet
            a_swapped_link_leads_nowhere
            one_of_racing_moves_counts
            readers_see_whole_files
        ]);
    };
}

impl Files {
    fn root(&self) -> PathBuf {
        self.around.join("root")
    }

    /// The volume with a secret outside, and something inside.
    fn set_up(&self) {
        fs::create_dir_all(self.around.join("outside")).unwrap();
        fs::write(self.around.join("outside/secret"), SECRET).unwrap();
        fs::create_dir_all(self.root().join("in")).unwrap();
        fs::write(self.root().join("in/file"), "inside").unwrap();
    }

    fn link(&self, to: &str, name: &str) {
        symlink(to, self.root().join(name)).unwrap();
    }

    /// Everything outside, as it was.
    fn assert_untouched(&self) {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).unwrap();
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(&self.around.join("outside")), ["secret"]);
        assert_eq!(fs::read_to_string(self.around.join("outside/secret")).unwrap(), SECRET);
        assert_eq!(names(&self.around).len(), 2, "something came to stand beside the root");
    }

    async fn read(&self, path: &str) -> Result<String, Error> {
        let bytes = self.volume.read(&at(path), 1 << 20).await?;
        Ok(String::from_utf8(bytes).unwrap())
    }
}

fn at(path: &str) -> Place {
    Place::new(None, path)
}

fn is_refused<T>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::Refused(_)))
}

/// A path from a client is a place below the root, or in the tenant's part of it, however it is written.
pub async fn paths_name_places(f: Files) {
    let root = f.root();
    let shown = |tenant: Option<&str>, text: &str| f.volume.place(tenant, text).map(|p| p.path.display().to_string());
    assert_eq!(shown(None, "in/./file").as_deref(), Ok("in/file"));
    assert_eq!(shown(None, root.join("in/file").to_str().unwrap()).as_deref(), Ok("in/file"));
    assert_eq!(shown(Some("acme"), root.join("acme/x").to_str().unwrap()).as_deref(), Ok("x"));
    assert_eq!(f.volume.place(Some("acme"), "x"), Ok(Place::new(Some("acme"), "x")));
    for (tenant, text) in [
        (None, "../x"),
        (None, "/etc/passwd"),
        (Some("acme"), root.join("globex/x").to_str().unwrap()),
        (Some("acme"), root.join("x").to_str().unwrap()),
        (Some("acme"), "../globex/x"),
    ] {
        assert!(f.volume.place(tenant, text).is_err(), "{text}");
    }
}

/// A volume that is not mounted is away, whatever is asked of it; nothing is made in its place.
pub async fn a_volume_that_is_not_there_is_away(f: Files) {
    let away = |e: Result<(), Error>| assert!(matches!(e, Err(Error::Away(_))), "{e:?}");
    away(f.volume.ready().await);
    away(f.volume.read(&at("a"), 9).await.map(drop));
    away(f.volume.publish(&at("a/b"), b"x".to_vec()).await);
    away(f.volume.make(&at("a")).await);
    away(f.volume.list(&at("a"), 9).await.map(drop));
    assert!(!f.root().exists());
    f.set_up();
    assert_eq!(f.volume.ready().await, Ok(()));
    assert_eq!(f.read("in/file").await.as_deref(), Ok("inside"));
}

/// What is published is there, with the folders above it, and can be replaced, moved, listed and removed.
pub async fn files_come_and_go(f: Files) {
    f.set_up();
    let (file, other) = (at("a/b/c.json"), at("d/e.json"));
    for text in ["one", "two, which is longer"] {
        f.volume.publish(&file, text.into()).await.unwrap();
        assert_eq!(f.read("a/b/c.json").await.as_deref(), Ok(text));
    }
    assert_eq!(f.volume.rename(&file, &other).await, Ok(true));
    assert_eq!(f.volume.rename(&file, &other).await, Ok(false));
    assert_eq!(f.volume.rename(&at("no/such"), &at("made/for")).await, Ok(false));
    assert!(!f.root().join("made").exists());
    assert_eq!(f.read("a/b/c.json").await, Err(Error::Missing));
    f.volume.make(&at("d/folder")).await.unwrap();
    f.volume.make(&at("d/folder")).await.unwrap();
    let mut listed = f.volume.list(&at("d"), 10).await.unwrap();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let shown: Vec<_> = listed.iter().map(|it| (it.name.to_str().unwrap(), it.kind)).collect();
    assert_eq!(shown, [("e.json", Kind::File), ("folder", Kind::Folder)]);
    assert_eq!(f.volume.list(&at("d"), 1).await.unwrap().len(), 1);
    assert_eq!(f.volume.list(&at("none"), 1).await, Err(Error::Missing));
    for _ in 0..2 {
        f.volume.remove(&other).await.unwrap();
    }
    f.volume.remove(&at("none/at/all")).await.unwrap();
    assert_eq!(f.read("d/e.json").await, Err(Error::Missing));
    f.assert_untouched();
}

/// Whoever publishes leaves nothing beside the file, and takes away what somebody who died there left long ago.
pub async fn nothing_is_left_beside_a_file(f: Files) {
    f.set_up();
    let names = || -> Vec<String> {
        let entries = fs::read_dir(f.root().join("in")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    let (old, young) = (".torpor-0123.tmp", ".torpor-4567.tmp");
    for (name, age) in [(old, 7_200), (young, 60), (".torpor-mine", 7_200)] {
        let file = fs::File::create(f.root().join("in").join(name)).unwrap();
        let now = file.metadata().unwrap().modified().unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }
    let listed = f.volume.list(&at("in"), 10).await.unwrap();
    assert!(listed.iter().all(|it| it.name != old && it.name != young), "they are nobody's files");
    f.volume.publish(&at("in/new"), b"x".to_vec()).await.unwrap();
    assert_eq!(names(), [young, ".torpor-mine", "file", "new"].map(str::to_owned));
    let mode = fs::metadata(f.root().join("in/new")).unwrap().permissions().mode();
    assert_eq!(mode & 0o600, 0o600, "and others may read it as the process' mask says");
    // A folder stands where the file should.
    assert!(is_refused(&f.volume.publish(&at("in"), b"x".to_vec()).await));
    assert_eq!(fs::read_dir(f.root()).unwrap().count(), 1);
}

/// A file that is larger than it may be is not read.
pub async fn reading_is_bounded(f: Files) {
    f.set_up();
    let refused = f.volume.read(&at("in/file"), 5).await;
    assert_eq!(refused, Err(Error::Refused("must be at most 5 bytes".into())));
    assert_eq!(f.volume.read(&at("in/file"), 6).await.unwrap(), b"inside");
    fs::write(f.root().join("empty"), "").unwrap();
    assert_eq!(f.volume.read(&at("empty"), 0).await.unwrap(), b"");
}

/// Nothing that is no file is read, and nothing waits for it.
pub async fn only_regular_files_are_read(f: Files) {
    f.set_up();
    let pipe = f.root().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let socket = UnixListener::bind(f.root().join("socket")).unwrap();
    for path in ["in", "pipe", "socket"] {
        let answer = super::soon(f.read(path)).await;
        assert!(is_refused(&answer), "{path}: {answer:?}");
    }
    assert!(is_refused(&f.read("in/file/below").await), "a file is no folder");
    // They can be moved out of the way, unopened.
    for path in ["pipe", "socket", "in"] {
        assert_eq!(f.volume.rename(&at(path), &at(&format!("aside/{path}"))).await, Ok(true), "{path}");
    }
    drop(socket);
}

/// No way leads out: whatever is put into the volume, and whatever place is asked for.
pub async fn nothing_leads_out(f: Files) {
    f.set_up();
    let outside = f.around.join("outside");
    let outside = outside.to_str().unwrap();
    f.link(outside, "absolute");
    f.link("../outside", "relative");
    f.link("../outside/secret", "file");
    f.link(&format!("{outside}/secret"), "absolute-file");
    f.link("..", "up");
    f.link("in/../../outside", "through");
    f.link("chain-2", "chain");
    f.link("relative", "chain-2");
    f.link("/proc/self/root", "magic");
    f.link("/proc/self/cwd", "cwd");
    f.link("loop", "loop");
    f.link("../outside/new", "dangling");
    let magic = format!("magic{outside}/secret");
    let absolute = format!("{outside}/secret");
    for path in [
        "../outside/secret",
        "in/../../outside/secret",
        &absolute,
        "absolute/secret",
        "relative/secret",
        "file",
        "absolute-file",
        "up/outside/secret",
        "through/secret",
        "chain/secret",
        &magic,
        "cwd/Cargo.toml",
        "loop",
        "loop/x",
        "dangling",
        "dangling/x",
    ] {
        let answer = f.read(path).await;
        assert!(answer.is_err(), "read {path}: {answer:?}");
        let folder = format!("{path}/made");
        for name in [path, &folder] {
            // A link that is itself the file's name is replaced; everything else is refused.
            let _ = f.volume.make(&at(name)).await;
            let _ = f.volume.list(&at(name), 10).await.map(|found| assert!(found.is_empty(), "{name}: {found:?}"));
            let into = f.volume.rename(&at("in/file"), &at(&format!("{name}/stolen"))).await;
            assert!(into != Ok(true) || f.root().join("in/file").exists() || back(&f, name).await, "{name}");
        }
        let published = f.volume.publish(&at(&format!("{path}/x/y")), b"x".to_vec()).await;
        let _ = published;
        f.assert_untouched();
    }
    for name in ["file", "absolute-file", "dangling"] {
        f.volume.publish(&at(name), b"mine".to_vec()).await.unwrap();
        assert_eq!(f.read(name).await.as_deref(), Ok("mine"), "the name itself is replaced, not what it led to");
    }
    f.assert_untouched();
}

/// Whether what was moved went somewhere inside; it is moved back.
async fn back(f: &Files, name: &str) -> bool {
    f.volume.rename(&at(&format!("{name}/stolen")), &at("in/file")).await == Ok(true)
}

/// Links that stay inside are followed or refused, never half; where a place must be plain, they are refused.
pub async fn links_inside_stay_inside(f: Files) {
    f.set_up();
    f.link("in", "current");
    f.link("in/file", "alias");
    f.link("../root/in/file", "detour");
    for path in ["current/file", "alias"] {
        let answer = f.read(path).await;
        assert!(if f.follows { answer.as_deref() == Ok("inside") } else { is_refused(&answer) }, "{path}: {answer:?}");
        let plain = f.volume.read(&Place { plain: true, ..at(path) }, 99).await;
        assert!(is_refused(&plain), "{path}: {plain:?}");
    }
    assert!(is_refused(&f.read("detour").await), "it is inside by detour only");
    let plain = Place { plain: true, ..at("current/new") };
    assert!(is_refused(&f.volume.publish(&plain, b"x".to_vec()).await));
    assert!(is_refused(&f.volume.list(&Place { plain: true, ..at("current") }, 9).await));
    assert_eq!(f.volume.publish(&at("current/new"), b"x".to_vec()).await.is_ok(), f.follows);
    f.assert_untouched();
}

/// A tenant's part is a folder of its own, from which no way leads into another's.
pub async fn tenants_do_not_meet(f: Files) {
    f.set_up();
    let of = |tenant: &str, path: &str| Place::new(Some(tenant), path);
    assert_eq!(f.volume.read(&of("acme", "a"), 9).await, Err(Error::Missing));
    f.volume.publish(&of("acme", "a"), b"acme".to_vec()).await.unwrap();
    f.volume.publish(&of("..", "a"), b"dots".to_vec()).await.unwrap();
    f.volume.publish(&of("a/b", "c"), b"slash".to_vec()).await.unwrap();
    assert_eq!(f.volume.read(&of("a", "b/c"), 9).await, Err(Error::Missing));
    assert_eq!(f.volume.read(&of("..", "a"), 9).await.unwrap(), b"dots");
    fs::create_dir_all(f.root().join("globex")).unwrap();
    for (to, name) in [("../acme", "way"), ("../acme/a", "file"), (f.root().join("acme").to_str().unwrap(), "far")] {
        symlink(to, f.root().join("globex").join(name)).unwrap();
    }
    for path in ["way/a", "file", "far/a", "../acme/a"] {
        let answer = f.volume.read(&of("globex", path), 9).await;
        assert!(is_refused(&answer), "{path}: {answer:?}");
        let folder = f.volume.publish(&of("globex", &format!("{path}/x")), b"x".to_vec()).await;
        assert!(folder.is_err(), "{path}");
    }
    symlink("acme", f.root().join("initech")).unwrap();
    let answer = f.volume.read(&of("initech", "a"), 9).await;
    assert!(is_refused(&answer), "a part that is a link is none: {answer:?}");
    assert_eq!(f.volume.read(&of("acme", "a"), 9).await.unwrap(), b"acme");
    f.assert_untouched();
}

/// A link that is swapped in while a path is resolved leads nowhere either.
pub async fn a_swapped_link_leads_nowhere(f: Files) {
    f.set_up();
    let (root, over) = (f.root(), Arc::new(AtomicBool::new(false)));
    symlink("../outside", root.join("other")).unwrap();
    fs::create_dir(root.join("way")).unwrap();
    fs::write(root.join("way/secret"), "inside").unwrap();
    let swapping = {
        let (root, over) = (root.clone(), Arc::clone(&over));
        let swap = move || renameat_with(CWD, root.join("way"), CWD, root.join("other"), RenameFlags::EXCHANGE);
        std::thread::spawn(move || {
            let mut turns = 0_u64;
            while !over.load(Relaxed) {
                swap().expect("a file system that can exchange two names");
                turns += 1;
            }
            turns
        })
    };
    let (mut seen, mut published) = (0, 0);
    let new = Place { plain: true, ..at("way/made/new") };
    for _ in 0..3_000 {
        match f.read("way/secret").await {
            Ok(text) => {
                assert_eq!(text, "inside");
                seen += 1;
            }
            Err(Error::Missing | Error::Refused(_) | Error::Away(_)) => {}
        }
        published += u32::from(f.volume.publish(&new, b"x".to_vec()).await.is_ok());
    }
    over.store(true, Relaxed);
    assert!(swapping.join().unwrap() > 0);
    f.assert_untouched();
    assert!(seen > 0 && published > 0, "the way was never there: this proved nothing");
}

/// Of any number who move the same thing, one does.
pub async fn one_of_racing_moves_counts(f: Files) {
    f.set_up();
    for n in 0..20 {
        f.volume.publish(&at("in/task"), b"x".to_vec()).await.unwrap();
        let moves = (0..8).map(|k| {
            let volume = Arc::clone(&f.volume);
            async move { volume.rename(&at("in/task"), &at(&format!("out/{n}-{k}"))).await.unwrap() }
        });
        let moved = futures::future::join_all(moves).await;
        assert_eq!(moved.iter().filter(|moved| **moved).count(), 1);
    }
    assert_eq!(f.volume.list(&at("out"), 99).await.unwrap().len(), 20);
}

/// A reader in a loop sees the old file or the new one, whole.
pub async fn readers_see_whole_files(f: Files) {
    f.set_up();
    let (path, over) = (f.root().join("in/large"), Arc::new(AtomicBool::new(false)));
    f.volume.publish(&at("in/large"), vec![b'0'; 5 << 20]).await.unwrap();
    let reading = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut reads = 0_u32;
            while !over.load(Relaxed) || reads == 0 {
                let bytes = fs::read(&path).unwrap();
                assert_eq!(bytes.len(), 5 << 20, "half a file");
                assert!(bytes.iter().all(|b| *b == bytes[0]), "two files in one");
                reads += 1;
            }
        })
    };
    for n in 1..=9 {
        f.volume.publish(&at("in/large"), vec![b'0' + n; 5 << 20]).await.unwrap();
    }
    over.store(true, Relaxed);
    reading.join().unwrap();
}
