//! The reader against writers that change the directory between any two of its steps.

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

use super::{
    BETWEEN_READINGS, MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES, Reading, SourceError, SourceTree,
    fs::{Fs, Kind, Stamp, System},
    read, read_with,
};

/// Interleavings tried of each writer.
const RUNS: u64 = 1_200;

type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Copy, Debug)]
enum Writer {
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

struct World {
    writer: Writer,
    temp: TempDir,
    version: Cell<u32>,
    /// Contents recur after this many versions.
    period: u32,
    last: Cell<u32>,
    steps: RefCell<VecDeque<Step>>,
    committed: RefCell<Vec<Files>>,
    random: RefCell<StdRng>,
    /// One step of the writer for so many of the reader's.
    pace: u32,
    pause: bool,
}

impl World {
    fn new(writer: Writer, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let world = Self {
            writer,
            temp: tempfile::tempdir().unwrap(),
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

    fn path(&self, name: &str) -> PathBuf {
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
                    _ => (
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

    fn finish(&self) -> Files {
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

fn content(tree: &SourceTree) -> Files {
    tree.files.iter().map(|(name, content)| (name.to_string(), content.clone())).collect()
}

fn never_a_mixture(writer: Writer) {
    let mut read = 0;
    for seed in 0..RUNS {
        let world = World::new(writer, seed);
        if let Ok(tree) = read_with(&world, &world.path("")) {
            let committed = world.committed.borrow();
            assert!(committed.contains(&content(&tree)), "{writer:?} {seed}: {tree:?}");
            read += 1;
        }
        // What is there when the writer has ended is read.
        let last = world.finish();
        world.last.set(0);
        let tree = read_with(&world, &world.path("")).unwrap();
        assert_eq!(content(&tree), last, "{writer:?} {seed}");
    }
    assert!(read > RUNS / 10, "{writer:?}: only {read} readings succeeded");
}

#[test]
fn a_git_pull_in_the_middle_is_never_read() {
    never_a_mixture(Writer::Git);
}

#[test]
fn an_overwrite_under_gits_lock_is_never_read_in_the_middle() {
    never_a_mixture(Writer::Overwrite);
}

#[test]
fn a_swapped_root_is_read_as_one_version() {
    never_a_mixture(Writer::RootSwap);
}

#[test]
fn a_swapped_config_map_is_read_as_one_version() {
    never_a_mixture(Writer::ConfigMap);
}

#[test]
fn an_atomic_rename_is_read_as_before_or_after() {
    never_a_mixture(Writer::Rename);
}

#[test]
fn contents_that_come_back_are_told_apart_by_their_stamps() {
    for writer in [Writer::Git, Writer::Overwrite] {
        for seed in 0..25 {
            let mut world = World::new(writer, seed);
            world.period = 2;
            world.last.set(40);
            world.pause = true;
            if let Ok(tree) = read_with(&world, &world.path("")) {
                assert!(world.committed.borrow().contains(&content(&tree)), "{writer:?} {seed}");
            }
        }
    }
}

#[test]
fn the_writers_do_produce_mixtures_for_a_reader_that_looks_once() {
    for writer in [Writer::Git, Writer::Overwrite] {
        let mixtures = (0..200)
            .filter(|seed| {
                let world = World::new(writer, *seed);
                Reading::take(&world, &world.path("")).is_ok_and(|reading| {
                    let files = reading.files.into_iter().map(|(n, c)| (n.to_string(), c));
                    let files: Files = files.collect();
                    !world.committed.borrow().contains(&files)
                })
            })
            .count();
        assert!(mixtures > 10, "{writer:?}: {mixtures}");
    }
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = temp.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    temp
}

fn names(tree: &SourceTree) -> Vec<&str> {
    tree.files.keys().map(|name| &**name).collect()
}

#[test]
fn subfolders_are_read_and_dot_names_are_not() {
    let temp = directory(&[
        ("a.yaml", "1"),
        ("team/b/c.yml", "2"),
        ("team/prod.pem", "3"),
        (".hidden.yaml", "4"),
        (".github/x.yaml", "5"),
    ]);
    assert_eq!(names(&read(temp.path()).unwrap()), ["a.yaml", "team/b/c.yml", "team/prod.pem"]);
}

#[test]
fn the_hash_tells_names_and_contents_apart() {
    let hash = |files: &[(&str, &str)]| read(directory(files).path()).unwrap().hash;
    let one = hash(&[("a", "bc")]);
    assert_eq!(one.len(), 64);
    assert_eq!(one, hash(&[("a", "bc")]));
    assert_ne!(one, hash(&[("ab", "c")]));
    assert_ne!(one, hash(&[("a", "b"), ("c", "")]));
    assert_ne!(hash(&[("a", "b"), ("c", "d")]), hash(&[("a", "d"), ("c", "b")]));
}

#[test]
fn a_symlink_is_followed_inside_and_refused_outside() {
    let temp = directory(&[("in/a.yaml", "1"), ("out.yaml", "2")]);
    let dir = temp.path().join("in");
    symlink("a.yaml", dir.join("b.yaml")).unwrap();
    assert_eq!(names(&read(&dir).unwrap()), ["a.yaml", "b.yaml"]);
    symlink("../out.yaml", dir.join("c.yaml")).unwrap();
    let error = read(&dir).unwrap_err();
    assert!(
        matches!(&error, SourceError::LeadsOut { path } if path.ends_with("c.yaml")),
        "{error}"
    );
}

#[test]
fn a_symlink_to_nothing_is_an_error_that_names_it() {
    let temp = directory(&[("a.yaml", "1")]);
    symlink("nothing", temp.path().join("b.yaml")).unwrap();
    let error = read(temp.path()).unwrap_err();
    let SourceError::Unreadable { path, source } = &error else { panic!("{error}") };
    assert!(path.ends_with("b.yaml"));
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
}

#[test]
fn folders_that_contain_themselves_end_at_the_depth_limit() {
    let temp = directory(&[("a.yaml", "1")]);
    symlink(".", temp.path().join("loop")).unwrap();
    assert!(matches!(read(temp.path()), Err(SourceError::TooDeep { .. })));
    let deep = "d/".repeat(MAX_DEPTH) + "a.yaml";
    assert_eq!(read(directory(&[(&deep, "")]).path()).unwrap().files.len(), 1);
}

#[test]
fn a_file_over_the_limit_is_refused_and_one_at_it_is_read() {
    let at = "x".repeat(MAX_FILE_BYTES);
    assert!(read(directory(&[("a", &at)]).path()).is_ok());
    let over = read(directory(&[("a", &format!("{at}x"))]).path());
    assert!(matches!(over, Err(SourceError::FileTooLarge { .. })));
    let many: Vec<_> = (0..65).map(|n| format!("{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), at.as_str())).collect();
    assert!(matches!(read(directory(&many).path()), Err(SourceError::TooLarge)));
}

#[test]
fn too_many_files_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    for n in 0..=MAX_ENTRIES {
        fs::File::create(temp.path().join(n.to_string())).unwrap();
    }
    assert!(matches!(read(temp.path()), Err(SourceError::TooManyEntries)));
    fs::remove_file(temp.path().join("0")).unwrap();
    assert_eq!(read(temp.path()).unwrap().files.len(), MAX_ENTRIES);
}

#[test]
fn a_socket_and_a_file_as_directory_are_refused() {
    let temp = directory(&[("a.yaml", "1")]);
    let file = read(&temp.path().join("a.yaml"));
    assert!(matches!(file, Err(SourceError::NotADirectory { .. })));
    let _socket = std::os::unix::net::UnixListener::bind(temp.path().join("s")).unwrap();
    assert!(matches!(read(temp.path()), Err(SourceError::NotAFile { .. })));
    assert!(matches!(read(&temp.path().join("none")), Err(SourceError::Unreadable { .. })));
}

#[test]
fn a_lock_left_by_git_is_named() {
    let temp = directory(&[(".git/HEAD", ""), ("sub/a.yaml", "1"), (".git/index.lock", "")]);
    let error = read(&temp.path().join("sub")).unwrap_err();
    assert!(matches!(&error, SourceError::Locked { lock } if lock.ends_with(".git/index.lock")));
    assert!(error.is_busy());
}

#[test]
fn the_commit_is_read_from_loose_and_packed_refs_work_trees_and_detached_heads() {
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let main = "ref: refs/heads/main\n";
    let packed = format!("# pack-refs with: peeled\n{sha} refs/heads/main\n");
    let commit = |files: &[(&str, &str)], below: &str| {
        read(&directory(files).path().join(below)).unwrap().commit
    };
    let some = Some(sha.to_owned());
    assert_eq!(commit(&[(".git/HEAD", main), (".git/refs/heads/main", sha)], ""), some);
    assert_eq!(
        commit(&[(".git/HEAD", main), (".git/packed-refs", &packed), ("p/a", "")], "p"),
        some
    );
    assert_eq!(commit(&[(".git/HEAD", sha)], ""), some);
    let linked = [
        ("repo/HEAD", "ref: refs/heads/other"),
        ("repo/packed-refs", packed.as_str()),
        ("repo/worktrees/w/HEAD", main),
        ("repo/worktrees/w/commondir", "../.."),
        ("w/.git", "gitdir: ../repo/worktrees/w\n"),
    ];
    assert_eq!(commit(&linked, "w"), some);
    assert_eq!(commit(&[(&format!("{sha}/policies/a"), "")], &format!("{sha}/policies")), some);
    for head in ["ref: refs/../../secret", "ref: HEAD", "0123", ""] {
        assert_eq!(commit(&[(".git/HEAD", head)], ""), None, "{head}");
    }
}

#[test]
fn the_second_reading_waits_longer_than_a_tick_of_any_file_clock() {
    assert!(BETWEEN_READINGS > Duration::from_millis(2 * 10));
}
