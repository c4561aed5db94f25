//! Keys that outlive a restart: the last good ones of each issuer, in a folder of the process's own.
//!
//! Whoever can write to the folder can add keys: it is trusted as the policy directory is.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    clock::UnixTime,
    json,
    trust::jwks::{self, KeySet, KeySetError, Parse},
};

/// A key set in a JSON text, where each octet may take two (`\"`), and what stands beside it.
const MAX_FILE_BYTES: usize = 2 * jwks::MAX_BYTES + (16 << 10);

/// Why keys that were saved are not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SavedError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not as we write it.
    #[error("{} is not as it was written", path.display())]
    Malformed { path: PathBuf },
    /// The keys were seen at a time that is still to come: their age is not known.
    #[error("{} is dated in the future", path.display())]
    Future { path: PathBuf },
    /// The keys cannot be used.
    #[error("{} holds no usable keys", path.display())]
    Keys {
        path: PathBuf,
        #[source]
        source: KeySetError,
    },
}

/// The file of one issuer's keys.
#[derive(Clone, Debug)]
pub(super) struct SavedKeys {
    path: PathBuf,
    /// The issuer identifier, and where the keys are had: keys from elsewhere are not this issuer's.
    issuer: String,
    source: String,
}

impl SavedKeys {
    /// The file for the Issuer called `name`, which can name a file, in `folder`.
    pub(super) fn new(folder: &Path, name: &str, issuer: &str, source: &str) -> Self {
        let path = folder.join(format!("{name}.keys.json"));
        Self { path, issuer: issuer.to_owned(), source: source.to_owned() }
    }

    /// Writes a set that was seen at its source at `seen`, in place of the one before: whole, or not at all.
    pub(super) fn save(&self, set: &KeySet, seen: UnixTime) -> io::Result<()> {
        let content = json!({
            "issuer": self.issuer,
            "source": self.source,
            "seen": seen.as_secs(),
            "keys": String::from_utf8_lossy(set.text()),
        });
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // Readable by its owner only, as temporary files are: others have no business with it.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(content.to_string().as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Returns the set and when it was seen at its source; `None` where there is none of this issuer from
    /// this source. How old it may be is judged where keys are used.
    pub(super) fn load(
        &self,
        parse: Parse,
        now: UnixTime,
    ) -> Result<Option<(KeySet, UnixTime)>, SavedError> {
        let path = || self.path.clone();
        let malformed = || SavedError::Malformed { path: path() };
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SavedError::Read { path: path(), source }),
        };
        if text.len() > MAX_FILE_BYTES {
            return Err(malformed());
        }
        let content = json::object(&text).map_err(|json::JsonError| malformed())?;
        let member = |name| content.get(name).and_then(Value::as_str).ok_or_else(malformed);
        if member("issuer")? != self.issuer || member("source")? != self.source {
            return Ok(None);
        }
        let seen = content.get("seen").and_then(Value::as_u64).ok_or_else(malformed)?;
        let seen = UnixTime::from_secs(seen);
        // Else a clock that was wrong once would keep keys alive for as long as it was wrong.
        if seen > now {
            return Err(SavedError::Future { path: path() });
        }
        let set = parse(member("keys")?.as_bytes())
            .map_err(|source| SavedError::Keys { path: path(), source })?;
        Ok(Some((set, seen)))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    fs::File::open(path)?.take(limit).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::testing::{NOW, Signer, jwks};

    fn saved(folder: &Path) -> SavedKeys {
        SavedKeys::new(folder, "corp", "https://login.example/", "https://login.example/jwks")
    }

    fn set() -> KeySet {
        KeySet::parse(jwks(&[&Signer::es256("k")]).as_bytes()).unwrap()
    }

    #[test]
    fn what_was_saved_is_loaded_with_its_time_and_the_last_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(&folder.path().join("made/when/needed"));
        assert!(saved.load(KeySet::parse, NOW).unwrap().is_none());
        for set in [set(), set()] {
            saved.save(&set, NOW).unwrap();
            let (loaded, seen) = saved.load(KeySet::parse, NOW).unwrap().unwrap();
            assert_eq!((loaded.text(), seen), (set.text(), NOW));
        }
    }

    #[test]
    fn keys_of_another_issuer_or_from_elsewhere_are_not_these() {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path()).save(&set(), NOW).unwrap();
        for (issuer, source) in [
            ("https://login.example", "https://login.example/jwks"),
            ("https://login.example/", "https://login.example/keys"),
        ] {
            let other = SavedKeys::new(folder.path(), "corp", issuer, source);
            assert!(other.load(KeySet::parse, NOW).unwrap().is_none(), "{issuer} {source}");
        }
    }

    #[test]
    fn a_file_that_is_not_as_it_was_written_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let saved = saved(folder.path());
        saved.save(&set(), NOW).unwrap();
        let good = fs::read_to_string(&saved.path).unwrap();
        let seen = format!("\"seen\":{}", NOW.as_secs());
        for broken in [
            String::new(),
            "[]".to_owned(),
            good.split_at(good.len() / 2).0.to_owned(),
            good.replace("ES256", "none").replace("P-256", "P-255"),
            good.replace(&seen, "\"seen\":-1"),
            good.replace(&seen, &format!("\"seen\":{}", NOW.as_secs() + 1)),
            good.replace("\"issuer\"", "\"issuers\""),
            format!("{}{}", " ".repeat(MAX_FILE_BYTES), good),
        ] {
            fs::write(&saved.path, &broken).unwrap();
            assert!(saved.load(KeySet::parse, NOW).is_err(), "{broken:.200}");
        }
        fs::write(&saved.path, good).unwrap();
        assert!(saved.load(KeySet::parse, NOW).unwrap().is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(saved(&file).save(&set(), NOW).is_err());
    }
}
