//! The name of one decision.

use std::{
    cell::Cell,
    fmt,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::{Serialize, Serializer};

/// The name of one decision: 32 hexadecimal digits, unique in a process and, by chance, among all.
///
/// Clients see it. It tells them neither how many checks there are nor which came first, unless they
/// work the mixing back; it is no secret and authorizes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId([u8; 32]);

impl DecisionId {
    /// Returns the next id. Takes no lock, and threads share nothing but a counter of blocks.
    #[must_use]
    pub fn next() -> Self {
        let keys = &*KEYS;
        let mixed = keys.mix(NEXT.with(|next| {
            let mut number = next.get();
            if number.is_multiple_of(BLOCK) {
                number = BLOCKS.fetch_add(1, Ordering::Relaxed).wrapping_mul(BLOCK);
            }
            // The last of a block makes a multiple: the next call takes another block.
            next.set(number.wrapping_add(1));
            number
        }));
        let mut text = [0; 32];
        let nibbles = [keys.process, mixed].into_iter().flat_map(u64::to_be_bytes);
        let digits = nibbles.flat_map(|byte| [byte >> 4, byte & 15]);
        for (place, digit) in text.iter_mut().zip(digits) {
            *place = HEX.get(usize::from(digit)).copied().unwrap_or_default();
        }
        Self(text)
    }

    /// Returns the id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // It is made of hexadecimal digits only.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DecisionId({self})")
    }
}

impl Serialize for DecisionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

struct Keys {
    process: u64,
    before: u64,
    after: u64,
}

impl Keys {
    /// Maps numbers to numbers, no two to the same: each step can be undone.
    const fn mix(&self, number: u64) -> u64 {
        let mut x = number ^ self.before;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(self.after);
        x = (x ^ (x >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^ (x >> 29)
    }
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let [process, before, after] = rand::random();
    Keys { process, before, after }
});

/// Numbers that a thread takes at once: so many that the shared counter is rarely touched.
const BLOCK: u64 = 1 << 16;

static BLOCKS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, thread};

    use super::{BLOCK, DecisionId};

    #[test]
    fn ids_are_32_hexadecimal_digits_and_never_the_same() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(|| (0..BLOCK + 10).map(|_| DecisionId::next()).collect::<Vec<_>>())
            })
            .collect();
        let ids: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        assert!(ids.iter().all(|id| id.as_str().bytes().all(|b| b"0123456789abcdef".contains(&b))));
        let number = ids.len();
        assert_eq!(ids.into_iter().collect::<HashSet<_>>().len(), number);
    }

    #[test]
    fn one_id_does_not_show_the_next() {
        let (one, two) = (DecisionId::next(), DecisionId::next());
        let of = |id: &DecisionId| u64::from_str_radix(id.as_str().get(16..).unwrap(), 16).unwrap();
        assert!((of(&one) ^ of(&two)).count_ones() > 8, "{one} {two}");
    }
}
