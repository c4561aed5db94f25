//! The bounds of the cache and what is no hit.

use serde_json::{Value, json};

use super::*;
use crate::credential::{
    claims::Required,
    testing::{NOW, Signer, claims_with, document, issuer_of},
};

fn token_with(name: &str, value: Value) -> Arc<AccessToken> {
    let Value::Object(claims) = claims_with(name, Some(value)) else { panic!() };
    Arc::new(AccessToken::read("corp".into(), &document(), claims, Required::Jwt).unwrap().0)
}

fn kept(issuer: &Issuer, version: u64, token: Arc<AccessToken>) -> Kept {
    Kept { token, iss: Arc::clone(issuer.shared_identifier()), version, until: None }
}

#[test]
fn the_number_of_entries_is_bounded() {
    let issuer = issuer_of(document(), &[&Signer::es256("k")]);
    let cache = TokenCache::new(100);
    let token = token_with("x", json!(1));
    for number in 0..1_000 {
        cache.keep(TokenCache::key(&number.to_string()), kept(&issuer, 1, Arc::clone(&token)));
    }
    assert!((1..=100).contains(&cache.len()), "{}", cache.len());
}

#[test]
fn the_bytes_of_entries_are_bounded_too() {
    let issuer = issuer_of(document(), &[&Signer::es256("k")]);
    let cache = TokenCache::new(1_000);
    let heavy = token_with("x", json!(vec![0; 4_000]));
    let weight = heavy.weight();
    for number in 0..1_000 {
        cache.keep(TokenCache::key(&number.to_string()), kept(&issuer, 1, Arc::clone(&heavy)));
    }
    assert!(cache.len() * weight <= 1_000 * 4096, "{} of {weight}", cache.len());
}

#[test]
fn an_entry_of_another_key_version_or_an_issuer_that_is_gone_is_no_hit() {
    let issuer = issuer_of(document(), &[&Signer::es256("k")]);
    let version = issuer.key_version(NOW).unwrap();
    let issuers = Issuers::from(vec![Arc::clone(&issuer)]);
    let cache = TokenCache::new(10);
    let key = TokenCache::key("token");
    assert!(cache.find(key, &issuers, NOW).is_none());
    cache.keep(key, kept(&issuer, version, token_with("x", json!(1))));
    assert!(cache.find(key, &issuers, NOW).is_some());
    assert!(cache.find(key, &Issuers::default(), NOW).is_none());
    cache.keep(key, kept(&issuer, version + 1, token_with("x", json!(1))));
    assert!(cache.find(key, &issuers, NOW).is_none());
    assert_eq!((cache.hits(), cache.misses()), (1, 3));
    cache.forget(key);
    assert!(cache.is_empty());
}
