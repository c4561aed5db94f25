//! RSA moduli of a generator known as broken (CVE-2017-15361, "ROCA"): they can be factored.

/// Says whether the modulus `n` (big-endian) has the mark of that generator: modulo each of many small
/// primes it is a power of 65537. A sound key has the mark by chance about once in 2^28.
#[must_use]
pub(super) fn is_suspect(n: &[u8]) -> bool {
    PRIMES.iter().all(|&prime| {
        let residue = n.iter().fold(0, |rest: u32, &byte| {
            modulo(rest.wrapping_mul(256).wrapping_add(byte.into()), prime)
        });
        is_power_of_generator(residue, prime)
    })
}

fn is_power_of_generator(residue: u32, prime: u32) -> bool {
    let mut power = 1;
    for _ in 0..prime {
        if power == residue {
            return true;
        }
        power = modulo(power.wrapping_mul(65537), prime);
    }
    false
}

/// `value` modulo `prime`; nothing wraps before it, as all values stay under 2^24.
fn modulo(value: u32, prime: u32) -> u32 {
    value.checked_rem(prime).unwrap_or(0)
}

/// Those small primes of which 65537 does not generate every residue.
const PRIMES: [u32; 17] =
    [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_of_the_generator_has_the_mark() {
        // 65537, and 65537 squared.
        assert!(is_suspect(&[1, 0, 1]));
        assert!(is_suspect(&[1, 0, 2, 0, 1]));
    }

    #[test]
    fn other_numbers_have_not() {
        for sound in [&[2][..], &[1, 0, 3], &[0xc0, 0xff, 0xee, 0x01]] {
            assert!(!is_suspect(sound), "{sound:?}");
        }
    }
}
