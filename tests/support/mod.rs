//! What the tests that run the built program share.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]
#![allow(missing_docs, reason = "tests are their own documentation")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that cannot go on fails, and says why"
)]

use std::{
    path::{Path, PathBuf},
    sync::{LazyLock, OnceLock},
};

use symbolon::cli::demo::{
    calls::bearer_call,
    client::{Answer, Call},
    fetch,
    scenario::Scenario,
    stage::Stage,
};

/// The program under test: the one built with the tests, or another, such as the one that is shipped.
#[expect(clippy::disallowed_methods, reason = "no setting of the program: it tells which program")]
pub fn symbolon() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        std::env::var_os("TESTED_SYMBOLON")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_symbolon").into())
            .into()
    });
    &PROGRAM
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A real Envoy. A test that needs one fails where there is none.
pub async fn envoy() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    if let Some(binary) = BINARY.get() {
        return binary.clone();
    }
    let found = fetch::envoy(None, fetch::cache(None), |text| eprintln!("{text}")).await;
    BINARY.get_or_init(|| found.expect("these tests need a real Envoy")).clone()
}

/// A real Envoy with symbolon behind it, on the example policies.
pub struct World {
    pub stage: Stage,
    pub scenario: Scenario,
}

impl World {
    /// Starts everything on the shipped Envoy configuration.
    pub async fn start() -> Self {
        Self::start_with(|configuration| configuration).await
    }

    /// Starts everything on an Envoy configuration changed by `change`.
    pub async fn start_with(change: impl FnOnce(String) -> String) -> Self {
        let scenario = Scenario::shipped().unwrap();
        let stage = Stage::start_with(symbolon(), &envoy().await, &scenario, change).await.unwrap();
        symbolon::cli::demo::calls::wait_for_keys(&stage, &scenario).await.unwrap();
        Self { stage, scenario }
    }

    /// Calls as `who` with a token, and `headers` beside it.
    pub async fn call(&self, who: Option<&str>, token: &str, headers: &[(&str, &str)]) -> Seen {
        let token = self.stage.token(&self.scenario, token).unwrap();
        let mut call = bearer_call(&token, &next_user_agent());
        call.headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        self.send(who, &call).await
    }

    /// Makes one call and finds out why it was answered as it was.
    pub async fn send(&self, who: Option<&str>, call: &Call) -> Seen {
        let answer = self.stage.client(who).unwrap().call(call).await.unwrap();
        let (_, user_agent) =
            call.headers.iter().find(|(name, _)| name == "user-agent").expect("calls are named");
        let access = self.stage.envoy.access(user_agent).await.unwrap();
        let reason = match access.decision_id() {
            Some(id) => Some(self.stage.authorizer.record(id).await.unwrap().reason),
            None => None,
        };
        Seen { status: answer.status, reason, details: access.details, answer }
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    /// From the decision record; none where symbolon did not decide.
    pub reason: Option<String>,
    /// Envoy's own word for who answered.
    pub details: Option<String>,
    pub answer: Answer,
}

impl Seen {
    /// Asserts the reason and the status that clients see.
    #[track_caller]
    pub fn is(&self, reason: &str, status: u16) {
        assert_eq!((self.reason.as_deref(), self.status), (Some(reason), status), "{self:?}");
    }
}

/// A name for a call in Envoy's access log.
pub fn next_user_agent() -> String {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("symbolon-test/{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
