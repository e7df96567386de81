//! Users by token, and user ids that are folded.

use tempfile::TempDir;

use super::{issue::taken, *};
use crate::identity::{
    KeyRing, Source, Verifier,
    testing::{SigningKey, StandingClock, claims, jwks, rules},
};

/// A site where tokens name the users, and the key that signs them.
struct Issued {
    site: Site,
    key: SigningKey,
    _folder: TempDir,
    _task: tokio::task::JoinSet<()>,
}

impl Issued {
    /// Builds the site. Without `keys`, the issuer has published none.
    async fn with(service: Script, keys: bool, fold: IdentityFold) -> Self {
        let key = SigningKey::es256("a");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        if keys {
            std::fs::write(&path, jwks(&[&key])).unwrap();
        }
        let clock = Arc::new(StandingClock::default());
        let ring = Arc::new(KeyRing::new(Source::File(path), clock.clone()));
        let kept = ring.clone();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move { kept.run().await });
        ring.first_read().await;
        let rules = crate::identity::Rules { fold, ..rules() };
        let verifier = Some(Arc::new(Verifier::new(rules, ring, clock)));
        let service = Arc::new(service);
        let parts = parts(Arc::clone(&service), Identity::Jwt);
        let site = Site::from(HttpParts { verifier, identity_fold: fold, ..parts }, service);
        Self { site, key, _folder: folder, _task: task }
    }

    async fn new(service: Script) -> Self {
        Self::with(service, true, IdentityFold::None).await
    }

    /// Sends a request with the token of a user.
    async fn as_user(&self, user: &str, request: Request<Body>) -> Reply {
        self.bearing(&self.key.token(&claims(user)), request).await
    }

    async fn bearing(&self, token: &str, request: Request<Body>) -> Reply {
        self.site.public(with(request, &[("authorization", &format!("Bearer {token}"))])).await
    }
}

const BODY: &str = r#"{"campaign_id":"spring","user_id":"u1"}"#;
const ALONE: &str = r#"{"campaign_id":"spring"}"#;
const PENDING: &str =
    r#"{"request_id":"r-1","campaign_id":"spring","user_id":"u1","status":"pending"}"#;

fn post(body: &'static str) -> Request<Body> {
    send("POST", "/coupon/issue", body)
}

#[tokio::test]
async fn the_token_names_the_user() {
    let issued = Issued::new(taken(None)).await;
    for body in [BODY, ALONE] {
        issued.as_user("u1", post(body)).await.expect(202, PENDING);
    }
    let asked = "issue (\"spring\", \"u1\", None, None)".to_owned();
    assert_eq!(issued.site.service.asked(), [asked.clone(), asked]);
    issued.as_user("u2", post(BODY)).await.problem(403, "another-user");
    assert_eq!(issued.as_user("u1", post("{}")).await.faults(), ["campaign_id"]);
    assert_eq!(issued.site.service.asked().len(), 2);
}

#[tokio::test]
async fn without_a_token_bearer_is_asked_for() {
    let issued = Issued::new(taken(None)).await;
    let coupons = "/campaigns/spring/users/u1/coupons";
    let requests = || [post(BODY), post(ALONE), get("/coupon/requests/r-1"), get(coupons)];
    for authorization in [None, Some("Basic dTE6cGFzcw=="), Some("Bearer"), Some("Bearer ")] {
        for request in requests() {
            let headers = authorization.map(|value| ("authorization", value));
            let reply = issued.site.public(with(request, headers.as_slice())).await;
            assert_eq!(reply.blamed(401, "no-identity"), ["Authorization"]);
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{authorization:?}");
        }
    }
    for open in ["/campaigns", "/campaigns/spring", "/openapi.json"] {
        assert_eq!(issued.site.public(get(open)).await.status, 200, "{open} needs no identity");
    }
    assert!(!issued.site.service.asked().iter().any(|asked| asked.starts_with("issue")));
}

#[tokio::test]
async fn a_wrong_token_is_described() {
    let issued = Issued::new(taken(None)).await;
    let good = claims("u1");
    let token = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        issued.key.token(&claims)
    };
    let none = "eyJhbGciOiJub25lIn0.e30.".to_owned();
    for (token, description) in [
        (token("exp", 1.into()), "the token has expired"),
        (token("aud", "shop".into()), "the token is for another audience, or aud is missing"),
        (token("iss", "evil".into()), "the token is of another issuer, or iss is missing"),
        (issued.key.token(&good) + "AAAA", "the signature of the token is wrong"),
        (none, "the token is not signed, its alg is none"),
        (
            "a.b".to_owned(),
            "the token is not three parts of base64url without padding, joined by dots",
        ),
        ("a".repeat(13_000), "the token is longer than 12288 bytes"),
    ] {
        let reply = issued.bearing(&token, post(ALONE)).await;
        let document = reply.problem(401, "invalid-token");
        assert_eq!(document["detail"], description);
        let challenge =
            format!("Bearer error=\"invalid_token\", error_description=\"{description}\"");
        assert_eq!(reply.header("www-authenticate"), Some(challenge.as_str()));
    }
    let right = format!("bearer {}", issued.key.token(&good));
    let twice = [("authorization", right.as_str()), ("authorization", right.as_str())];
    issued.site.public(with(post(ALONE), &twice)).await.problem(401, "invalid-token");
    issued.site.public(with(post(ALONE), &twice[..1])).await.expect(202, PENDING);
}

#[tokio::test]
async fn users_read_only_their_own() {
    let issued = Issued::new(Script::default()).await;
    for path in ["/campaigns/spring/users/u1/coupons", "/coupon/requests/r-1"] {
        issued.as_user("u2", get(path)).await.problem(403, "another-user");
        assert!([200, 202].contains(&issued.as_user("u1", get(path)).await.status), "{path}");
    }
}

#[tokio::test]
async fn without_keys_nobody_is_let_in() {
    let issued = Issued::with(taken(None), false, IdentityFold::None).await;
    let reply = issued.as_user("u1", post(ALONE)).await;
    reply.problem(503, "unavailable");
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(issued.site.public(get("/campaigns")).await.status, 200);
    let service = Arc::new(taken(None));
    let site = Site::from(parts(service.clone(), Identity::Jwt), service);
    let bearing = with(post(ALONE), &[("authorization", "Bearer a.b.c")]);
    site.public(bearing).await.problem(503, "unavailable");
}

#[tokio::test]
async fn folded_ids_are_one_user() {
    let issued = Issued::with(Script::default(), true, IdentityFold::Lower).await;
    let body = r#"{"campaign_id":"spring","user_id":"Ada@Example.COM"}"#;
    let reply = issued.as_user("ADA@example.com", post(body)).await;
    assert_eq!((reply.status, reply.body.contains("\"ada@example.com\"")), (202, true));
    let path = "/campaigns/spring/users/Ada%40EXAMPLE.com/coupons";
    assert_eq!(issued.as_user("aDA@example.com", get(path)).await.status, 200);
    let asked = issued.site.service.asked();
    assert_eq!(asked[0], "issue (\"spring\", \"ada@example.com\", None, None)");
    assert_eq!(asked[1], "coupons_of (\"spring\", \"ada@example.com\")");

    for identity in [Identity::Trusted, Identity::Header("x-user".to_owned())] {
        let service = Arc::new(taken(None));
        let parts = parts(service.clone(), identity.clone());
        let identity_fold = IdentityFold::Lower;
        let site = Site::from(HttpParts { identity_fold, ..parts }, service);
        let body = r#"{"campaign_id":"spring","user_id":"U1"}"#;
        site.public(with(post(body), &[("x-user", "u1")])).await.expect(202, PENDING);
        let folded = with(post(BODY), &[("x-user", "U1")]);
        site.public(folded).await.expect(202, PENDING);
    }
}
