//! Which certificates are trusted, and what is said about the others.
//!
//! The certificates in `testing/` were made by `docker/engines/engines --secure`. Their keys are lost.

use std::{path::PathBuf, time::Duration};

use super::*;

/// 2027-01-15, when the good certificates are valid.
const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tls/testing").join(name)
}

/// Checks a certificate that a server at 127.0.0.1 shows.
fn verified(ca: &str, certificate: &str, servers: &[&str]) -> Result<(), Fault> {
    let servers: Vec<String> = servers.iter().map(|server| (*server).to_owned()).collect();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Named::trusting(&file(ca), names(&servers), &provider).unwrap();
    let shown = certificates(&file(certificate)).unwrap();
    let address = ServerName::try_from("127.0.0.1").unwrap();
    let verified = verifier.verify_server_cert(&shown[0], &[], &address, &[], NOW);
    verified.map(drop).map_err(|error| Fault::of(&io::Error::other(error)).unwrap())
}

#[test]
fn a_certificate_names_the_address_or_a_contact_point() {
    assert_eq!(verified("ca.pem", "server.pem", &[]), Ok(()));
    assert_eq!(verified("ca.pem", "named.pem", &["other:1", "localhost:9042"]), Ok(()));
    let other = Fault::OtherName(vec!["DnsName(\"localhost\")".to_owned()]);
    assert_eq!(verified("ca.pem", "named.pem", &["127.0.0.1:9042", "other:1"]), Err(other));
}

#[test]
fn a_certificate_that_is_not_trusted_says_why() {
    assert_eq!(verified("ca.pem", "expired.pem", &["localhost:1"]), Err(Fault::Expired));
    let unknown = Err(Fault::UnknownAuthority);
    assert_eq!(verified("other-ca.pem", "server.pem", &["localhost:1"]), unknown);
}

#[test]
fn faults_of_tls_are_told_apart() {
    let of = |error: rustls::Error| Fault::of(&error).unwrap();
    let alert = |alert| of(rustls::Error::AlertReceived(alert));
    assert_eq!(alert(AlertDescription::CertificateRequired), Fault::ClientCertificate);
    assert_eq!(alert(AlertDescription::UnknownCA), Fault::ClientCertificate);
    let answer = rustls::InvalidMessage::InvalidContentType;
    assert_eq!(of(rustls::Error::InvalidMessage(answer)), Fault::NoTls);
    assert_eq!(Fault::of(&io::Error::other("a reset")), None);
}

#[test]
fn a_fault_is_one_line_with_its_remedy() {
    let settings = ["a.ca_file", "a.cert_file", "a.nodes"];
    let said = |fault: Fault| fault.describe("node n:1", settings).to_string();
    assert_eq!(
        said(Fault::UnknownAuthority),
        "node n:1 shows a certificate that none of the known authorities has signed; set a.ca_file \
         to the certificates of the authority that did"
    );
    assert_eq!(
        said(Fault::OtherName(vec!["db.example".to_owned()])),
        "node n:1 shows a certificate for db.example only; set a.nodes to a name in it, or issue one \
         with the name that is there"
    );
    assert!(!Fault::Expired.describe("node n:1", settings).is_final);
}
