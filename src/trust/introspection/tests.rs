//! Asking an endpoint that answers, does not, or answers badly.

use std::{convert::Infallible, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use super::*;
use crate::{
    clock::ManualClock,
    config::OutboundSettings,
    credential::testing::{NOW, text},
};

/// The `authorization` header and the form of a question.
type Question = (Option<String>, String);

/// An endpoint. What it answers is set, or waits until it may.
#[derive(Clone)]
struct Endpoint {
    answer: Arc<Mutex<(u16, String)>>,
    may_answer: Arc<Semaphore>,
    asked: Arc<Mutex<Vec<Question>>>,
}

impl Endpoint {
    async fn start() -> (Self, SocketAddr) {
        let endpoint = Self {
            answer: Arc::new(Mutex::new((200, r#"{"active":true,"sub":"a"}"#.to_owned()))),
            may_answer: Arc::new(Semaphore::new(1 << 20)),
            asked: Arc::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = endpoint.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _peer) = listener.accept().await.unwrap();
                let endpoint = serving.clone();
                let service = service_fn(move |request| endpoint.clone().handle(request));
                let server = hyper::server::conn::http1::Builder::new();
                tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
            }
        });
        (endpoint, address)
    }

    async fn handle(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let name = request.headers().get("authorization");
        let name = name.map(|value| value.to_str().unwrap().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let form = String::from_utf8(body.to_vec()).unwrap();
        self.asked.lock().unwrap().push((name, form));
        self.may_answer.acquire().await.unwrap().forget();
        let (status, text) = self.answer.lock().unwrap().clone();
        let answer = Response::builder().status(status).header("location", "/elsewhere");
        Ok(answer.body(Full::from(text)).unwrap())
    }

    fn answers(&self, status: u16, text: impl Into<String>) {
        *self.answer.lock().unwrap() = (status, text.into());
    }

    fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

struct World {
    endpoint: Endpoint,
    clock: Arc<ManualClock>,
    introspector: Introspector,
    folder: tempfile::TempDir,
}

impl World {
    async fn start(authentication: ClientAuthentication) -> Self {
        let (endpoint, address) = Endpoint::start().await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("corp")).unwrap();
        std::fs::write(folder.path().join("corp/client-secret"), "s3cret!\n").unwrap();
        let clock = Arc::new(ManualClock::at(NOW.as_secs()));
        let introspector = introspector(
            &format!("http://{address}/introspect"),
            authentication,
            &folder,
            Arc::clone(&clock),
        );
        Self { endpoint, clock, introspector, folder }
    }

    async fn ask(&self, token: &str) -> Answer {
        match self.introspector.ask(token, Thumbprint::of(token.as_bytes())) {
            Asked::Known(told) => told.answer,
            Asked::Waits(introspection) => introspection.0.await.answer,
        }
    }
}

fn introspector(
    uri: &str,
    authentication: ClientAuthentication,
    folder: &tempfile::TempDir,
    clock: Arc<ManualClock>,
) -> Introspector {
    let outbound = OutboundSettings {
        credentials_dir: Some(folder.path().to_owned()),
        ..OutboundSettings::default()
    };
    let fetcher = Fetcher::new(&outbound).unwrap();
    let document = IntrospectionDocument {
        uri: text(uri),
        client_id: text("symbolon:1"),
        authentication,
        tokens: IntrospectedTokens::Opaque,
        cache_for: Duration::from_secs(30),
    };
    let who = (fetcher.at_issuer("corp"), fetcher.credentials("corp"));
    let issuer = ("corp", "https://login.example/");
    Introspector::new(document, issuer, who, clock, Handle::current())
}

fn is_active(answer: &Answer) -> bool {
    matches!(answer, Answer::Active(_))
}

#[tokio::test]
async fn an_active_token_is_told_with_its_claims() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    let Answer::Active(claims) = world.ask("opaque+/~x==").await else { panic!() };
    assert_eq!(claims["sub"], "a");
    let (name, form) = world.endpoint.asked.lock().unwrap()[0].clone();
    let pair = STANDARD.encode("symbolon%3A1:s3cret%21");
    assert_eq!(name.unwrap(), format!("Basic {pair}"));
    assert_eq!(form, "token=opaque%2B%2F%7Ex%3D%3D&token_type_hint=access%5Ftoken");
    assert_eq!(world.introspector.status().active, 1);
}

#[tokio::test]
async fn only_true_is_active_and_only_false_is_not() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.answers(200, r#"{"active":false}"#);
    assert!(matches!(world.ask("no").await, Answer::Inactive));
    for (token, status, text) in [
        ("a", 200, r#"{"active":"true"}"#),
        ("b", 200, r#"{"active":1}"#),
        ("c", 200, "{}"),
        ("d", 200, r#"{"active":true,"active":false}"#),
    ] {
        world.endpoint.answers(status, text);
        assert!(matches!(world.ask(token).await, Answer::Unavailable), "{text}");
    }
    assert_eq!(world.introspector.status().unavailable, 4);
}

#[tokio::test]
async fn what_is_no_answer_is_neither_and_is_named() {
    let large = format!(r#"{{"active":true,"x":"{}"}}"#, "x".repeat(MAX_ANSWER_BYTES));
    let deep = format!(r#"{{"active":true,"x":{}1{}}}"#, "[".repeat(100), "]".repeat(100));
    for (status, text, error) in [
        (302, "", "status 302"),
        (401, r#"{"error":"invalid_client"}"#, "status 401"),
        (500, r#"{"active":true}"#, "status 500"),
        (201, r#"{"active":true}"#, "status 201"),
        (200, "<html>", "boolean `active`"),
        (200, "eyJhbGciOiJFUzI1NiJ9.e30.x", "boolean `active`"),
        (200, &deep, "boolean `active`"),
        (200, &large, "longer than"),
    ] {
        let world = World::start(ClientAuthentication::ClientSecretBasic).await;
        world.endpoint.answers(status, text);
        assert!(matches!(world.ask("a").await, Answer::Unavailable), "{status} {text}");
        let told = world.introspector.status().last_error.unwrap();
        assert!(told.contains(error), "{told}");
        // It is no word on the token: asked again, it is active.
        world.endpoint.answers(200, r#"{"active":true}"#);
        assert!(is_active(&world.ask("a").await), "{status} {text}");
        assert_eq!(world.introspector.status().last_error, None);
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_unavailable() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("corp")).unwrap();
    std::fs::write(folder.path().join("corp/client-secret"), "x").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let clock = Arc::new(ManualClock::at(NOW.as_secs()));
    let secret = ClientAuthentication::ClientSecretBasic;
    let asking = introspector(&format!("http://{closed}/"), secret, &folder, clock);
    let Asked::Waits(waits) = asking.ask("a", Thumbprint::of(b"a")) else { panic!() };
    assert!(matches!(waits.0.await.answer, Answer::Unavailable));
    assert!(asking.status().last_error.unwrap().contains("no answer from the host"));
}

#[tokio::test]
async fn without_our_credentials_nobody_is_asked_and_the_file_is_named() {
    for (authentication, file) in [
        (ClientAuthentication::ClientSecretBasic, "corp/client-secret"),
        (ClientAuthentication::PrivateKeyJwt, "corp/client-key.pem"),
        (ClientAuthentication::TlsClientAuth, "corp/tls.crt"),
    ] {
        let world = World::start(authentication).await;
        std::fs::remove_file(world.folder.path().join("corp/client-secret")).unwrap();
        assert!(matches!(world.ask("a").await, Answer::Unavailable));
        let told = world.introspector.status().last_error.unwrap();
        assert!(told.contains(file), "{told}");
        assert_eq!(world.endpoint.count(), 0);
    }
}

#[tokio::test]
async fn by_private_key_jwt_the_form_holds_an_assertion_and_no_secret() {
    let world = World::start(ClientAuthentication::PrivateKeyJwt).await;
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(world.folder.path().join("corp/client-key.pem"), key.serialize_pem()).unwrap();
    assert!(is_active(&world.ask("a").await));
    let (name, form) = world.endpoint.asked.lock().unwrap()[0].clone();
    assert_eq!(name, None);
    assert!(form.contains("&client_assertion=eyJ"), "{form}");
    assert!(form.contains("client%2Dassertion%2Dtype%3Ajwt%2Dbearer"), "{form}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_checks_with_one_token_ask_once() {
    let world = Arc::new(World::start(ClientAuthentication::ClientSecretBasic).await);
    // Nothing is answered before all have asked.
    world.endpoint.may_answer.forget_permits(1 << 20);
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { world.introspector.ask("a", Thumbprint::of(b"a")) })
        })
        .collect();
    let mut waiting = Vec::new();
    for task in asking {
        let Asked::Waits(introspection) = task.await.unwrap() else { panic!("not asked") };
        waiting.push(introspection.0);
    }
    world.endpoint.may_answer.add_permits(1);
    for answer in waiting {
        assert!(is_active(&answer.await.answer));
    }
    assert_eq!(world.endpoint.count(), 1);
}

#[tokio::test]
async fn questions_under_way_are_bounded_and_others_are_not_held_up() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.may_answer.forget_permits(1 << 20);
    let ask = |number: usize| {
        world.introspector.ask(&number.to_string(), Thumbprint::of(&number.to_be_bytes()))
    };
    let waiting: Vec<_> = (0..MAX_IN_FLIGHT).map(ask).collect();
    assert!(waiting.iter().all(|asked| matches!(asked, Asked::Waits(_))));
    let Asked::Known(told) = ask(MAX_IN_FLIGHT) else { panic!("one too many is asked") };
    assert!(matches!(told.answer, Answer::Unavailable));
    world.endpoint.may_answer.add_permits(MAX_IN_FLIGHT);
    for asked in waiting {
        let Asked::Waits(introspection) = asked else { panic!() };
        assert!(is_active(&introspection.0.await.answer));
    }
    world.endpoint.may_answer.add_permits(1);
    let Asked::Waits(introspection) = ask(MAX_IN_FLIGHT) else { panic!("there is room again") };
    assert!(is_active(&introspection.0.await.answer));
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_asked_again_by_itself() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.answers(500, "");
    for number in 0..5 {
        assert!(matches!(world.ask(&number.to_string()).await, Answer::Unavailable));
    }
    assert!(world.introspector.status().paused);
    assert!(matches!(world.ask("x").await, Answer::Unavailable));
    assert_eq!(world.endpoint.count(), 5, "it is left alone");
    world.endpoint.answers(200, r#"{"active":true}"#);
    let healed = async {
        while !is_active(&world.ask("x").await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), healed).await.unwrap();
    assert!(!world.introspector.status().paused);
}

#[tokio::test]
async fn tokens_that_the_endpoint_will_not_read_do_not_stop_others() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.answers(400, "");
    for number in 0..20 {
        assert!(matches!(world.ask(&number.to_string()).await, Answer::Unavailable));
    }
    world.endpoint.answers(200, r#"{"active":true}"#);
    assert!(is_active(&world.ask("good").await));
}

#[tokio::test]
async fn that_a_token_is_not_active_is_remembered_for_a_short_time() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.answers(200, r#"{"active":false}"#);
    for _ in 0..3 {
        assert!(matches!(world.ask("a").await, Answer::Inactive));
    }
    assert_eq!(world.endpoint.count(), 1);
    world.clock.advance(INACTIVE_FOR);
    world.endpoint.answers(200, r#"{"active":true}"#);
    assert!(is_active(&world.ask("a").await));
}

#[tokio::test]
async fn a_check_that_gives_up_waiting_leaves_the_question_to_others() {
    let world = World::start(ClientAuthentication::ClientSecretBasic).await;
    world.endpoint.may_answer.forget_permits(1 << 20);
    drop(world.introspector.ask("a", Thumbprint::of(b"a")));
    let Asked::Waits(other) = world.introspector.ask("a", Thumbprint::of(b"a")) else { panic!() };
    world.endpoint.may_answer.add_permits(1);
    assert!(is_active(&other.0.await.answer));
    assert_eq!(world.endpoint.count(), 1);
}

#[test]
fn an_answer_is_about_one_token_by_one_endpoint() {
    let told = Introspected {
        answer: Answer::Inactive,
        asked: NOW,
        token: Thumbprint::of(b"a"),
        version: 7,
    };
    assert!(told.is_about(Thumbprint::of(b"a"), 7));
    assert!(!told.is_about(Thumbprint::of(b"b"), 7) && !told.is_about(Thumbprint::of(b"a"), 8));
}

#[test]
fn the_text_of_an_answer_is_read_strictly() {
    let is_active = |text: serde_json::Value| read(text.to_string().as_bytes());
    assert!(matches!(is_active(json!({"active": true})), Ok(Some(_))));
    assert!(matches!(is_active(json!({"active": false})), Ok(None)));
    for wrong in [json!({"active": "true"}), json!({"active": null}), json!([true])] {
        assert!(is_active(wrong).is_err());
    }
}

#[test]
fn the_log_is_told_what_is_new_and_not_again_and_again() {
    let start = Instant::now();
    let mut state = State::default();
    let (one, other) = ("one".to_owned(), "other".to_owned());
    assert!(!state.is_news(None, start));
    assert!(state.is_news(Some(&one), start));
    assert!(!state.is_news(Some(&one), start + BETWEEN_TOLD));
    assert!(state.is_news(Some(&other), start + BETWEEN_TOLD));
    assert!(!state.is_news(None, start + BETWEEN_TOLD), "too soon");
    assert_eq!(state.last_error, None);
    assert!(state.is_news(None, start + 2 * BETWEEN_TOLD), "what lasts is told");
}
