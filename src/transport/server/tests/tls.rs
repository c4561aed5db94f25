//! TLS and callers.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{clock::ManualClock, config::TlsSettings};

const GATEWAY: &str = "spiffe://prod.example/ns/istio/sa/gateway";

type Authority = CertifiedIssuer<'static, KeyPair>;

/// A directory with certificates, and the authority that signs the callers'.
struct Pki {
    dir: TempDir,
    authority: Authority,
}

struct Pair {
    cert: rcgen::Certificate,
    key: KeyPair,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn sign(authority: &Authority, names: Vec<SanType>) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    Pair { cert: params.signed_by(&key, authority).unwrap(), key }
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

impl Pki {
    fn new() -> Self {
        let pki = Self { dir: tempfile::tempdir().unwrap(), authority: authority() };
        fs::write(pki.path("ca.pem"), pki.authority.pem()).unwrap();
        pki.write_server(&pki.server());
        pki
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> Pair {
        sign(&self.authority, vec![SanType::DnsName("localhost".try_into().unwrap())])
    }

    fn write_server(&self, pair: &Pair) {
        fs::write(self.path("tls.crt"), pair.cert.pem()).unwrap();
        fs::write(self.path("tls.key"), pair.key.serialize_pem()).unwrap();
    }

    fn settings(&self) -> TlsSettings {
        TlsSettings {
            cert_file: self.path("tls.crt"),
            key_file: self.path("tls.key"),
            client_ca_file: Some(self.path("ca.pem")),
            allowed_callers: vec![GATEWAY.to_owned()],
        }
    }

    fn tls(&self) -> Arc<Tls> {
        let rule: CallerRule = Arc::new(|id| id.as_str() == GATEWAY);
        Arc::new(Tls::load(self.settings(), rule).unwrap())
    }

    async fn start(&self) -> Under {
        start(settings(), Some(self.tls())).await
    }

    /// Connects with `pair`; returns the client and the server's certificate.
    async fn connect(
        &self,
        under: &Under,
        pair: Option<&Pair>,
    ) -> io::Result<(Client, CertificateDer<'static>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            Some(pair) => {
                let key = PrivateKeyDer::try_from(pair.key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![pair.cert.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(under.address()).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let server = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
        Ok((client(stream).await, server))
    }

    /// Asserts that a caller with `pair` gets no answer.
    async fn assert_refused(&self, under: &Under, pair: Option<&Pair>) {
        // TLS 1.3 lets a client believe that the handshake is done before the server has looked at it.
        if let Ok((mut client, _)) = self.connect(under, pair).await {
            client.check("").await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn allowed_caller_passes_with_its_id() {
    let pki = Pki::new();
    let under = pki.start().await;
    let gateway = sign(&pki.authority, vec![uri(GATEWAY)]);
    let (mut client, _) = pki.connect(&under, Some(&gateway)).await.unwrap();
    assert_eq!(client.check("").await.unwrap().header("x-caller"), GATEWAY);
}

#[tokio::test]
async fn callers_whom_nobody_listed_are_refused_and_counted() {
    let pki = Pki::new();
    let under = pki.start().await;
    let refused = [
        vec![uri("spiffe://prod.example/ns/shop/sa/web")],
        vec![uri("https://prod.example/")],
        vec![uri(GATEWAY), uri(GATEWAY)],
        vec![SanType::DnsName("gateway.example".try_into().unwrap())],
    ];
    for (number, names) in (1_u64..).zip(refused) {
        let pair = sign(&pki.authority, names);
        pki.assert_refused(&under, Some(&pair)).await;
        under.assert_refused(Refused::Caller, number).await;
    }
}

#[tokio::test]
async fn without_a_list_the_authority_alone_admits() {
    let pki = Pki::new();
    let settings = TlsSettings { allowed_callers: Vec::new(), ..pki.settings() };
    let tls = Arc::new(Tls::load(settings, Arc::new(|_| false)).unwrap());
    let under = start(self::settings(), Some(tls)).await;
    let dns = SanType::DnsName("gateway.example".try_into().unwrap());
    for (names, caller) in [(vec![uri(GATEWAY)], GATEWAY), (vec![dns], "nobody")] {
        let pair = sign(&pki.authority, names);
        let (mut client, _) = pki.connect(&under, Some(&pair)).await.unwrap();
        assert_eq!(client.check("").await.unwrap().header("x-caller"), caller);
    }
    pki.assert_refused(&under, None).await;
    under.assert_refused(Refused::Tls, 1).await;
}

#[tokio::test]
async fn connection_ends_with_its_callers_certificate() {
    let pki = Pki::new();
    let gateway = sign(&pki.authority, vec![uri(GATEWAY)]);
    // Our clock stands long after the certificate's end; the handshake goes by the system's.
    let clock = Arc::new(ManualClock::at(1 << 40));
    let under = start_at(settings(), Some(pki.tls()), clock).await;
    let (client, _) = pki.connect(&under, Some(&gateway)).await.unwrap();
    timeout(Duration::from_secs(60), client.connection).await.expect("ended").unwrap().unwrap();
}

#[tokio::test]
async fn callers_without_a_certificate_of_the_authority_fail_the_handshake() {
    let pki = Pki::new();
    let under = pki.start().await;
    pki.assert_refused(&under, None).await;
    under.assert_refused(Refused::Tls, 1).await;
    let stranger = sign(&authority(), vec![uri(GATEWAY)]);
    pki.assert_refused(&under, Some(&stranger)).await;
    under.assert_refused(Refused::Tls, 2).await;
    under.assert_refused(Refused::Caller, 0).await;
}

#[tokio::test]
async fn plaintext_to_a_tls_listener_fails_the_handshake() {
    let pki = Pki::new();
    let under = pki.start().await;
    under.connect().await.check("").await.unwrap_err();
    under.assert_refused(Refused::Tls, 1).await;
}

#[tokio::test]
async fn rotated_certificate_is_used_and_a_broken_one_keeps_the_old() {
    let pki = Pki::new();
    let tls = pki.tls();
    let under = start(settings(), Some(Arc::clone(&tls))).await;
    let gateway = sign(&pki.authority, vec![uri(GATEWAY)]);
    let (mut old_client, old) = pki.connect(&under, Some(&gateway)).await.unwrap();
    assert_eq!(tls.refresh().unwrap(), Refreshed::Unchanged);

    let next = pki.server();
    pki.write_server(&next);
    assert_eq!(tls.refresh().unwrap(), Refreshed::Replaced);
    let (_, served) = pki.connect(&under, Some(&gateway)).await.unwrap();
    assert_eq!(&served, next.cert.der());
    assert_ne!(served, old);
    old_client.check("").await.unwrap();

    // Half of a rotation: the key is not yet the certificate's.
    fs::write(pki.path("tls.crt"), pki.server().cert.pem()).unwrap();
    assert!(matches!(tls.refresh(), Err(TlsError::Pair { .. })));
    assert_eq!(tls.refresh().unwrap(), Refreshed::Unchanged, "reported once");
    let (_, served) = pki.connect(&under, Some(&gateway)).await.unwrap();
    assert_eq!(&served, next.cert.der());

    fs::remove_file(pki.path("ca.pem")).unwrap();
    assert!(matches!(tls.refresh(), Err(TlsError::Read { .. })));
}

#[tokio::test]
async fn caller_of_a_replaced_authority_is_refused() {
    let pki = Pki::new();
    let tls = pki.tls();
    let under = start(settings(), Some(Arc::clone(&tls))).await;
    fs::write(pki.path("ca.pem"), authority().pem()).unwrap();
    assert_eq!(tls.refresh().unwrap(), Refreshed::Replaced);
    pki.assert_refused(&under, Some(&sign(&pki.authority, vec![uri(GATEWAY)]))).await;
    under.assert_refused(Refused::Tls, 1).await;
}

#[test]
fn listed_callers_without_an_authority_do_not_load() {
    let pki = Pki::new();
    let settings = TlsSettings { client_ca_file: None, ..pki.settings() };
    let loaded = Tls::load(settings, Arc::new(|_| true));
    assert!(matches!(loaded, Err(TlsError::CallersWithoutCa)), "{loaded:?}");
}

#[test]
fn file_without_pem_does_not_load() {
    let pki = Pki::new();
    fs::write(pki.path("tls.crt"), "no certificate").unwrap();
    let loaded = Tls::load(pki.settings(), Arc::new(|_| true));
    assert!(matches!(loaded, Err(TlsError::Pem { what: "certificate", .. })), "{loaded:?}");
}
