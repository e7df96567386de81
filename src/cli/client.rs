//! HTTP calls to a node, and their errors for people at the command line.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, StatusCode, Url, header::HeaderName};
use serde_json::Value;

use super::tls_files::TlsFiles;
use crate::{
    config::{Config, Identity, Listen, UNIX, text_of},
    tls::Fault,
};

/// Longest wait for a connection; nodes are in the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for an answer, beyond the wait of the request. The admin listener answers within
/// 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read. A page of 1,000 campaigns takes a few hundred KiB.
const ANSWER_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// File of a generated admin token in the data folder.
const TOKEN_FILE: &str = "admin.token";

/// Largest file with certificates that is read.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// Largest token file that is read.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// An error of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{url:?} is not the URL of a node: {rule}")]
    Address { url: String, rule: &'static str },
    #[error("{0} has port 0, so the port of the node is unknown; pass its URL")]
    PortUnknown(&'static str),
    #[error(
        "no answer from {url}: {cause}\n  start a node with `coupond`, or pass its URL with {option}"
    )]
    Unreachable { url: String, cause: String, option: &'static str },
    #[error("{0}")]
    Tls(crate::tls::Trouble),
    #[error("{path} cannot be used: {cause}")]
    TlsFile { path: String, cause: String },
    #[error("reading the admin token {path}")]
    Token {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} is not a coupond node: {found}")]
    Foreign { url: String, found: String },
    #[error("the definitions cannot be applied; nothing was changed:\n  {0}")]
    Files(String),
    #[error("preparing the HTTP client")]
    Http(#[source] reqwest::Error),
    #[error("{}", super::show::problem(*status, body))]
    Refused { status: u16, body: Value, json: Option<String> },
}

impl ClientError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. } | Self::PortUnknown(_) | Self::Files(_) | Self::TlsFile { .. } => {
                super::EXIT_USAGE
            }
            Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Token { .. }
            | Self::Foreign { .. }
            | Self::Http(_)
            | Self::Refused { .. } => 1,
        }
    }

    /// Returns the problem document of the node, if the caller asked for JSON.
    pub(super) fn json(&self) -> Option<&str> {
        match self {
            Self::Refused { json, .. } => json.as_deref(),
            _ => None,
        }
    }
}

/// A client of one listener of a node.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Base,
    bearer: Option<String>,
    /// Header and user id, if the node takes the user from a header.
    identity: Option<(HeaderName, String)>,
    json: bool,
    /// The option that selects another node.
    option: &'static str,
}

/// A request to a listener.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) method: Method,
    /// Segments of the path.
    pub(super) path: &'a [&'a str],
    pub(super) query: &'a [(&'a str, String)],
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: Option<&'a Value>,
    /// Time that the answer may take in addition to [`ANSWER_TIMEOUT`].
    pub(super) wait: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self { method, path, query: &[], headers: &[], body: None, wait: Duration::ZERO }
    }
}

impl Client {
    /// Makes a client of the admin listener at `url`, else at the configured address. Uses `token`,
    /// else the configured token, else the one in the data folder.
    pub(super) fn admin(
        config: &Config,
        url: Option<&str>,
        files: &TlsFiles,
        token: Option<String>,
        json: bool,
    ) -> Result<Self, ClientError> {
        let base = Base::admin(config, url)?;
        let bearer = bearer(config, &base.url, token)?;
        let http = http(&base, files)?;
        Ok(Self { http, base, bearer, identity: None, json, option: "--admin" })
    }

    /// Makes a client of the admin listener for calls that need no token.
    pub(super) fn open_admin(
        config: &Config,
        url: Option<&str>,
        files: &TlsFiles,
        json: bool,
    ) -> Result<Self, ClientError> {
        let base = Base::admin(config, url)?;
        let http = http(&base, files)?;
        Ok(Self { http, base, bearer: None, identity: None, json, option: "--admin" })
    }

    /// Makes a client of the public listener at `url`, else at the configured address.
    pub(super) fn public(
        config: &Config,
        url: Option<&str>,
        ca: Option<PathBuf>,
        user: &str,
        json: bool,
    ) -> Result<Self, ClientError> {
        let base = Base::public(config, url)?;
        let identity = match &config.api.identity {
            Identity::Trusted => None,
            Identity::Header(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
        };
        let identity = identity.map(|name| (name, user.to_owned()));
        let http = http(&base, &TlsFiles { ca, ..TlsFiles::default() })?;
        Ok(Self { http, base, bearer: None, identity, json, option: "--api" })
    }

    /// Appends the segments of a path to the base URL.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// Returns a curl command that makes this call. None if a segment holds characters that are
    /// special in a shell.
    pub(super) fn curl(&self, path: &[&str], query: &str) -> Option<String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        path.iter().all(|segment| segment.bytes().all(plain)).then(|| {
            let identity = self.identity.as_ref();
            // A user id may hold any visible character, a quote too.
            let header = identity.map(|(name, user)| format!("{name}: {user}"));
            let header = header.map(|text| shlex::try_quote(&text).map(|it| format!("-H {it} ")));
            let header = header.and_then(Result::ok).unwrap_or_default();
            let socket = self.base.socket.as_ref().map(|path| path.display().to_string());
            let socket =
                socket.map(|path| shlex::try_quote(&path).map(|it| format!("--unix-socket {it} ")));
            let socket = socket.and_then(Result::ok).unwrap_or_default();
            format!("curl {socket}{header}'{}?{query}'", self.url(path))
        })
    }

    /// Sends a request. Returns the status and the JSON of a 2xx answer.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<(StatusCode, Value), ClientError> {
        let mut url = self.url(call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let unreachable = |error: reqwest::Error| self.unreachable(&error);
        let mut request =
            self.http.request(call.method, url.clone()).timeout(ANSWER_TIMEOUT + call.wait);
        for (name, value) in call.headers {
            request = request.header(*name, value);
        }
        if let Some((name, user)) = &self.identity {
            request = request.header(name, user);
        }
        if let Some(token) = &self.bearer {
            request = request.bearer_auth(token);
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                let found = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(ClientError::Foreign { url: url.into(), found });
            }
            bytes.extend_from_slice(&chunk);
        }
        self.read(url, status, &bytes)
    }

    /// Says why there is no answer.
    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let url = self.base.to_string();
        match Fault::of(error) {
            Some(fault) => ClientError::Tls(fault.describe(&url, ["--ca", "--cert", self.option])),
            None => ClientError::Unreachable { url, cause: root_cause(error), option: self.option },
        }
    }

    fn read(
        &self,
        url: Url,
        status: StatusCode,
        bytes: &[u8],
    ) -> Result<(StatusCode, Value), ClientError> {
        let body = if bytes.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(bytes) };
        match body {
            Ok(body) if status.is_success() => Ok((status, body)),
            Ok(body @ Value::Object(_)) => {
                let json = self.json.then(|| format!("{body}\n"));
                Err(ClientError::Refused { status: status.as_u16(), body, json })
            }
            _ => {
                let found = format!("status {status}, the answer is not JSON");
                Err(ClientError::Foreign { url: url.into(), found })
            }
        }
    }
}

/// Returns the admin token for a node: `token`, else the configured one, else the one in the data folder.
fn bearer(
    config: &Config,
    base: &Url,
    token: Option<String>,
) -> Result<Option<String>, ClientError> {
    match token.or_else(|| config.admin.token.as_ref().map(|token| token.expose().to_owned())) {
        Some(token) => Ok(Some(token)),
        // A node generates a token only if it listens on loopback, so other hosts never get it.
        None if is_loopback(base) => kept_token(&config.embedded.dir),
        None => Ok(None),
    }
}

/// The listeners of the nodes of an instance, and the token of their admin listeners.
#[derive(Debug)]
pub(super) struct Listeners {
    pub(super) api: Vec<String>,
    pub(super) admin: Vec<String>,
    pub(super) token: Option<String>,
}

/// Returns the listeners at these URLs, else those at the configured addresses.
pub(super) fn listeners(
    config: &Config,
    api: &[String],
    admin: &[String],
    token: Option<String>,
) -> Result<Listeners, ClientError> {
    type Found = fn(&Config, Option<&str>) -> Result<Base, ClientError>;
    let all = |urls: &[String], found: Found| -> Result<Vec<Url>, ClientError> {
        // The generator of load speaks plain HTTP over TCP only.
        let plain = |base: Base| match base.is_plain_tcp() {
            true => Ok(base.url),
            false => Err(ClientError::Address {
                url: base.to_string(),
                rule: "a rehearsal needs http://host:port",
            }),
        };
        match urls {
            [] => Ok(vec![plain(found(config, None)?)?]),
            urls => urls.iter().map(|url| plain(found(config, Some(url))?)).collect(),
        }
    };
    let admin = all(admin, Base::admin)?;
    let token = bearer(config, &admin[0], token)?;
    let text = |urls: Vec<Url>| {
        urls.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()).collect()
    };
    let api = all(api, Base::public)?;
    Ok(Listeners { api: text(api), admin: text(admin), token })
}

/// Reads a token from a file that its owner names.
pub(super) fn token_of(path: &Path) -> Result<String, ClientError> {
    use std::io::Read;

    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(TOKEN_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text.trim().to_owned())
    };
    read().map_err(|source| ClientError::Token { path: path.display().to_string(), source })
}

/// Makes a client of this listener. Over TLS it trusts the authorities in the file of `--ca`, else those of
/// the system, and shows the certificate of `--cert`.
fn http(base: &Base, files: &TlsFiles) -> Result<reqwest::Client, ClientError> {
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

/// Returns the last cause, which is the one that a user can act on.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Where the calls go.
#[derive(Debug)]
struct Base {
    url: Url,
    /// The Unix socket to connect to, whatever the host of the URL.
    socket: Option<PathBuf>,
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
    fn admin(config: &Config, url: Option<&str>) -> Result<Self, ClientError> {
        let admin = &config.admin;
        Self::of(url, &admin.listen, admin.tls_cert_file.is_some(), "admin.listen")
    }

    /// Returns the public listener at `url`, else the configured one.
    fn public(config: &Config, url: Option<&str>) -> Result<Self, ClientError> {
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

    fn is_plain_tcp(&self) -> bool {
        self.socket.is_none() && self.url.scheme() == "http"
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Reads the token in the data folder, if there is one.
fn kept_token(folder: &Path) -> Result<Option<String>, ClientError> {
    match token_of(&folder.join(TOKEN_FILE)) {
        Ok(token) => Ok(Some(token).filter(|token| !token.is_empty())),
        Err(ClientError::Token { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
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
        assert!(is_loopback(&socket.url));
        let named = of(Some("unix:/run/a.sock"), "unix:/run/a.sock", true);
        assert_eq!(named.url.scheme(), "https");
        assert_eq!(of(Some("unix:/run/b.sock"), "unix:/run/a.sock", true).url.scheme(), "http");
    }

    #[test]
    fn a_kept_token_goes_to_loopback_only() {
        for (url, here) in [
            ("http://localhost:1", true),
            ("http://127.0.0.9", true),
            ("http://[::1]:1", true),
            ("http://10.0.0.1", false),
            ("http://localhost.example", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(url).unwrap()), here, "{url}");
        }
    }
}
