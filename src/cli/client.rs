//! HTTP calls to a node, and their errors for people at the command line.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{Method, StatusCode, Url, header::HeaderName};
use serde_json::Value;

use super::{
    base::{Base, http},
    tls_files::TlsFiles,
};
use crate::{
    config::{Config, Identity},
    tls::Fault,
};

/// Longest wait for an answer, beyond the wait of the request. The admin listener answers within
/// 5 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer that is read. A page of 1,000 campaigns takes a few hundred KiB.
const ANSWER_BYTES_MAX: usize = 8 * 1_024 * 1_024;

/// File of a generated admin token in the data folder.
const TOKEN_FILE: &str = "admin.token";

/// Largest token file that is read: a node takes JWTs of 12 KiB.
const TOKEN_BYTES_MAX: u64 = 16 * 1_024;

/// An error of a call.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{url:?} is not the URL of a node: {rule}")]
    Address { url: String, rule: &'static str },
    #[error("api.identity is \"jwt\": pass a file with the user's token with --user-token-file")]
    NoUserToken,
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
    #[error("reading the token {path}")]
    Token {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} is not a coupond node: {found}")]
    Foreign { url: String, found: String },
    #[error("writing {}", .path.display())]
    Secret {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
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
            Self::Address { .. }
            | Self::NoUserToken
            | Self::PortUnknown(_)
            | Self::Files(_)
            | Self::TlsFile { .. } => super::EXIT_USAGE,
            Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Token { .. }
            | Self::Secret { .. }
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
    /// The token by which the node knows its gateway.
    gateway: Option<String>,
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
        Ok(Self { http, base, bearer, identity: None, gateway: None, json, option: "--admin" })
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
        Ok(Self {
            http,
            base,
            bearer: None,
            identity: None,
            gateway: None,
            json,
            option: "--admin",
        })
    }

    /// Makes a client of the public listener at `url`, else at the configured address. It acts as the
    /// configured gateway does, for `user`, or for the user who bears `token`.
    pub(super) fn public(
        config: &Config,
        url: Option<&str>,
        ca: Option<PathBuf>,
        user: &str,
        token: Option<String>,
        json: bool,
    ) -> Result<Self, ClientError> {
        let base = Base::public(config, url)?;
        let identity = match &config.api.identity {
            Identity::Jwt if token.is_none() => return Err(ClientError::NoUserToken),
            Identity::Trusted | Identity::Jwt => None,
            Identity::Header(name) => HeaderName::from_bytes(name.as_bytes()).ok(),
        };
        let identity = identity.map(|name| (name, user.to_owned()));
        let gateway = config.api.gateway_token.as_ref().map(|token| token.expose().to_owned());
        let http = http(&base, &TlsFiles { ca, ..TlsFiles::default() })?;
        Ok(Self { http, base, bearer: token, identity, gateway, json, option: "--api" })
    }

    /// Returns the URL of the listener.
    pub(super) fn base(&self) -> String {
        self.base.url.to_string()
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
            // Tokens are secrets: the reader fills them in.
            let bearer =
                self.bearer.as_ref().map_or("", |_| "-H \"Authorization: Bearer $TOKEN\" ");
            let gateway =
                self.gateway.as_ref().map_or("", |_| "-H \"X-Coupond-Gateway: $GATEWAY\" ");
            let socket = self.base.socket.as_ref().map(|path| path.display().to_string());
            let socket =
                socket.map(|path| shlex::try_quote(&path).map(|it| format!("--unix-socket {it} ")));
            let socket = socket.and_then(Result::ok).unwrap_or_default();
            format!("curl {socket}{header}{bearer}{gateway}'{}?{query}'", self.url(path))
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
        if let Some(token) = &self.gateway {
            request = request.header("x-coupond-gateway", token);
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

/// Returns the last cause, which is the one that a user can act on.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
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
