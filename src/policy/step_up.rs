//! How recently and how strongly the user must have authenticated (RFC 9470).

use std::time::Duration;

use crate::reason::Reason;

/// What a rule asks of the user's authentication. Also what a challenge says (RFC 9470 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepUp {
    /// Values of `acr`, one of which is required; `None` asks nothing. In the order of preference.
    pub acr: Option<Box<[Box<str>]>>,
    /// The longest time since the user authenticated.
    pub max_age: Option<Duration>,
}

impl StepUp {
    /// Says whether an authentication of this class (`acr`), `age` ago, is enough.
    ///
    /// Classes are compared byte by byte: none of them is known to be above another. What the token does
    /// not tell is not enough. An `auth_time` in the future never gets here: such a token is refused.
    ///
    /// # Errors
    /// [`Reason::AuthenticationTooWeak`] and [`Reason::AuthenticationTooOld`].
    pub(in crate::policy) fn accepts(
        &self,
        class: Option<&str>,
        age: Option<Duration>,
    ) -> Result<(), Reason> {
        if let Some(acr) = &self.acr
            && !class.is_some_and(|class| acr.iter().any(|wanted| **wanted == *class))
        {
            return Err(Reason::AuthenticationTooWeak);
        }
        if self.max_age.is_some_and(|max_age| age.is_none_or(|age| age > max_age)) {
            return Err(Reason::AuthenticationTooOld);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes.saturating_mul(60))
    }

    #[test]
    fn the_class_is_one_of_those_listed_byte_by_byte() {
        let step_up = StepUp { acr: Some(["gold".into(), "silver".into()].into()), max_age: None };
        assert_eq!(step_up.accepts(Some("gold"), None), Ok(()));
        assert_eq!(step_up.accepts(Some("silver"), None), Ok(()));
        for class in [None, Some(""), Some("Gold"), Some("platinum"), Some("gold silver")] {
            let refused = step_up.accepts(class, Some(Duration::ZERO));
            assert_eq!(refused, Err(Reason::AuthenticationTooWeak), "{class:?}");
        }
    }

    #[test]
    fn the_age_is_known_and_at_most_the_maximum() {
        let step_up = StepUp { acr: None, max_age: Some(minutes(15)) };
        let past = minutes(15).saturating_add(Duration::from_nanos(1));
        assert_eq!(step_up.accepts(None, Some(Duration::ZERO)), Ok(()));
        assert_eq!(step_up.accepts(None, Some(minutes(15))), Ok(()));
        for age in [None, Some(past), Some(Duration::MAX)] {
            assert_eq!(step_up.accepts(Some("gold"), age), Err(Reason::AuthenticationTooOld));
        }
    }

    #[test]
    fn both_must_hold_where_both_are_asked() {
        let step_up = StepUp { acr: Some(["gold".into()].into()), max_age: Some(minutes(1)) };
        assert_eq!(step_up.accepts(Some("gold"), Some(minutes(1))), Ok(()));
        assert_eq!(step_up.accepts(Some("x"), None), Err(Reason::AuthenticationTooWeak));
        assert_eq!(step_up.accepts(Some("gold"), None), Err(Reason::AuthenticationTooOld));
    }
}
