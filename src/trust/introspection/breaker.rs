//! When somebody who does not answer is asked again.

use std::time::Duration;

use tokio::time::Instant;

/// So many questions in a row without an answer are no accident.
const FAILURES: u32 = 5;
/// The first pause; doubled with each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// One that heals is noticed within this.
const LAST_PAUSE: Duration = Duration::from_secs(10);

/// Closed while questions are answered; open for a while after several in a row were not. Then one is asked,
/// and its answer closes it.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
    /// Whether the one question after a pause is under way.
    probing: bool,
}

impl Breaker {
    /// Says whether a question may be asked now; it then has to end in one of the other three.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        match self.open_until {
            None => true,
            Some(until) if now < until || self.probing => false,
            Some(_) => {
                self.probing = true;
                true
            }
        }
    }

    pub(super) fn answered(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.probing = false;
        self.failures = self.failures.saturating_add(1);
        let Some(further) = self.failures.checked_sub(FAILURES) else { return };
        // Far fewer doublings than 16 reach the last pause.
        let factor = 2_u32.saturating_pow(further.min(16));
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LAST_PAUSE);
        self.open_until = now.checked_add(pause);
    }

    /// A question ended in a way that says nothing about others.
    pub(super) const fn refused(&mut self) {
        self.probing = false;
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_answer_closes_it() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 1..FAILURES {
            assert!(breaker.admits(start));
            breaker.failed(start);
        }
        breaker.answered();
        for _ in 0..FAILURES {
            assert!(breaker.admits(start));
            breaker.failed(start);
        }
        assert!(breaker.is_open());
        assert!(!breaker.admits(start));
        let later = start + FIRST_PAUSE;
        assert!(breaker.admits(later), "one is asked");
        assert!(!breaker.admits(later), "and no other");
        breaker.refused();
        assert!(breaker.admits(later), "it said nothing, so another one is asked");
        breaker.failed(later);
        assert!(!breaker.admits(later + FIRST_PAUSE), "the pause has doubled");
        let later = later + LAST_PAUSE;
        assert!(breaker.admits(later));
        breaker.answered();
        assert!(!breaker.is_open());
        assert!(breaker.admits(later));
    }
}
