//! Keys that come and go: files that change, issuers that are away, tokens that are remembered.

use std::{path::Path, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};

use super::*;
use crate::identity::{
    KeyRing, Refused, Source, Verifier,
    testing::{StandingClock, claims},
};

/// What an issuer answers, and how often it was asked.
#[derive(Default)]
struct Answers {
    status: u16,
    body: String,
    asked: usize,
}

/// An issuer on loopback.
#[derive(Clone)]
struct Issuer(Arc<Mutex<Answers>>);

impl Issuer {
    fn answering(status: u16, body: String) -> Self {
        Self(Arc::new(Mutex::new(Answers { status, body, asked: 0 })))
    }

    fn answer(&self, status: u16, body: String) {
        let mut answers = self.0.lock();
        (answers.status, answers.body) = (status, body);
    }

    fn asked(&self) -> usize {
        self.0.lock().asked
    }

    /// Starts to answer, and returns the URL.
    async fn listen(&self, tasks: &mut JoinSet<()>) -> Source {
        async fn keys(State(Issuer(answers)): State<Issuer>) -> (StatusCode, String) {
            let mut answers = answers.lock();
            answers.asked += 1;
            (StatusCode::from_u16(answers.status).unwrap(), answers.body.clone())
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", get(keys)).with_state(self.clone());
        tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Source::at(url.parse().unwrap(), None).unwrap()
    }
}

/// A verifier whose keys are kept.
struct Kept {
    verifier: Verifier,
    clock: Arc<StandingClock>,
    _tasks: JoinSet<()>,
}

impl Kept {
    async fn of(source: Source, mut tasks: JoinSet<()>) -> Self {
        let clock = Arc::new(StandingClock::default());
        let ring = Arc::new(KeyRing::new(source, clock.clone()));
        let kept = ring.clone();
        tasks.spawn(async move { kept.run().await });
        ring.first_read().await;
        let verifier = Verifier::new(rules(), ring, clock.clone());
        Self { verifier, clock, _tasks: tasks }
    }

    async fn of_issuer(issuer: &Issuer) -> Self {
        let mut tasks = JoinSet::new();
        let source = issuer.listen(&mut tasks).await;
        Self::of(source, tasks).await
    }

    async fn user(&self, token: &str) -> Result<String, Refused> {
        self.verifier.user(token).await.map(|user| user.to_string())
    }
}

const UNKNOWN: Result<String, Refused> = Err(Refused::Flaw(Flaw::UnknownKey));

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_in_10_s() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Issuer::answering(200, jwks(&[&old]));
    let kept = Kept::of_issuer(&issuer).await;
    assert_eq!(kept.user(&old.token(&claims("ada"))).await.as_deref(), Ok("ada"));
    assert_eq!(issuer.asked(), 1);
    // The issuer rotates: the first token of the new key makes it known.
    issuer.answer(200, jwks(&[&old, &new]));
    assert_eq!(kept.user(&new.token(&claims("bob"))).await.as_deref(), Ok("bob"));
    assert_eq!(issuer.asked(), 2);
    for name in ["x", "y", "z"] {
        assert_eq!(kept.user(&SigningKey::es256(name).token(&claims("eve"))).await, UNKNOWN);
    }
    kept.clock.pass(9);
    let stranger = SigningKey::es256("stranger").token(&claims("eve"));
    assert_eq!(kept.user(&stranger).await, UNKNOWN);
    assert_eq!(issuer.asked(), 2, "10 s are not over");
    kept.clock.pass(1);
    assert_eq!(kept.user(&stranger).await, UNKNOWN);
    assert_eq!(issuer.asked(), 3);
}

#[tokio::test]
async fn many_unknown_keys_share_one_read() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let issuer = Issuer::answering(200, jwks(&[&old]));
    let kept = Kept::of_issuer(&issuer).await;
    issuer.answer(200, jwks(&[&old, &new]));
    let tokens: Vec<_> = (0..20).map(|user| new.token(&claims(&format!("u{user}")))).collect();
    let users = futures_util::future::join_all(tokens.iter().map(|token| kept.user(token))).await;
    assert!(users.iter().all(Result::is_ok), "{users:?}");
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn keys_stay_while_the_issuer_is_away() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::answering(200, jwks(&[&key]));
    let kept = Kept::of_issuer(&issuer).await;
    let stranger = SigningKey::es256("stranger").token(&claims("eve"));
    let too_long = format!("{}{}", jwks(&[&key]), " ".repeat(1 << 20));
    for (status, body) in [
        (500, jwks(&[&key])),
        (302, jwks(&[&key])),
        (204, String::new()),
        (200, "<html>".to_owned()),
        (200, r#"{"keys":[]}"#.to_owned()),
        (200, too_long),
    ] {
        issuer.answer(status, body);
        kept.clock.pass(10);
        let before = issuer.asked();
        assert_eq!(kept.user(&stranger).await, UNKNOWN, "{status}");
        assert_eq!(issuer.asked(), before + 1, "{status}");
        let token = key.token(&with(claims("ada"), "exp", (NOON + 900 + status as i64).into()));
        assert_eq!(kept.user(&token).await.as_deref(), Ok("ada"), "{status}");
    }
}

#[tokio::test]
async fn without_a_first_key_set_nothing_is_verified() {
    let key = SigningKey::es256("a");
    let issuer = Issuer::answering(503, String::new());
    let kept = Kept::of_issuer(&issuer).await;
    let token = key.token(&claims("ada"));
    assert_eq!(kept.user(&token).await, Err(Refused::NoKeys));
    issuer.answer(200, jwks(&[&key]));
    // The task tries again by itself.
    loop {
        match kept.user(&token).await {
            Err(Refused::NoKeys) => tokio::task::yield_now().await,
            user => return assert_eq!(user.as_deref(), Ok("ada")),
        }
    }
}

#[tokio::test]
async fn a_key_set_of_1_mib_is_taken() {
    let key = SigningKey::es256("a");
    let body = jwks(&[&key]);
    let padded = format!("{body}{}", " ".repeat((1 << 20) - body.len()));
    let kept = Kept::of_issuer(&Issuer::answering(200, padded)).await;
    assert_eq!(kept.user(&key.token(&claims("ada"))).await.as_deref(), Ok("ada"));
}

#[tokio::test]
async fn a_remembered_token_ends_with_exp_and_keys() {
    let (old, new) = (SigningKey::es256("a"), SigningKey::es256("b"));
    let issuer = Issuer::answering(200, jwks(&[&old]));
    let kept = Kept::of_issuer(&issuer).await;
    let token = old.token(&claims("ada"));
    for _ in 0..3 {
        assert_eq!(kept.user(&token).await.as_deref(), Ok("ada"));
    }
    assert_eq!(kept.verifier.remembered_count(), 1);
    // The issuer withdraws the key; somebody asks with a new one.
    issuer.answer(200, jwks(&[&new]));
    assert!(kept.user(&new.token(&claims("bob"))).await.is_ok());
    assert_eq!(kept.user(&token).await, UNKNOWN);
    let bob = new.token(&claims("bob"));
    kept.clock.pass(89);
    assert!(kept.user(&bob).await.is_ok());
    kept.clock.pass(1);
    assert_eq!(kept.user(&bob).await, Err(Refused::Flaw(Flaw::Expired)));
    assert_eq!(kept.user(&bob).await, Err(Refused::Flaw(Flaw::Expired)));
}

#[tokio::test]
async fn wrong_tokens_are_not_remembered() {
    let key = SigningKey::es256("a");
    let kept = Kept::of_issuer(&Issuer::answering(200, jwks(&[&key]))).await;
    let forged = key.token(&claims("ada")) + "AAAA";
    assert_eq!(kept.user(&forged).await, Err(Refused::Flaw(Flaw::Signature)));
    let early = key.token(&with(claims("ada"), "nbf", (NOON + 40).into()));
    assert_eq!(kept.user(&early).await, Err(Refused::Flaw(Flaw::NotYetValid)));
    assert_eq!(kept.verifier.remembered_count(), 0);
    kept.clock.pass(10);
    assert_eq!(kept.user(&early).await.as_deref(), Ok("ada"));
    let long = "a".repeat(100_000);
    assert_eq!(kept.user(&long).await, Err(Refused::Flaw(Flaw::Oversized)));
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_file_of_keys_is_read_again() {
    let (old, new) = (SigningKey::es256("old"), SigningKey::es256("new"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.json");
    write(&path, &jwks(&[&old]));
    let kept = Kept::of(Source::File(path.clone()), JoinSet::new()).await;
    assert!(kept.user(&old.token(&claims("ada"))).await.is_ok());
    write(&path, &jwks(&[&old, &new]));
    assert_eq!(kept.user(&new.token(&claims("bob"))).await.as_deref(), Ok("bob"));
    std::fs::remove_file(&path).unwrap();
    kept.clock.pass(10);
    assert_eq!(kept.user(&SigningKey::es256("x").token(&claims("eve"))).await, UNKNOWN);
    assert!(kept.user(&old.token(&claims("ada"))).await.is_ok(), "the keys stay");
    // One key in PEM replaces the set.
    write(&path, &new.pem());
    kept.clock.pass(10);
    assert_eq!(
        kept.user(&SigningKey::es256("y").token(&claims("eve"))).await,
        Err(Refused::Flaw(Flaw::Signature))
    );
    assert!(kept.user(&old.token(&claims("ada"))).await.is_err());
    assert!(kept.user(&new.token(&claims("bob"))).await.is_ok());
}
