//! Listeners with TLS.

use std::path::Path;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::tls::{
    server::{Files, Found},
    testing::Authority,
};

/// A listener with TLS, and the authority of its certificate.
pub(super) struct Secured {
    pub(super) running: Running,
    pub(super) authority: Authority,
    certificates: Arc<Certificates>,
    folder: tempfile::TempDir,
}

impl Secured {
    pub(super) async fn start(limits: server::Limits, router: Router) -> Self {
        Self::start_for(|_, files| files, limits, router).await
    }

    async fn start_for(
        change: impl FnOnce(&Path, Files) -> Files,
        limits: server::Limits,
        router: Router,
    ) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let files = change(folder.path(), authority.write_pair(folder.path()));
        let certificates = Arc::new(Certificates::read("api.tls", files).unwrap());
        let running = Running::start_with(Some(certificates.clone()), limits, router).await;
        Self { running, authority, certificates, folder }
    }

    /// Connects and sets TLS up, with these protocols and this certificate of the client.
    pub(super) async fn connect(
        &self,
        protocols: &[&[u8]],
        identity: Option<&(String, String)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = client(&self.authority, protocols, identity);
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, self.running.connect().await).await
    }
}

fn client(
    authority: &Authority,
    protocols: &[&[u8]],
    identity: Option<&(String, String)>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config
}

/// Returns the certificate that the server has shown.
fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn requests_are_answered_over_tls() {
    let mut secured = Secured::start(limits(), scripted()).await;
    let http1: [&[u8]; 1] = [b"http/1.1"];
    for protocols in [&[][..], &http1[..]] {
        let mut stream = secured.connect(protocols, None).await.unwrap();
        for _ in 0..2 {
            assert!(ask_nothing(&mut stream).await.starts_with("HTTP/1.1 404 "));
        }
        stream.write_all(b"GET /a`b HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(read_all(&mut stream).await.contains("/malformed-request"));
    }
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn an_answer_larger_than_buffers_comes_over_tls() {
    let bytes = 4 * 1_024 * 1_024;
    let router = Router::new().fallback(move || async move { "x".repeat(bytes) });
    let mut secured = Secured::start(limits(), router).await;
    let mut stream = secured.connect(&[], None).await.unwrap();
    let reply = ask_nothing(&mut stream).await;
    assert!(reply.len() > bytes && reply.ends_with('x'));
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn an_answer_over_tls_that_is_not_read_ends() {
    let router = Router::new().fallback(|| async { "x".repeat(32 * 1_024 * 1_024) });
    let limits = server::Limits { unread_time: Duration::from_millis(50), ..limits() };
    let limits = server::Limits { drain_time: PATIENCE * 10, ..limits.with_answers(1 << 26) };
    let mut secured = Secured::start(limits, router).await;
    let mut stream = secured.connect(&[], None).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: coupond\r\n\r\n").await.unwrap();
    stream.read_exact(&mut [0; 4_096]).await.unwrap();
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn plain_http_on_a_port_with_tls_gets_400() {
    let mut secured = Secured::start(limits(), scripted()).await;
    let mut stream = secured.running.connect().await;
    stream.write_all(POST.as_bytes()).await.unwrap();
    let reply = read_all(&mut stream).await;
    assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("https://"), "{reply}");
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_closed() {
    let handshake_time = Duration::from_millis(50);
    let limits = server::Limits { handshake_time, ..limits() };
    let mut secured = Secured::start(limits, scripted()).await;
    let mut silent = secured.running.connect().await;
    let mut half = secured.running.connect().await;
    half.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    assert_eq!(read_all(&mut silent).await, "");
    assert_eq!(read_all(&mut half).await, "");
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn a_handshake_counts_as_a_connection() {
    let limits = server::Limits { connections: 2, ..limits() };
    let mut secured = Secured::start(limits, scripted()).await;
    let mut silent = secured.running.connect().await;
    // A connection over TLS counts double, so this one takes the place of the other.
    let mut stream = secured.connect(&[], None).await.unwrap();
    assert!(ask_nothing(&mut stream).await.starts_with("HTTP/1.1 404 "));
    assert_eq!(read_all(&mut silent).await, "");
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn only_clients_with_a_certificate_are_served() {
    let (folder, others) = (tempfile::tempdir().unwrap(), Authority::new());
    let client_ca = Some(others.write(folder.path(), "clients.pem"));
    let change = |_: &Path, files: Files| Files { client_ca, ..files };
    let mut secured = Secured::start_for(change, limits(), scripted()).await;
    let known = others.issue(&["an-operator"]);
    let mut stream = secured.connect(&[], Some(&known)).await.unwrap();
    assert!(ask_nothing(&mut stream).await.starts_with("HTTP/1.1 404 "));
    let foreign = secured.authority.issue(&["an-operator"]);
    for identity in [None, Some(&foreign)] {
        // In TLS 1.3 the client learns that it was refused when it reads.
        let refused = async {
            let mut stream = secured.connect(&[], identity).await?;
            stream.write_all(POST.as_bytes()).await?;
            stream.read(&mut [0; 1]).await
        };
        assert!(refused.await.is_err(), "{identity:?}");
    }
    secured.running.stop();
    secured.running.ended().await;
}

#[tokio::test]
async fn new_connections_get_the_new_certificate() {
    let mut secured = Secured::start(limits(), scripted()).await;
    let mut before = secured.connect(&[], None).await.unwrap();
    secured.authority.write_pair(secured.folder.path());
    assert_eq!(secured.certificates.look(false), Found::Replaced);
    let mut after = secured.connect(&[], None).await.unwrap();
    assert_ne!(shown(&before), shown(&after));
    for stream in [&mut before, &mut after] {
        assert!(ask_nothing(stream).await.starts_with("HTTP/1.1 404 "));
    }
    secured.running.stop();
    secured.running.ended().await;
}
