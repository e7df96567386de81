//! Rules for the ways to Kafka, to the database and of the listeners: TLS, logins and the files that
//! they need.

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    load::Broken,
    problem::{ConfigProblem, Origin},
    secrets::private_text,
    settings::{Config, CqlConfig, KafkaConfig},
};
use crate::tls::server::Files;

/// The settings of a listener's TLS: certificate, key and the authorities of clients.
struct OfListener {
    certificate: &'static [&'static str],
    key: &'static [&'static str],
    client_ca: &'static [&'static str],
}

const OF_API: OfListener = OfListener {
    certificate: &["api.tls.cert_file", "api.tls.key_file"],
    key: &["api.tls.key_file", "api.tls.cert_file"],
    client_ca: &["api.tls.client_ca_file", "api.tls.cert_file", "api.tls.key_file"],
};

const OF_ADMIN: OfListener = OfListener {
    certificate: &["admin.tls.cert_file", "admin.tls.key_file"],
    key: &["admin.tls.key_file", "admin.tls.cert_file"],
    client_ca: &["admin.tls.client_ca_file", "admin.tls.cert_file", "admin.tls.key_file"],
};

/// Returns the broken rules.
pub(super) fn rules(config: &Config) -> Vec<Broken> {
    let mut broken = Vec::new();
    kafka(&config.kafka, &mut broken);
    cql(&config.cql, &mut broken);
    let (api, admin) = (&config.api, &config.admin);
    let files = [&api.tls_cert_file, &api.tls_key_file, &api.tls_client_ca_file];
    listener(&OF_API, files.map(Option::as_ref), &mut broken);
    let files = [&admin.tls_cert_file, &admin.tls_key_file, &admin.tls_client_ca_file];
    listener(&OF_ADMIN, files.map(Option::as_ref), &mut broken);
    broken
}

/// Adds a broken rule of the first key, which depends on all `keys`.
pub(super) fn broke(
    broken: &mut Vec<Broken>,
    keys: &'static [&'static str],
    fault: impl Into<String>,
    remedy: impl Into<String>,
) {
    let (key, fault, remedy) = (keys[0].to_owned(), fault.into(), remedy.into());
    broken.push((keys, ConfigProblem { key, fault, remedy, origin: Origin::Default }));
}

fn kafka(kafka: &KafkaConfig, broken: &mut Vec<Broken>) {
    let security = kafka.security;
    let name = security.name();
    let files: [(&'static [&'static str], bool); 3] = [
        (&["kafka.ca_file", "kafka.security"], kafka.ca_file.is_some()),
        (&["kafka.cert_file", "kafka.security"], kafka.cert_file.is_some()),
        (&["kafka.key_file", "kafka.security"], kafka.key_file.is_some()),
    ];
    for (keys, _) in files.iter().filter(|(_, is_set)| *is_set && !security.has_tls()) {
        let fault = format!("is set while kafka.security is \"{name}\", which has no TLS");
        let with = if security.has_sasl() { "sasl_tls" } else { "tls" };
        broke(broken, keys, fault, format!("set kafka.security = \"{with}\", or leave it out"));
    }
    let has_password = kafka.sasl_password.is_some() || kafka.sasl_password_file.is_some();
    let logins: [(&'static [&'static str], bool, &str); 2] = [
        (&["kafka.sasl.user", "kafka.security"], kafka.sasl_user.is_some(), "kafka.sasl.user"),
        (
            &["kafka.sasl.password", "kafka.sasl.password_file", "kafka.security"],
            has_password,
            "kafka.sasl.password_file",
        ),
    ];
    for (keys, is_set, setting) in logins {
        if is_set && !security.has_sasl() {
            let fault = format!("is set while kafka.security is \"{name}\", which has no login");
            let with = if security.has_tls() { "sasl_tls" } else { "sasl_plaintext" };
            broke(broken, keys, fault, format!("set kafka.security = \"{with}\", or leave it out"));
        }
        if !is_set && security.has_sasl() {
            let fault = format!("is not set while kafka.security is \"{name}\"");
            broke(broken, keys, fault, format!("set {setting}"));
        }
    }
    certificates(&["kafka.ca_file"], kafka.ca_file.as_ref(), broken);
    let (certificate, key) = (&["kafka.cert_file"], &["kafka.key_file"]);
    identity(certificate, key, kafka.cert_file.as_ref(), kafka.key_file.as_ref(), broken);
}

fn cql(cql: &CqlConfig, broken: &mut Vec<Broken>) {
    let has_password = cql.password.is_some() || cql.password_file.is_some();
    if cql.user.is_some() && !has_password {
        let keys = &["cql.password", "cql.password_file", "cql.user"];
        broke(broken, keys, "is not set while cql.user is set", "set cql.password_file");
    }
    if cql.user.is_none() && has_password {
        let keys = &["cql.user", "cql.password", "cql.password_file"];
        broke(broken, keys, "is not set while there is a password", "set cql.user");
    }
    let files: [(&'static [&'static str], bool); 2] = [
        (&["cql.tls.cert_file", "cql.tls.ca_file"], cql.tls_cert_file.is_some()),
        (&["cql.tls.key_file", "cql.tls.ca_file"], cql.tls_key_file.is_some()),
    ];
    for (keys, _) in files.iter().filter(|(_, is_set)| *is_set && cql.tls_ca_file.is_none()) {
        let remedy = "set cql.tls.ca_file, which turns TLS on; the authorities of the system are \
                      often in /etc/ssl/certs/ca-certificates.crt";
        broke(broken, keys, "is set while cql.tls.ca_file is not", remedy);
    }
    certificates(&["cql.tls.ca_file"], cql.tls_ca_file.as_ref(), broken);
    let (certificate, key) = (&["cql.tls.cert_file"], &["cql.tls.key_file"]);
    identity(certificate, key, cql.tls_cert_file.as_ref(), cql.tls_key_file.as_ref(), broken);
}

/// Checks the files of a listener's TLS, and that they fit each other.
fn listener(keys: &OfListener, files: [Option<&PathBuf>; 3], broken: &mut Vec<Broken>) {
    let [certificate, key, client_ca] = files;
    let before = broken.len();
    identity(keys.certificate, keys.key, certificate, key, broken);
    certificates(keys.client_ca, client_ca, broken);
    if client_ca.is_some() && certificate.is_none() && key.is_none() {
        let fault = format!("is set while {} is not", keys.certificate[0]);
        let remedy = format!("set {} and its key, which turn TLS on", keys.certificate[0]);
        broke(broken, keys.client_ca, fault, remedy);
    }
    let (Some(certificate), Some(key)) = (certificate, key) else { return };
    if broken.len() > before {
        return;
    }
    let (certificate, key) = (certificate.clone(), key.clone());
    let files = Files { certificate, key, client_ca: client_ca.cloned() };
    if let Err(error) = files.config() {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        let fault = format!("cannot be used: {error}: {}", cause.unwrap_or_default());
        let remedy = format!("name a certificate and its own key ({})", keys.key[0]);
        broke(broken, keys.certificate, fault, remedy);
    }
}

/// Checks a file with certificates, if there is one.
pub(super) fn certificates(
    keys: &'static [&'static str],
    path: Option<&PathBuf>,
    broken: &mut Vec<Broken>,
) {
    let Some(path) = path else { return };
    let shown = path.display();
    let found =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match found {
        Ok(found) if !found.is_empty() => {}
        Ok(_) => broke(
            broken,
            keys,
            format!("names {shown}, which holds no certificate in PEM"),
            "name a file with a block BEGIN CERTIFICATE",
        ),
        Err(error) => broke(
            broken,
            keys,
            format!("names {shown}, which cannot be read: {error}"),
            "check the path, its permissions and that the file is PEM",
        ),
    }
}

/// Checks the files of a certificate and of its private key.
fn identity(
    of_certificate: &'static [&'static str],
    of_key: &'static [&'static str],
    certificate: Option<&PathBuf>,
    key: Option<&PathBuf>,
    broken: &mut Vec<Broken>,
) {
    match (certificate, key) {
        (Some(_), None) => {
            let fault = format!("is not set while {} is set", of_certificate[0]);
            broke(broken, of_key, fault, "name the file of its private key");
        }
        (None, Some(_)) => {
            let fault = format!("is not set while {} is set", of_key[0]);
            broke(broken, of_certificate, fault, "name the file of its certificate");
        }
        (Some(_), Some(_)) | (None, None) => {}
    }
    certificates(of_certificate, certificate, broken);
    let Some(path) = key else { return };
    match private_text(path) {
        Err((fault, remedy)) => broke(broken, of_key, fault, remedy),
        Ok(text) if PrivateKeyDer::from_pem_slice(text.as_bytes()).is_err() => {
            let shown = path.display();
            let fault = format!("names {shown}, which holds no unencrypted private key in PEM");
            let remedy =
                "decrypt it, for example with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW`";
            broke(broken, of_key, fault, remedy);
        }
        Ok(_) => {}
    }
}
