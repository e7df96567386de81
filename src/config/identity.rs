//! Who is asking: the setting `api.identity`, what belongs to it, and the rules between these.

use reqwest::Url;

use super::{
    links::{broke, certificates},
    load::Broken,
    settings::{ApiConfig, Config},
    types::Secret,
    value::{Shown, Textual},
};
use crate::{
    domain::identity_fold::IdentityFold,
    identity::{SourceError, key_set_of_file},
};

/// Least length of the gateway token where others than the users of this machine can guess it, in bytes.
const EXPOSED_TOKEN_BYTES_MIN: usize = 16;

/// Where the user id of a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// The body. The caller is a gateway that has authenticated the user.
    Trusted,
    /// The header of this name, in lower case.
    Header(String),
    /// A claim of the JWT that the request bears.
    Jwt,
}

/// Headers with a meaning in HTTP or in coupond's API. Clients send them, so that a gateway passes them on.
const HEADERS_IN_USE: [&str; 43] = [
    "authorization",
    "baggage",
    "cache-control",
    "cf-connecting-ip",
    "client-ip",
    "connection",
    "cookie",
    "date",
    "dnt",
    "early-data",
    "expect",
    "forwarded",
    "from",
    "host",
    "http2-settings",
    "idempotency-key",
    "keep-alive",
    "last-event-id",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "purpose",
    "range",
    "referer",
    "save-data",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "warning",
    "x-correlation-id",
    "x-coupond-gateway",
    "x-idempotency-key",
    "x-real-ip",
    "x-request-id",
];

/// Beginnings of the names of such headers.
const FAMILIES_IN_USE: [&str; 10] = [
    "accept",
    "access-control-",
    "content-",
    "if-",
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-requested-",
];

impl Identity {
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "trusted" => return Some(Self::Trusted),
            "jwt" => return Some(Self::Jwt),
            _ => {}
        }
        let name = text.strip_prefix("header:")?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        // Header names are case-insensitive; one spelling makes them comparable.
        let name = name.to_ascii_lowercase();
        let valid = (1..=128).contains(&name.len())
            && name.bytes().all(token)
            && !HEADERS_IN_USE.contains(&&*name)
            && !FAMILIES_IN_USE.iter().any(|family| name.starts_with(family));
        valid.then_some(Self::Header(name))
    }

    /// Returns the value as the setting spells it.
    fn name(&self) -> String {
        match self {
            Self::Trusted => "trusted".to_owned(),
            Self::Header(name) => format!("header:{name}"),
            Self::Jwt => "jwt".to_owned(),
        }
    }
}

impl Textual for Identity {
    fn show(&self) -> Shown {
        Shown::text(&self.name())
    }
}

impl Textual for IdentityFold {
    fn show(&self) -> Shown {
        Shown::text(self.name())
    }
}

impl Textual for Option<Url> {
    fn show(&self) -> Shown {
        Shown::text(self.as_ref().map_or("", Url::as_str))
    }
}

/// Parses the URL of a JWKS. In clear, keys could be replaced on their way. A user and a password would be
/// printed with the settings.
pub(super) fn jwks_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    let is_private = url.scheme() == "https" || url.scheme() == "http" && is_here;
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (is_private && is_plain && text.len() <= 1_024).then_some(url)
}

/// Returns the broken rules.
pub(super) fn rules(config: &Config) -> Vec<Broken> {
    let mut broken = Vec::new();
    gateway(&config.api, &mut broken);
    match config.api.identity {
        Identity::Jwt => jwt(&config.api, &mut broken),
        Identity::Trusted | Identity::Header(_) => without_jwt(&config.api, &mut broken),
    }
    broken
}

/// Returns whether only a gateway can reach the listener: it proves by a token or by its certificate that
/// it is one.
fn is_gateway_proven(api: &ApiConfig) -> bool {
    api.gateway_token.is_some() || api.tls_client_ca_file.is_some()
}

fn gateway(api: &ApiConfig, broken: &mut Vec<Broken>) {
    let listen = &api.listen;
    if listen.is_loopback() {
        return;
    }
    if matches!(api.identity, Identity::Header(_)) && !is_gateway_proven(api) {
        let keys = &[
            "api.identity",
            "api.listen",
            "api.gateway_token",
            "api.gateway_token_file",
            "api.tls.client_ca_file",
        ];
        let fault = format!(
            "is \"{}\" while api.listen is {listen}, which is not loopback, and nothing proves that a \
             request comes from the gateway: any client could set the header",
            api.identity.name()
        );
        let remedy = "set api.gateway_token_file and let the gateway send the token as \
                      X-Coupond-Gateway, or set api.tls.client_ca_file, or api.listen to an address of \
                      loopback";
        broke(broken, keys, fault, remedy);
    }
    let is_short = |token: &Secret| token.expose().len() < EXPOSED_TOKEN_BYTES_MIN;
    if api.gateway_token.as_ref().is_some_and(is_short) {
        let keys = &["api.gateway_token", "api.gateway_token_file", "api.listen"];
        let fault = format!(
            "is shorter than {EXPOSED_TOKEN_BYTES_MIN} bytes while api.listen is {listen}, which is not \
             loopback"
        );
        broke(broken, keys, fault, "generate a token, for example with `openssl rand -hex 32`");
    }
}

/// Refuses settings of JWTs that nothing uses.
fn without_jwt(api: &ApiConfig, broken: &mut Vec<Broken>) {
    let defaults = ApiConfig::default();
    let set: [(&'static [&'static str], bool); 7] = [
        (&["api.jwt.keys_file", "api.identity"], api.jwt_keys_file.is_some()),
        (&["api.jwt.jwks_url", "api.identity"], api.jwt_jwks_url.is_some()),
        (&["api.jwt.ca_file", "api.identity"], api.jwt_ca_file.is_some()),
        (&["api.jwt.issuer", "api.identity"], api.jwt_issuer.is_some()),
        (&["api.jwt.audience", "api.identity"], api.jwt_audience.is_some()),
        (&["api.jwt.claim", "api.identity"], api.jwt_claim != defaults.jwt_claim),
        (&["api.jwt.leeway", "api.identity"], api.jwt_leeway != defaults.jwt_leeway),
    ];
    for (keys, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        let fault = format!("is set while api.identity is \"{}\"", api.identity.name());
        broke(broken, keys, fault, "set api.identity = \"jwt\", or leave it out");
    }
}

fn jwt(api: &ApiConfig, broken: &mut Vec<Broken>) {
    match (&api.jwt_keys_file, &api.jwt_jwks_url) {
        (None, None) => {
            let keys = &["api.jwt.jwks_url", "api.jwt.keys_file", "api.identity"];
            let fault = "is not set, nor is api.jwt.keys_file, while api.identity is \"jwt\"";
            let remedy =
                "set it to the URL that the issuer names as jwks_uri, or set api.jwt.keys_file";
            broke(broken, keys, fault, remedy);
        }
        (Some(_), Some(_)) => {
            let keys = &["api.jwt.keys_file", "api.jwt.jwks_url"];
            let fault = "is set, and api.jwt.jwks_url too: keys come from one of them";
            broke(broken, keys, fault, "leave out one of them");
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    let needed: [(&'static [&'static str], bool, &str); 2] = [
        (
            &["api.jwt.issuer", "api.identity"],
            api.jwt_issuer.is_some(),
            "set it to iss of the issuer's tokens, for example \"https://login.example.com/\"",
        ),
        (
            &["api.jwt.audience", "api.identity"],
            api.jwt_audience.is_some(),
            "set it to aud of the tokens that are meant for coupond, for example \"coupons\"",
        ),
    ];
    for (keys, _, remedy) in needed.into_iter().filter(|(_, is_set, _)| !is_set) {
        broke(broken, keys, "is not set while api.identity is \"jwt\"", remedy);
    }
    if let Some(path) = &api.jwt_keys_file
        && let Err(error) = key_set_of_file(path)
    {
        let shown = path.display();
        let remedy = "name a JWKS of at most 1 MiB, or a file with one block BEGIN PUBLIC KEY, as \
                      `openssl pkey -in KEY -pubout` and `openssl x509 -in CERTIFICATE -pubkey -noout` \
                      write it";
        let fault = match &error {
            SourceError::File(cause) => format!("names {shown}, which cannot be read: {cause}"),
            SourceError::NoKeys(cause) => format!("names {shown}, which {cause}"),
            other => format!("names {shown}: {other}"),
        };
        broke(broken, &["api.jwt.keys_file"], fault, remedy);
    }
    let is_https = api.jwt_jwks_url.as_ref().is_some_and(|url| url.scheme() == "https");
    if api.jwt_ca_file.is_some() && !is_https {
        let keys = &["api.jwt.ca_file", "api.jwt.jwks_url"];
        let fault = "is set while api.jwt.jwks_url is no https:// URL";
        broke(broken, keys, fault, "set api.jwt.jwks_url to such a URL, or leave it out");
    }
    certificates(&["api.jwt.ca_file"], api.jwt_ca_file.as_ref(), broken);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_clients_set_name_no_user() {
        for good in
            ["x-user", "X-User-Id", "remote-user", "x-auth-request-email", "x-amzn-oidc-identity"]
        {
            let parsed = Identity::parse(&format!("header:{good}"));
            assert_eq!(parsed, Some(Identity::Header(good.to_ascii_lowercase())), "{good}");
        }
        for bad in [
            "",
            "a b",
            "Cookie",
            "Forwarded",
            "X-Forwarded-User",
            "X-Forwarded-For",
            "Origin",
            "Referer",
            "User-Agent",
            "Accept",
            "Accept-Language",
            "Content-Type",
            "Content-Encoding",
            "Authorization",
            "Host",
            "Connection",
            "Keep-Alive",
            "Proxy-Authorization",
            "TE",
            "Trailer",
            "Transfer-Encoding",
            "Upgrade",
            "X-Coupond-Gateway",
            "Idempotency-Key",
            "X-Idempotency-Key",
            "Prefer",
            "If-Match",
            "Sec-Fetch-Site",
        ] {
            assert_eq!(Identity::parse(&format!("header:{bad}")), None, "{bad}");
        }
    }

    #[test]
    fn a_url_of_keys_is_private() {
        for good in [
            "https://login.example.com/.well-known/jwks.json?version=2",
            "https://10.0.0.1:8443/keys",
            "http://localhost:9000/keys",
            "http://127.0.0.5/keys",
            "http://[::1]:9000/keys",
        ] {
            assert!(jwks_url(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/keys",
            "login.example.com/keys",
            "http://login.example.com/keys",
            "http://10.0.0.1/keys",
            "http://localhost.example.com/keys",
            "http://0.0.0.0/keys",
            "https://user:secret@login.example.com/keys",
            "https://login.example.com/keys#a",
            "ftp://localhost/keys",
            "file:///etc/keys.json",
        ] {
            assert!(jwks_url(bad).is_none(), "{bad}");
        }
    }
}
