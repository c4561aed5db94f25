//! Whether the scopes of a token are those that a rule asks for, in the grammar of the token's issuer.
//!
//! Most issuers' scopes mean nothing but themselves. Those of SMART App Launch 2 (`system/Observation.rs`,
//! <https://hl7.org/fhir/smart-app-launch/STU2.2/scopes-and-launch-context.html>) imply one another:
//! `system/*.cruds` is more than `system/Observation.rs`.

/// How the scopes of an issuer are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ScopeGrammar {
    /// `exact`: byte by byte.
    #[default]
    Exact,
    /// `smart-on-fhir`: scopes for FHIR resources imply one another, all others (`openid`, `launch/patient`)
    /// are exact.
    SmartOnFhir,
}

impl ScopeGrammar {
    /// Reads a scope that implies others; `None` where it means nothing but itself.
    fn smart(self, scope: &str) -> Option<SmartScope<'_>> {
        match self {
            Self::Exact => None,
            Self::SmartOnFhir => SmartScope::parse(scope),
        }
    }
}

/// Says whether `held` is enough for `required`: what an allow rule asks.
///
/// A SMART scope is held where every permission of it is, be it by several scopes: `.r` beside `.s` is `.rs`.
/// A scope restricted by a query (`?category=…`) counts only towards that very query, compared byte by
/// byte, as nothing here sees which resources an answer holds; an unrestricted one counts towards each.
/// `patient`, `user` and `system` never stand for one another.
#[must_use]
pub fn satisfies<'h>(
    grammar: ScopeGrammar,
    held: impl IntoIterator<Item = &'h str>,
    required: &str,
) -> bool {
    let mut held = held.into_iter();
    let Some(required) = grammar.smart(required) else {
        return held.any(|held| held == required);
    };
    let mut missing = required.permissions;
    held.filter_map(SmartScope::parse).filter(|held| held.covers_resources_of(&required)).any(
        |held| {
            missing = missing.without(held.permissions);
            missing == Permissions::default()
        },
    )
}

/// Says whether `held` has anything to do with `named`: what a deny rule asks.
///
/// A SMART scope overlaps another where there may be a resource and a permission that both are about, with
/// or without a query. One that starts like a SMART scope of the same kind and cannot be read overlaps too:
/// what it means to the service behind is not known.
#[must_use]
pub fn overlaps<'h>(
    grammar: ScopeGrammar,
    held: impl IntoIterator<Item = &'h str>,
    named: &str,
) -> bool {
    let mut held = held.into_iter();
    let Some(smart) = grammar.smart(named) else {
        return held.any(|held| held == named);
    };
    held.any(|held| match SmartScope::parse(held) {
        Some(held) => held.overlaps(&smart),
        None => context(held).is_some_and(|(context, _)| context == smart.context),
    })
}

/// Says whether `scope` starts like a scope for FHIR resources and cannot be read as one: a mistake where
/// the grammar is SMART's.
#[must_use]
pub fn is_malformed_smart(scope: &str) -> bool {
    context(scope).is_some() && SmartScope::parse(scope).is_none()
}

/// Whose resources a scope is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Context {
    Patient,
    User,
    System,
}

/// Splits a scope for FHIR resources into its kind and what follows.
fn context(scope: &str) -> Option<(Context, &str)> {
    let (context, rest) = scope.split_once('/')?;
    let context = match context {
        "patient" => Context::Patient,
        "user" => Context::User,
        "system" => Context::System,
        _ => return None,
    };
    Some((context, rest))
}

/// Some of create, read, update, delete and search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Permissions(u8);

impl Permissions {
    /// In the order in which a scope must have them.
    const LETTERS: &'static [u8; 5] = b"cruds";

    /// Reads `cruds` or a part of it, in this order, or a word of version 1: `read` is `rs`, `write` is
    /// `cud`, `*` is all.
    fn parse(text: &str) -> Option<Self> {
        let letters = match text {
            "read" => "rs",
            "write" => "cud",
            "*" => "cruds",
            "" => return None,
            letters => letters,
        };
        let mut wanted = letters.bytes().peekable();
        let mut bits = 0;
        for (place, letter) in Self::LETTERS.iter().enumerate() {
            if wanted.next_if_eq(letter).is_some() {
                bits |= 1_u8 << place;
            }
        }
        // What is left is unknown, out of order or there twice.
        wanted.next().is_none().then_some(Self(bits))
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// A scope for FHIR resources: `system/Observation.rs?category=laboratory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SmartScope<'s> {
    context: Context,
    /// The type of resource; `None` for `*`.
    resource: Option<&'s str>,
    permissions: Permissions,
    /// What restricts it further, as it stands.
    query: Option<&'s str>,
}

impl<'s> SmartScope<'s> {
    fn parse(scope: &'s str) -> Option<Self> {
        let (context, rest) = context(scope)?;
        let (rest, query) = match rest.split_once('?') {
            // An empty query restricts nothing, or is a mistake.
            Some((_, "")) => return None,
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (resource, permissions) = rest.split_once('.')?;
        let resource = match resource {
            "*" => None,
            // FHIR's types, `Observation` and the like: exact, as they are in URLs.
            name if is_resource(name) => Some(name),
            _ => return None,
        };
        Some(Self { context, resource, permissions: Permissions::parse(permissions)?, query })
    }

    /// Says whether every resource that `required` is about is one of this scope's.
    fn covers_resources_of(&self, required: &Self) -> bool {
        self.context == required.context
            && (self.resource.is_none() || self.resource == required.resource)
            && (self.query.is_none() || self.query == required.query)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let resources = match (self.resource, other.resource) {
            (Some(one), Some(other)) => one == other,
            (None, _) | (_, None) => true,
        };
        self.context == other.context && resources && self.permissions.intersects(other.permissions)
    }
}

fn is_resource(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests;
