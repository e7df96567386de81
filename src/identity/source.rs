//! Where the key set of an issuer comes from: a file, or the URL of its JWKS.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Certificate, Client, StatusCode, Url, header, redirect};

use super::keys::{KeySet, NoKeys};

/// Largest key set, in bytes.
pub(super) const KEY_SET_BYTES_MAX: usize = 1_024 * 1_024;

/// Longest read. Requests whose `kid` is unknown wait for it.
pub(super) const READ_WITHIN: Duration = Duration::from_secs(5);

/// Time between two looks at a file. Reading it costs nothing against serving a request.
const FILE_EVERY: Duration = Duration::from_secs(5);

/// Time between two fetches. A key that the issuer withdraws is trusted for at most that long, unless the
/// issuer does not answer; a new one is found by its `kid`.
const URL_EVERY: Duration = Duration::from_secs(300);

/// Where a key set comes from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file with a JWKS or a PEM public key.
    File(PathBuf),
    /// The URL of a JWKS.
    Url {
        /// The URL.
        url: Url,
        /// The client that fetches it.
        http: Client,
    },
}

/// Why a key set could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("it cannot be read")]
    File(#[source] std::io::Error),
    #[error("it does not answer")]
    Http(#[source] reqwest::Error),
    #[error("it answers with status {0}")]
    Status(StatusCode),
    #[error("it is longer than 1 MiB")]
    TooLong,
    #[error("it took longer than 5 s")]
    TooSlow,
    #[error("it {0}")]
    NoKeys(#[from] NoKeys),
}

impl Source {
    /// Returns the source at `url`. If it is not on loopback, its certificate must be signed by an authority
    /// in `ca`, a bundle in PEM, or else by one of the system.
    ///
    /// # Errors
    /// If `ca` is no bundle, or the system has no authorities.
    pub(crate) fn at(url: Url, ca: Option<&[u8]>) -> Result<Self, reqwest::Error> {
        // A redirect could lead away from TLS.
        let builder = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(READ_WITHIN)
            .timeout(READ_WITHIN);
        let builder = match (ca, url.scheme()) {
            (Some(ca), _) => builder.tls_certs_only(Certificate::from_pem_bundle(ca)?),
            (None, "https") => builder,
            // Loopback: no certificate is looked at, and a proxy would be elsewhere.
            (None, _) => builder.no_proxy().tls_certs_only([]),
        };
        Ok(Self::Url { url, http: builder.build()? })
    }

    /// Returns the time after which the source is read again.
    pub(super) fn every(&self) -> Duration {
        match self {
            Self::File(_) => FILE_EVERY,
            Self::Url { .. } => URL_EVERY,
        }
    }

    /// Describes the source.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url { url, .. } => url.to_string(),
        }
    }

    /// Reads the bytes of the key set.
    ///
    /// # Errors
    /// [`SourceError`], also if it has more than [`KEY_SET_BYTES_MAX`].
    pub(super) async fn read(&self) -> Result<Vec<u8>, SourceError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
                read.unwrap_or_else(|ended| Err(SourceError::File(std::io::Error::other(ended))))
            }
            Self::Url { url, http } => fetch(http, url.clone()).await,
        }
    }
}

/// Reads and parses a key set that is in a file.
///
/// # Errors
/// [`SourceError`].
pub(crate) fn key_set_of_file(path: &Path) -> Result<KeySet, SourceError> {
    Ok(KeySet::parse(&read_file(path)?)?)
}

fn read_file(path: &Path) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(SourceError::File)?;
    file.take(KEY_SET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(SourceError::File)?;
    if bytes.len() > KEY_SET_BYTES_MAX { Err(SourceError::TooLong) } else { Ok(bytes) }
}

async fn fetch(http: &Client, url: Url) -> Result<Vec<u8>, SourceError> {
    let request =
        http.get(url).header(header::ACCEPT, "application/jwk-set+json, application/json");
    let mut answer = request.send().await.map_err(SourceError::Http)?;
    if answer.status() != StatusCode::OK {
        return Err(SourceError::Status(answer.status()));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(SourceError::Http)? {
        if bytes.len() + chunk.len() > KEY_SET_BYTES_MAX {
            return Err(SourceError::TooLong);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}
