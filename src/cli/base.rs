//! Which listener the calls go to, and a client that reaches it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Url;

use super::{
    client::{ClientError, root_cause},
    tls_files::TlsFiles,
};
use crate::config::{Config, Listen, UNIX, text_of};

/// Longest wait for a connection; nodes are in the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest file with certificates that is read.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Where the calls go.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) url: Url,
    /// The Unix socket to connect to, whatever the host of the URL.
    pub(super) socket: Option<PathBuf>,
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "{UNIX}{}", path.display()),
            None => self.url.fmt(f),
        }
    }
}

impl Base {
    /// Returns the admin listener at `url`, else the configured one.
    pub(super) fn admin(config: &Config, url: Option<&str>) -> Result<Self, ClientError> {
        let admin = &config.admin;
        Self::of(url, &admin.listen, admin.tls_cert_file.is_some(), "admin.listen")
    }

    /// Returns the public listener at `url`, else the configured one.
    pub(super) fn public(config: &Config, url: Option<&str>) -> Result<Self, ClientError> {
        let api = &config.api;
        Self::of(url, &api.listen, api.tls_cert_file.is_some(), "api.listen")
    }

    fn of(
        url: Option<&str>,
        listen: &Listen,
        is_tls: bool,
        key: &'static str,
    ) -> Result<Self, ClientError> {
        let Some(url) = url else {
            if matches!(listen, Listen::Tcp(address) if address.port() == 0) {
                return Err(ClientError::PortUnknown(key));
            }
            return Self::of(Some(&listen.url(is_tls)), listen, is_tls, key);
        };
        let address = |rule| ClientError::Address { url: url.to_owned(), rule };
        let form = "write it as http://host:port, https://host:port or unix:/path";
        if url.starts_with(UNIX) {
            let Ok(Listen::Unix(path)) = url.parse() else { return Err(address(form)) };
            // The configured socket has TLS if the settings say so, any other has none.
            let is_tls = is_tls && *listen == Listen::Unix(path.clone());
            let local = if is_tls { "https://localhost" } else { "http://localhost" };
            let url = Url::parse(local).map_err(|_| address(form))?;
            return Ok(Self { url, socket: Some(path) });
        }
        let parsed = Url::parse(url).map_err(|_| address(form))?;
        let is_http = matches!(parsed.scheme(), "http" | "https");
        if !is_http || parsed.host_str().is_none_or(str::is_empty) {
            return Err(address(form));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return Err(address("remove the part after '?' or '#'"));
        }
        Ok(Self { url: parsed, socket: None })
    }

    pub(super) fn is_plain_tcp(&self) -> bool {
        self.socket.is_none() && self.url.scheme() == "http"
    }
}

/// Makes a client of this listener. Over TLS it trusts the authorities in the file of `--ca`, else those of
/// the system, and shows the certificate of `--cert`.
pub(super) fn http(base: &Base, files: &TlsFiles) -> Result<reqwest::Client, ClientError> {
    // Without proxies and redirects the token reaches only the named node.
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT);
    if let Some(path) = &base.socket {
        builder = builder.unix_socket(path.as_path());
    }
    builder = match &files.ca {
        Some(path) => {
            let found = reqwest::Certificate::from_pem_bundle(&read(path)?);
            builder.tls_certs_only(found.map_err(|error| unusable(path, &error))?)
        }
        // Plain HTTP: the authorities of the system are not even looked for.
        None if base.url.scheme() == "http" => builder.tls_certs_only([]),
        None => builder,
    };
    if let (Some(certificate), Some(key)) = (&files.cert, &files.key) {
        let both = [read(certificate)?, vec![b'\n'], read(key)?].concat();
        let identity = reqwest::Identity::from_pem(&both);
        builder = builder.identity(identity.map_err(|error| unusable(certificate, &error))?);
    }
    builder.build().map_err(ClientError::Http)
}

fn read(path: &Path) -> Result<Vec<u8>, ClientError> {
    let text = std::fs::File::open(path).and_then(|file| text_of(file, PEM_BYTES_MAX));
    text.map(String::into_bytes).map_err(|error| ClientError::TlsFile {
        path: path.display().to_string(),
        cause: error.to_string(),
    })
}

fn unusable(path: &Path, error: &reqwest::Error) -> ClientError {
    ClientError::TlsFile { path: path.display().to_string(), cause: root_cause(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_wins_over_the_setting() {
        for (url, listen, expected) in [
            (None, "127.0.0.1:8081", Some("http://127.0.0.1:8081/")),
            (None, "0.0.0.0:8081", Some("http://127.0.0.1:8081/")),
            (None, "[::]:8081", Some("http://[::1]:8081/")),
            (None, "127.0.0.1:0", None),
            (Some("http://node:1"), "127.0.0.1:0", Some("http://node:1/")),
            (Some("http://node:1/below/"), "127.0.0.1:0", Some("http://node:1/below/")),
            (Some("https://node:1"), "127.0.0.1:0", Some("https://node:1/")),
            (Some("unix:/run/a.sock"), "127.0.0.1:0", Some("unix:/run/a.sock")),
            (Some("unix:a.sock"), "127.0.0.1:0", None),
            (Some("node:1"), "127.0.0.1:0", None),
        ] {
            let base = Base::of(url, &listen.parse().unwrap(), false, "admin.listen");
            let found = base.ok().map(|base| base.to_string());
            assert_eq!(found.as_deref(), expected, "{url:?} {listen}");
        }
    }

    #[test]
    fn the_default_follows_tls_and_sockets() {
        let of = |url: Option<&str>, listen: &str, is_tls| {
            Base::of(url, &listen.parse().unwrap(), is_tls, "api.listen").unwrap()
        };
        assert_eq!(of(None, "0.0.0.0:8080", true).url.as_str(), "https://127.0.0.1:8080/");
        let socket = of(None, "unix:/run/a.sock", false);
        assert_eq!(socket.to_string(), "unix:/run/a.sock");
        assert_eq!(socket.url.as_str(), "http://localhost/");
        let named = of(Some("unix:/run/a.sock"), "unix:/run/a.sock", true);
        assert_eq!(named.url.scheme(), "https");
        assert_eq!(of(Some("unix:/run/b.sock"), "unix:/run/a.sock", true).url.scheme(), "http");
    }
}
