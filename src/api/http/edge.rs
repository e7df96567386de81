//! What every request of a listener must fulfil before its call is looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, Uri, Version, header, request},
    response::{IntoResponse, Response},
};
use tower::Service;

use super::{
    body,
    cors::Cors,
    identity::Gateway,
    problem::{Kind, Problem},
};
use crate::config::{Listen, Origins, Secret};

/// Longest query, in bytes, and most pairs of it. The calls take three parameters at most; a page may
/// pass on those of its own address.
const QUERY_BYTES_MAX: usize = 2 * 1_024;
const QUERY_PAIRS_MAX: usize = 32;

/// The rules of one listener for the requests that reach it.
pub(crate) struct Edge {
    /// The names that `Host` may have beside IP addresses and `localhost`. `None`: any name.
    hosts: Option<Vec<String>>,
    /// The pages of other origins that may call the listener.
    cors: Cors,
    /// The token that every request must have, but for those about health.
    gateway: Option<Gateway>,
}

impl Edge {
    /// Returns the rules of a listener on `listen`. On loopback, a page in a browser of this machine
    /// could reach it under a name of its own (DNS rebinding): there, only `localhost`, IP addresses
    /// and `hosts` are names of it.
    pub(crate) fn new(listen: &Listen, hosts: &[String]) -> Self {
        let hosts = listen.is_loopback().then(|| hosts.to_vec());
        Self { hosts, cors: Cors::default(), gateway: None }
    }

    /// Returns the same rules for a listener that pages of these origins may call.
    pub(crate) fn with_origins(self, origins: &Origins) -> Self {
        Self { cors: Cors::new(origins), ..self }
    }

    /// Returns the same rules for a listener that takes requests only from a gateway, if there is a token.
    pub(crate) fn with_gateway_token(self, token: Option<&Secret>) -> Self {
        Self { gateway: token.map(|token| Gateway::new(token.expose())), ..self }
    }

    /// Answers a request that breaks a rule, or is a preflight; passes any other on to `router`.
    pub(super) async fn answer(
        &self,
        head: request::Parts,
        body: Body,
        mut router: Router,
    ) -> Response {
        let spoken = self.cors.spoken(&head);
        let mut response = match self.check(&head) {
            Err(problem) => body::unread(&head.headers, body, problem).await.into_response(),
            Ok(()) => match spoken.as_ref().and_then(|spoken| spoken.preflight()) {
                Some(preflight) => preflight,
                None => {
                    let answer = router.call(Request::from_parts(head, body)).await;
                    answer.unwrap_or_else(|never| match never {})
                }
            },
        };
        if let Some(spoken) = spoken {
            spoken.add_to(response.headers_mut());
        }
        response
    }

    /// Checks transfer coding, host, gateway and length of the query.
    ///
    /// # Errors
    /// 501, 400, 421, 401 or 414.
    pub(super) fn check(&self, head: &request::Parts) -> Result<(), Problem> {
        check_transfer_coding(&head.headers)?;
        self.check_host(head)?;
        if let Some(gateway) = &self.gateway {
            gateway.check(head.uri.path(), &head.headers)?;
        }
        check_query(&head.uri)
    }

    fn check_host(&self, head: &request::Parts) -> Result<(), Problem> {
        let mut values = head.headers.get_all(header::HOST).iter();
        let value = values.next();
        if values.next().is_some() || (value.is_none() && head.version == Version::HTTP_11) {
            return Err(Problem::new(Kind::MalformedRequest, "Host must be given once").blaming(
                "Host",
                "given once",
                "send the header once, with the name of the node",
            ));
        }
        let Some(hosts) = &self.hosts else { return Ok(()) };
        // RFC 9112: a target with an authority counts, not the header. HTTP/1.0 needs neither, and no
        // browser speaks it.
        let named = match (head.uri.host(), value) {
            (Some(host), _) => Some(host),
            (None, Some(value)) => Some(without_port(value.to_str().unwrap_or_default())),
            (None, None) => return Ok(()),
        };
        if named.is_some_and(|named| is_ours(named, hosts)) {
            return Ok(());
        }
        let detail = "Host is no name of this node; the listener is on loopback, where only IP \
                      addresses, localhost, and the names in the setting api.hosts (or admin.hosts) are";
        let remedy = "call the node by its address, or add the name to the setting";
        Err(Problem::new(Kind::Misdirected, detail).blaming("Host", "a name of this node", remedy))
    }
}

fn check_transfer_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = values.next();
    let is_chunked = first
        .is_none_or(|value| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
        && values.next().is_none();
    if is_chunked { Ok(()) } else { Err(Problem::transfer_encoding()) }
}

pub(super) fn check_query(uri: &Uri) -> Result<(), Problem> {
    let Some(query) = uri.query() else { return Ok(()) };
    let is_short = query.len() <= QUERY_BYTES_MAX
        && query.bytes().filter(|byte| *byte == b'&').count() < QUERY_PAIRS_MAX;
    if is_short {
        return Ok(());
    }
    let rule = format!("at most {QUERY_PAIRS_MAX} pairs and {QUERY_BYTES_MAX} bytes");
    let problem = Problem::new(Kind::QueryTooLong, format!("the query must have {rule}"));
    Err(problem.blaming("query", rule, "send only the parameters that this call takes"))
}

/// Returns a host without its port. An IPv6 address stays in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn is_ours(named: &str, hosts: &[String]) -> bool {
    let bracketed = named.strip_prefix('[').and_then(|named| named.strip_suffix(']'));
    let address = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().map(IpAddr::V6),
        None => named.parse::<Ipv4Addr>().map(IpAddr::V4),
    };
    // A name may end with the dot of the root.
    let name = named.strip_suffix('.').unwrap_or(named);
    let is_name = |host: &str| host.eq_ignore_ascii_case(name);
    address.is_ok() || is_name("localhost") || hosts.iter().any(|host| is_name(host))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn status(edge: &Edge, uri: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        edge.check(&head).err().map(|problem| problem.slug())
    }

    #[test]
    fn on_loopback_only_our_names_are_served() {
        let edge = Edge::new(&"127.0.0.1:8080".parse().unwrap(), &["coupons.test".to_owned()]);
        for ours in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "10.0.0.7",
            "[::1]",
            "[::1]:8080",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "coupons.test",
            "Coupons.Test:8080",
        ] {
            assert_eq!(status(&edge, "/", &[("host", ours)]), None, "{ours}");
        }
        for other in [
            "evil.example",
            "evil.example:8080",
            "",
            ":8080",
            "localhost.evil.example",
            "127.0.0.1.",
            "127.1",
            "[::1",
            "::1",
            "a,localhost",
            "localhost@evil.example",
        ] {
            assert_eq!(status(&edge, "/", &[("host", other)]), Some("misdirected"), "{other}");
        }
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(status(&edge, "/", &twice), Some("malformed-request"));
        assert_eq!(status(&edge, "/", &[]), Some("malformed-request"));
        let local = [("host", "localhost")];
        assert_eq!(status(&edge, "http://evil.example/", &local), Some("misdirected"));
    }

    #[test]
    fn off_loopback_any_name_is_served() {
        let edge = Edge::new(&"0.0.0.0:8080".parse().unwrap(), &[]);
        assert_eq!(status(&edge, "/", &[("host", "coupons.example")]), None);
        assert_eq!(status(&edge, "/", &[]), Some("malformed-request"));
    }

    #[test]
    fn with_a_gateway_token_everything_but_health_needs_it() {
        let secret = Secret::from("the-token-of-a-gateway");
        let edge =
            Edge::new(&"0.0.0.0:8080".parse().unwrap(), &[]).with_gateway_token(Some(&secret));
        let ask = |uri: &str, tokens: &[&str]| {
            let tokens = tokens.iter().map(|token| ("x-coupond-gateway", *token));
            let headers: Vec<_> = [("host", "a")].into_iter().chain(tokens).collect();
            status(&edge, uri, &headers)
        };
        let right = "the-token-of-a-gateway";
        for uri in ["/coupon/issue", "/campaigns", "/openapi.json", "/", "/nothing", "/healthy"] {
            assert_eq!(ask(uri, &[right]), None, "{uri}");
            for wrong in
                [&[][..], &[""], &["the-token-of-a-gatewa"], &[right, right], &["Bearer x"]]
            {
                assert_eq!(ask(uri, wrong), Some("no-gateway"), "{uri} {wrong:?}");
            }
        }
        for uri in ["/health/live", "/health/ready"] {
            assert_eq!(ask(uri, &[]), None, "{uri}");
        }
    }

    #[test]
    fn long_queries_are_refused() {
        let edge = Edge::new(&"0.0.0.0:8080".parse().unwrap(), &[]);
        let ask = |query: String| status(&edge, &format!("/campaigns?{query}"), &[("host", "a")]);
        assert_eq!(ask("a&".repeat(31)), None);
        assert_eq!(ask("a&".repeat(32)), Some("query-too-long"));
        assert_eq!(ask("a".repeat(QUERY_BYTES_MAX)), None);
        assert_eq!(ask("a".repeat(QUERY_BYTES_MAX + 1)), Some("query-too-long"));
    }

    #[test]
    fn only_chunked_is_a_transfer_coding() {
        let edge = Edge::new(&"0.0.0.0:8080".parse().unwrap(), &[]);
        let ask = |codings: &[&str]| {
            let codings = codings.iter().map(|coding| ("transfer-encoding", *coding));
            let headers: Vec<_> = [("host", "a")].into_iter().chain(codings).collect();
            status(&edge, "/", &headers)
        };
        assert_eq!(ask(&["chunked"]), None);
        assert_eq!(ask(&["Chunked "]), None);
        let others: [&[&str]; 4] =
            [&["gzip, chunked"], &["chunked", "chunked"], &["identity"], &[""]];
        for other in others {
            assert_eq!(ask(other), Some("unsupported-transfer-encoding"), "{other:?}");
        }
    }
}
