//! TLS: settings of a client of the engines, what is wrong with a connection, and the listeners' side
//! (`server`).

pub(crate) mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod trial;

use std::{error::Error, io, path::Path, sync::Arc};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
};

/// Why no TLS can be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// A file is no PEM, or cannot be read.
    #[error("reading {file}")]
    File {
        /// Its path.
        file: String,
        #[source]
        source: pem::Error,
    },
    /// A certificate or a key cannot be used.
    #[error("a certificate or key of {file} cannot be used")]
    Unusable {
        /// Path of the file that holds it.
        file: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Returns settings that trust the authorities in the file `ca` and nobody else, and that show the
/// certificate and key of `identity`. A server's certificate must be valid for the name or address
/// that is connected to, or else for one of `names`.
///
/// # Errors
/// [`SetupError`], with the file.
pub(crate) fn client(
    ca: &Path,
    identity: Option<(&Path, &Path)>,
    names: Vec<ServerName<'static>>,
) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Named::trusting(ca, names, &provider)?;
    let builder = builder(provider)
        .map_err(|error| unusable(ca, error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key_der = PrivateKeyDer::from_pem_file(key).map_err(|source| of_file(key, source))?;
    builder.with_client_auth_cert(chain, key_der).map_err(|error| unusable(key, error))
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|source| of_file(file, source))
}

fn of_file(file: &Path, source: pem::Error) -> SetupError {
    SetupError::File { file: file.display().to_string(), source }
}

fn unusable(file: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> SetupError {
    SetupError::Unusable { file: file.display().to_string(), source: source.into() }
}

/// Checks a certificate for the name that is connected to, and else for a list of names.
#[derive(Debug)]
struct Named {
    by_webpki: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl Named {
    fn trusting(
        ca: &Path,
        names: Vec<ServerName<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, SetupError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| unusable(ca, error))?;
        }
        let by_webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let by_webpki = by_webpki.build().map_err(|error| unusable(ca, error))?;
        Ok(Self { by_webpki, names })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let check = |name: &ServerName<'_>| {
            self.by_webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        let found = check(server_name);
        let Err(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) = found
        else {
            return found;
        };
        // The driver connects to addresses that it learnt from the database, and so only knows
        // addresses. The names are those of the operator's contact points.
        self.names.iter().find_map(|name| check(name).ok()).map_or(found, Ok)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_webpki.supported_verify_schemes()
    }
}

/// Why an engine does not take this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {remedy}")]
pub struct Trouble {
    /// What was found, as a clause.
    pub found: String,
    /// What to change, as a clause.
    pub remedy: String,
    /// Whether this cannot pass without a change by an operator.
    pub is_final: bool,
}

impl Trouble {
    /// Returns a trouble that only an operator can end.
    pub(crate) fn lasting(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { found: found.into(), remedy: remedy.into(), is_final: true }
    }

    /// Returns a trouble that may pass by itself.
    pub(crate) fn passing(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { found: found.into(), remedy: remedy.into(), is_final: false }
    }
}

/// What is wrong with a TLS connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The server's certificate is not valid any more.
    Expired,
    /// The server's certificate is not valid yet, by the clock of this machine.
    NotYetValid,
    /// None of the known authorities has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is for other names: these, as far as they are known.
    OtherName(Vec<String>),
    /// The server's answer is no TLS.
    NoTls,
    /// The server wants a certificate of the client, or refuses the one that it got.
    ClientCertificate,
    /// Anything else that TLS says.
    Other(String),
}

impl Fault {
    /// Finds the fault among an error and its causes.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of_rustls(error));
            }
            // An I/O error does not name the error that it holds as its cause.
            let held = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            next = match held {
                Some(held) => Some(held),
                None => error.source(),
            };
        }
        None
    }

    fn of_rustls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYetValid
                }
                // A certificate with the name of a trusted authority, which did not sign it.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownAuthority
                }
                CertificateError::NotValidForName => Self::OtherName(Vec::new()),
                CertificateError::NotValidForNameContext { presented, .. } => {
                    Self::OtherName(presented.clone())
                }
                other => Self::Other(other.to_string()),
            },
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            rustls::Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::NoCertificate
                | AlertDescription::UnknownCA,
            ) => Self::ClientCertificate,
            other => Self::Other(other.to_string()),
        }
    }

    /// Says in one clause what is wrong with the connection to `server`, and what to do. `ca_file`
    /// and `cert_file` are the settings that name the files, `nodes` is the one with the servers.
    pub(crate) fn describe(&self, server: &str, [ca_file, cert_file, nodes]: [&str; 3]) -> Trouble {
        let (found, remedy) = match self {
            Self::Expired => {
                ("shows a certificate that has expired".to_owned(), "renew it there".to_owned())
            }
            Self::NotYetValid => (
                "shows a certificate that is not valid yet".to_owned(),
                "set the clock of this machine".to_owned(),
            ),
            Self::UnknownAuthority => (
                "shows a certificate that none of the known authorities has signed".to_owned(),
                format!("set {ca_file} to the certificates of the authority that did"),
            ),
            Self::OtherName(names) if names.is_empty() => (
                "shows a certificate for another name".to_owned(),
                format!("set {nodes} to a name in it"),
            ),
            Self::OtherName(names) => (
                format!("shows a certificate for {} only", names.join(", ")),
                format!("set {nodes} to a name in it, or issue one with the name that is there"),
            ),
            Self::NoTls => {
                ("does not speak TLS".to_owned(), "use its TLS port, or turn TLS off".to_owned())
            }
            Self::ClientCertificate => (
                "wants a certificate of this node, or refuses the one it got".to_owned(),
                format!(
                    "set {cert_file} and its key to one that an authority of the server signed"
                ),
            ),
            Self::Other(said) => (format!("fails in TLS: {said}"), format!("check {ca_file}")),
        };
        // A certificate can be renewed while the node waits, and what has no name of its own may pass.
        let is_final = !matches!(self, Self::Expired | Self::NotYetValid | Self::Other(_));
        Trouble { found: format!("{server} {found}"), remedy, is_final }
    }
}

/// Returns settings that trust anybody, to find whether a port speaks TLS. Nothing secret may be sent.
fn for_trial() -> Option<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Anybody(Arc::clone(&provider)));
    let builder = builder(provider).ok()?.dangerous().with_custom_certificate_verifier(verifier);
    Some(builder.with_no_client_auth())
}

/// Takes every certificate.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns the host names among servers (`host:port`); addresses are no names.
pub(crate) fn names(servers: &[String]) -> Vec<ServerName<'static>> {
    let hosts = servers.iter().filter_map(|server| server.rsplit_once(':'));
    hosts
        .filter_map(|(host, _)| ServerName::try_from(host.to_owned()).ok())
        .filter(|name| matches!(name, ServerName::DnsName(_)))
        .collect()
}
