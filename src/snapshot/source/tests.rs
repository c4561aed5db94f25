//! The reader against writers that change the directory between any two of its steps.

#![expect(clippy::arithmetic_side_effects, reason = "a test that overflows fails")]

mod writers;

use std::{cell::Cell, fs, io, os::unix::fs::symlink, path::Path, time::Duration};

use tempfile::TempDir;

use self::writers::{Files, World, Writer};
use super::{
    BETWEEN_READINGS, MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES, Reading, SourceError, SourceTree,
    read, read_with,
};

/// Interleavings tried of each writer.
const RUNS: u64 = 1_200;

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
    let run = |writer, seed| {
        let mut world = World::new(writer, seed);
        world.period = 2;
        world.last.set(40);
        world.pause = true;
        if let Ok(tree) = read_with(&world, &world.path("")) {
            assert!(world.committed.borrow().contains(&content(&tree)), "{writer:?} {seed}");
        }
    };
    // Side by side, as they mostly wait.
    std::thread::scope(|scope| {
        for seed in 0..25 {
            scope.spawn(move || run(Writer::Git, seed));
            scope.spawn(move || run(Writer::Overwrite, seed));
        }
    });
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

fn git(dir: &Path, arguments: &[&str]) {
    let git = std::process::Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t.invalid", "-C"])
        .arg(dir)
        .args(arguments)
        .output();
    let output = git.expect("this test needs git");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn a_real_git_that_goes_back_and_forth_is_read_as_one_version_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    git(dir, &["init", "-q", "-b", "main"]);
    for version in ["one", "two"] {
        for n in 0..60 {
            fs::write(dir.join(format!("{n}.yaml")), version).unwrap();
        }
        git(dir, &["add", "."]);
        git(dir, &["commit", "-q", "-m", version]);
        git(dir, &["branch", version]);
    }
    let (done, read_versions) = (std::sync::atomic::AtomicBool::new(false), Cell::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..60 {
                git(dir, &["checkout", "-q", if n % 2 == 0 { "one" } else { "two" }]);
                std::thread::sleep(Duration::from_millis(n * 2));
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            if let Ok(tree) = read(dir) {
                let first = &tree.files["0.yaml"];
                assert!(tree.files.values().all(|content| content == first), "{tree:?}");
                assert_eq!(tree.files.len(), 60);
                read_versions.set(read_versions.get() + 1);
            }
        }
    });
    assert!(read_versions.get() > 0);
    let tree = read(dir).unwrap();
    assert_eq!((&*tree.files["0.yaml"], tree.commit.unwrap().len()), (&b"two"[..], 40));
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
