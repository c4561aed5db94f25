//! Writers that change a directory between any two steps of a reader.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::super::fs::{Fs, Kind, Stamp, System};

pub(super) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Copy, Debug)]
pub(super) enum Writer {
    /// `git pull`: every file replaced by a new one.
    Git,
    /// In place and under Git's lock: truncated, then written in two parts.
    Overwrite,
    /// git-sync: the directory is itself a symlink.
    RootSwap,
    /// A ConfigMap mount.
    ConfigMap,
    /// One file renamed into place: a version each.
    Rename,
}

enum Step {
    Create(PathBuf, Vec<u8>),
    Append(PathBuf, Vec<u8>),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Folder(PathBuf),
    RemoveFolder(PathBuf),
}

impl Step {
    fn run(self) {
        match self {
            Self::Create(path, content) => fs::write(path, content),
            Self::Append(path, content) => fs::OpenOptions::new()
                .append(true)
                .open(path)
                .and_then(|mut file| io::Write::write_all(&mut file, &content)),
            Self::Remove(path) => fs::remove_file(path),
            Self::Rename(from, to) => fs::rename(from, to),
            Self::Link(target, link) => symlink(target, link),
            Self::Folder(path) => fs::create_dir(path),
            Self::RemoveFolder(path) => fs::remove_dir_all(path),
        }
        .unwrap();
    }
}

pub(super) struct World {
    writer: Writer,
    temp: TempDir,
    version: Cell<u32>,
    /// Contents recur after this many versions.
    pub(super) period: u32,
    pub(super) last: Cell<u32>,
    steps: RefCell<VecDeque<Step>>,
    pub(super) committed: RefCell<Vec<Files>>,
    random: RefCell<StdRng>,
    /// One step of the writer for so many of the reader's.
    pace: u32,
    pub(super) pause: bool,
}

impl World {
    pub(super) fn new(writer: Writer, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let world = Self {
            writer,
            temp: in_memory(),
            version: Cell::new(0),
            period: u32::MAX,
            last: Cell::new(random.random_range(1..6)),
            steps: RefCell::default(),
            committed: RefCell::default(),
            pace: random.random_range(1..12),
            random: RefCell::new(random),
            pause: false,
        };
        let root = world.path("");
        match writer {
            Writer::Git | Writer::Overwrite | Writer::Rename => {
                fs::create_dir_all(root.join("sub")).unwrap();
                fs::create_dir_all(root.join(".git/refs/heads")).unwrap();
                fs::write(root.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
                for (name, content) in world.files(0) {
                    fs::write(root.join(name), content).unwrap();
                }
            }
            Writer::RootSwap | Writer::ConfigMap => {
                if matches!(writer, Writer::ConfigMap) {
                    fs::create_dir(&root).unwrap();
                }
                world.plan(0);
                while world.step() {}
            }
        }
        if world.committed.borrow().is_empty() {
            world.committed.borrow_mut().push(world.files(0));
        }
        world
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().canonicalize().unwrap().join("policies").join(name)
    }

    fn files(&self, version: u32) -> Files {
        let of = version % self.period;
        let mut files = Files::new();
        for name in ["a.yaml", "b.yaml", "sub/c.yaml", "sub/d.yaml"] {
            files.insert(name.into(), format!("{name} of version {of}, some bytes").into_bytes());
        }
        // One file comes and goes, one stays as it is.
        if of.is_multiple_of(2) {
            files.insert("even.yaml".into(), b"there".to_vec());
        }
        files.insert("same.yaml".into(), b"always the same".to_vec());
        files
    }

    fn plan(&self, version: u32) {
        let (old, new) = (self.files(version.wrapping_sub(1)), self.files(version));
        let mut steps = self.steps.borrow_mut();
        let root = self.path("");
        match self.writer {
            Writer::Git | Writer::Overwrite => {
                let git = root.join(".git");
                steps.push_back(Step::Create(git.join("index.lock"), Vec::new()));
                for (name, content) in &new {
                    if old.get(name) == Some(content) {
                        continue;
                    }
                    let path = root.join(name);
                    if matches!(self.writer, Writer::Git) && old.contains_key(name) {
                        steps.push_back(Step::Remove(path.clone()));
                    }
                    let (head, tail) = content.split_at(content.len() / 2);
                    steps.push_back(Step::Create(path.clone(), Vec::new()));
                    steps.push_back(Step::Append(path.clone(), head.to_vec()));
                    steps.push_back(Step::Append(path, tail.to_vec()));
                }
                for name in old.keys().filter(|name| !new.contains_key(*name)) {
                    steps.push_back(Step::Remove(root.join(name)));
                }
                steps.push_back(Step::Rename(git.join("index.lock"), git.join("index")));
                let commit = format!("{version:040x}\n").into_bytes();
                steps.push_back(Step::Create(git.join("refs/heads/main"), commit));
            }
            Writer::Rename => {
                let (name, temporary) = ("a.yaml", root.join(".a.yaml.swp"));
                let content = new.get(name).unwrap().clone();
                steps.push_back(Step::Create(temporary.clone(), Vec::new()));
                steps.push_back(Step::Append(temporary.clone(), content.clone()));
                steps.push_back(Step::Rename(temporary, root.join(name)));
                let mut files = self.files(0);
                files.insert(name.into(), content);
                self.committed.borrow_mut().push(files);
                return;
            }
            Writer::RootSwap | Writer::ConfigMap => {
                let (base, link, temporary) = match self.writer {
                    Writer::ConfigMap => {
                        (root.clone(), root.join("..data"), root.join("..data_tmp"))
                    }
                    Writer::Git | Writer::Overwrite | Writer::RootSwap | Writer::Rename => (
                        self.temp.path().to_owned(),
                        self.temp.path().join("policies"),
                        self.temp.path().join("next"),
                    ),
                };
                let folder = base.join(format!("..{version}"));
                steps.push_back(Step::Folder(folder.clone()));
                steps.push_back(Step::Folder(folder.join("sub")));
                for (name, content) in &new {
                    steps.push_back(Step::Create(folder.join(name), Vec::new()));
                    steps.push_back(Step::Append(folder.join(name), content.clone()));
                }
                steps.push_back(Step::Link(folder, temporary.clone()));
                steps.push_back(Step::Rename(temporary, link));
                if version > 0 {
                    let before = base.join(format!("..{}", version - 1));
                    for name in old.keys() {
                        steps.push_back(Step::Remove(before.join(name)));
                    }
                    steps.push_back(Step::RemoveFolder(before));
                }
            }
        }
        self.committed.borrow_mut().push(new);
    }

    fn step(&self) -> bool {
        let step = self.steps.borrow_mut().pop_front();
        step.map(Step::run).is_some()
    }

    /// Lets the writer do some steps, as chance has it.
    fn interleave(&self) {
        let random = |below| self.random.borrow_mut().random_range(0..below);
        while random(self.pace + 1) == 0 {
            if !self.step() {
                if self.version.get() >= self.last.get() {
                    return;
                }
                self.version.set(self.version.get() + 1);
                self.plan(self.version.get());
            }
        }
    }

    pub(super) fn finish(&self) -> Files {
        while self.step() {}
        self.committed.borrow().last().unwrap().clone()
    }
}

impl Fs for World {
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.interleave();
        System.canonicalize(path)
    }

    fn kind(&self, path: &Path) -> io::Result<Kind> {
        self.interleave();
        System.kind(path)
    }

    fn device(&self, path: &Path) -> io::Result<u64> {
        System.device(path)
    }

    fn list(&self, path: &Path, limit: usize) -> io::Result<(Vec<OsString>, Stamp)> {
        self.interleave();
        let (names, _) = System.list(path, limit)?;
        self.interleave();
        // The stamp is taken after the names.
        Ok((names, System.list(path, limit)?.1))
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<(Vec<u8>, Stamp)> {
        self.interleave();
        let read = System.read(path, limit);
        self.interleave();
        read
    }

    fn pause(&self, time: Duration) {
        let steps = self.random.borrow_mut().random_range(0..40);
        for _ in 0..steps {
            self.interleave();
        }
        if self.pause {
            System.pause(time);
        }
    }
}

/// Makes a folder in memory where the machine has such a place: thousands of runs are ten times as fast.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
