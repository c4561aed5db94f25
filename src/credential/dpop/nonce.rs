//! Nonces (RFC 9449 §8, §9): the server's own word on when a proof can have been made.
//!
//! Nothing is stored. A nonce is the time it was made and a MAC over that time and the key it was given
//! to, so that every replica with the same secrets knows it, and no other client can use it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{clock::UnixTime, identity::Thumbprint};

/// Where nonces come from and how they are recognised.
pub struct Nonces {
    file: Option<PathBuf>,
    secrets: ArcSwap<Secrets>,
}

/// The secrets of a file, the first of which signs.
struct Secrets {
    keys: Vec<hmac::Key>,
    /// SHA-256 of the file, to see that it changed.
    digest: Thumbprint,
}

/// Why secrets cannot be used. Never quotes them.
#[derive(Debug, thiserror::Error)]
pub enum NonceError {
    /// The file cannot be read.
    #[error("the file of nonce keys cannot be read")]
    Unreadable(#[source] std::io::Error),
    /// It has no line, too many, or one that is no key.
    #[error(
        "a file of nonce keys has 1 to {MAX_SECRETS} lines, each at least {MIN_SECRET_BYTES} random \
         bytes in base64url without padding; the first one makes nonces, all of them recognise them"
    )]
    Malformed,
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// RFC 2104 §3: no less than the hash has.
const MIN_SECRET_BYTES: usize = 32;
/// The one in use, the one before and the one to come, twice over.
const MAX_SECRETS: usize = 8;
/// More than that many keys have.
const MAX_FILE_BYTES: usize = 64 << 10;

/// What is authenticated besides the time and the key: a MAC made for another purpose is none here.
const PURPOSE: &[u8] = b"symbolon dpop nonce 1\0";
/// A MAC of 128 bits: guessing one takes as long as guessing a key.
const MAC_BYTES: usize = 16;
const NONCE_BYTES: usize = size_of::<u64>() + MAC_BYTES;

impl Nonces {
    /// Creates nonces with a secret of this process only: those of another replica, and of this one before
    /// a restart, are answered with a new one.
    ///
    /// # Errors
    /// [`NonceError::NoRandomness`].
    pub fn random() -> Result<Self, NonceError> {
        let mut secret = [0; MIN_SECRET_BYTES];
        SystemRandom::new().fill(&mut secret).map_err(|_unspecified| NonceError::NoRandomness)?;
        let keys = vec![hmac::Key::new(hmac::HMAC_SHA256, &secret)];
        let secrets = Secrets { keys, digest: Thumbprint::of(&[]) };
        Ok(Self { file: None, secrets: ArcSwap::from_pointee(secrets) })
    }

    /// Creates nonces with the secrets of a file that replicas share.
    ///
    /// # Errors
    /// [`NonceError::Unreadable`] and [`NonceError::Malformed`].
    pub fn from_file(file: PathBuf) -> Result<Self, NonceError> {
        let secrets = Secrets::read(&file)?;
        Ok(Self { file: Some(file), secrets: ArcSwap::from_pointee(secrets) })
    }

    /// Reads the file again, and returns whether the secrets are others now. Blocks.
    ///
    /// # Errors
    /// As [`Self::from_file`]; the secrets stay as they are then.
    pub fn refresh(&self) -> Result<bool, NonceError> {
        let Some(file) = &self.file else { return Ok(false) };
        let secrets = Secrets::read(file)?;
        if secrets.digest == self.secrets.load().digest {
            return Ok(false);
        }
        self.secrets.store(Arc::new(secrets));
        Ok(true)
    }

    /// Makes a nonce for the client with this key; `None` without secrets, which is never.
    #[must_use]
    pub fn issue(&self, key: Thumbprint, now: UnixTime) -> Option<String> {
        let secrets = self.secrets.load();
        let time = now.as_secs().to_be_bytes();
        let mac = mac(secrets.keys.first()?, time, key);
        let nonce = [&time[..], mac.as_ref().get(..MAC_BYTES)?].concat();
        Some(URL_SAFE_NO_PAD.encode(nonce))
    }

    /// Returns when a nonce was made, if it is ours and for this key.
    #[must_use]
    pub fn issued(&self, nonce: &str, key: Thumbprint) -> Option<UnixTime> {
        let mut octets = [0; NONCE_BYTES];
        // Before it is decoded: what a client sends is up to kilobytes.
        if nonce.len() != NONCE_BYTES.div_ceil(3).saturating_mul(4) {
            return None;
        }
        let length = URL_SAFE_NO_PAD.decode_slice(nonce, &mut octets).ok()?;
        if length != NONCE_BYTES {
            return None;
        }
        let (time, given) = octets.split_first_chunk()?;
        let is_ours = self.secrets.load().keys.iter().any(|secret| {
            mac(secret, *time, key).as_ref().get(..MAC_BYTES).is_some_and(|own| {
                aws_lc_rs::constant_time::verify_slices_are_equal(own, given).is_ok()
            })
        });
        let seconds = u64::from_be_bytes(*time);
        is_ours.then(|| UnixTime::new(Duration::from_secs(seconds)))
    }
}

impl Secrets {
    fn read(file: &std::path::Path) -> Result<Self, NonceError> {
        let content = std::fs::read(file).map_err(NonceError::Unreadable)?;
        let text = str::from_utf8(&content).map_err(|_encoding| NonceError::Malformed)?;
        if content.len() > MAX_FILE_BYTES {
            return Err(NonceError::Malformed);
        }
        let keys = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| match URL_SAFE_NO_PAD.decode(line) {
                Ok(secret) if secret.len() >= MIN_SECRET_BYTES => {
                    Ok(hmac::Key::new(hmac::HMAC_SHA256, &secret))
                }
                Ok(_) | Err(_) => Err(NonceError::Malformed),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if !(1..=MAX_SECRETS).contains(&keys.len()) {
            return Err(NonceError::Malformed);
        }
        Ok(Self { keys, digest: Thumbprint::of(&content) })
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").field("file", &self.file).finish_non_exhaustive()
    }
}

fn mac(secret: &hmac::Key, time: [u8; 8], key: Thumbprint) -> hmac::Tag {
    let mut context = hmac::Context::with_key(secret);
    context.update(PURPOSE);
    context.update(&time);
    context.update(key.as_bytes());
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn file(lines: &[&str]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        file
    }

    fn secret(byte: u8) -> String {
        URL_SAFE_NO_PAD.encode([byte; 32])
    }

    #[test]
    fn a_nonce_is_known_to_its_makers_secrets_and_for_its_key_alone() {
        let (own, other) = (Thumbprint::of(b"own"), Thumbprint::of(b"other"));
        let nonces = Nonces::random().unwrap();
        let nonce = nonces.issue(own, NOW).unwrap();
        assert_eq!(nonces.issued(&nonce, own), Some(NOW));
        assert_eq!(nonces.issued(&nonce, other), None);
        assert_eq!(Nonces::random().unwrap().issued(&nonce, own), None);
        // RFC 9449 §8.1: NQCHAR.
        assert!(nonce.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)));
    }

    #[test]
    fn a_nonce_with_any_character_changed_is_not_ours() {
        let key = Thumbprint::of(b"own");
        let nonces = Nonces::random().unwrap();
        let nonce = nonces.issue(key, NOW).unwrap();
        for at in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(nonces.issued(&changed, key), None, "{at}");
        }
        for wrong in ["", "x", &format!("{nonce}A"), &format!("{nonce}="), &"é".repeat(16)] {
            assert_eq!(nonces.issued(wrong, key), None, "{wrong}");
        }
    }

    #[test]
    fn replicas_with_one_file_know_each_others_nonces_through_a_rotation() {
        let key = Thumbprint::of(b"own");
        let (old, new) = (secret(1), secret(2));
        let shared = file(&[&old]);
        let a = Nonces::from_file(shared.path().to_owned()).unwrap();
        let b = Nonces::from_file(shared.path().to_owned()).unwrap();
        let before = a.issue(key, NOW).unwrap();
        assert_eq!(b.issued(&before, key), Some(NOW));
        assert!(!a.refresh().unwrap(), "nothing changed");
        std::fs::write(shared.path(), format!("{new}\n{old}\n")).unwrap();
        assert!(a.refresh().unwrap() && b.refresh().unwrap());
        let after = a.issue(key, NOW).unwrap();
        assert_ne!(before, after);
        assert_eq!((b.issued(&before, key), b.issued(&after, key)), (Some(NOW), Some(NOW)));
        std::fs::write(shared.path(), format!("{new}\n")).unwrap();
        assert!(b.refresh().unwrap());
        assert_eq!((b.issued(&before, key), b.issued(&after, key)), (None, Some(NOW)));
    }

    #[test]
    fn a_file_that_is_no_good_is_refused_and_the_secrets_stay() {
        let key = Thumbprint::of(b"own");
        let good = secret(1);
        let shared = file(&[&good]);
        let nonces = Nonces::from_file(shared.path().to_owned()).unwrap();
        let nonce = nonces.issue(key, NOW).unwrap();
        let short = URL_SAFE_NO_PAD.encode([1; 31]);
        let many = [good.as_str(); MAX_SECRETS + 1].join("\n");
        for bad in ["", "\n", "?", &short, &format!("{good}\n{short}"), &format!("{good}="), &many]
        {
            std::fs::write(shared.path(), bad).unwrap();
            assert!(matches!(nonces.refresh(), Err(NonceError::Malformed)), "{bad}");
            assert_eq!(nonces.issued(&nonce, key), Some(NOW));
        }
        std::fs::remove_file(shared.path()).unwrap();
        assert!(matches!(nonces.refresh(), Err(NonceError::Unreadable(_))));
        assert_eq!(nonces.issued(&nonce, key), Some(NOW));
    }
}
