//! Starts the verification of users' tokens, where `api.identity` is "jwt".

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::ServeError;
use crate::{
    clock::SharedClock,
    config::{Config, Identity},
    identity::{KeyRing, Rules, Source, Verifier},
};

/// Pause before the task that keeps the keys runs again after a panic.
const RESTART_AFTER: Duration = Duration::from_secs(1);

const PREPARING: &str = "preparing to read the keys of the issuer (api.jwt)";

/// Returns what verifies tokens. `tasks` gets the task that keeps the issuer's keys: it runs for as long as
/// the node, and again after a panic. Returns once the keys were read, or could not be read.
pub(super) async fn verifier(
    config: &Config,
    clock: &SharedClock,
    tasks: &mut JoinSet<()>,
) -> Result<Option<Arc<Verifier>>, ServeError> {
    let api = &config.api;
    if api.identity != Identity::Jwt {
        return Ok(None);
    }
    let missing = |key: &str| {
        let found = format!("{key} is not set while api.identity is \"jwt\"");
        ServeError::unfit(found, format!("set {key}"))
    };
    let source = match (&api.jwt_keys_file, &api.jwt_jwks_url) {
        (Some(path), _) => Source::File(path.clone()),
        (None, Some(url)) => {
            let ca = api.jwt_ca_file.as_ref().map(std::fs::read).transpose();
            let ca = ca.map_err(|error| ServeError::failed(PREPARING, error))?;
            Source::at(url.clone(), ca.as_deref())
                .map_err(|error| ServeError::failed(PREPARING, error))?
        }
        (None, None) => return Err(missing("api.jwt.jwks_url")),
    };
    let rules = Rules {
        issuer: api.jwt_issuer.clone().ok_or_else(|| missing("api.jwt.issuer"))?,
        audience: api.jwt_audience.clone().ok_or_else(|| missing("api.jwt.audience"))?,
        claim: api.jwt_claim.clone(),
        // The setting has at most 300 s.
        leeway_ms: i64::try_from(api.jwt_leeway.as_millis()).unwrap_or(0),
        fold: config.identity_fold,
    };
    let ring = Arc::new(KeyRing::new(source, clock.clone()));
    tasks.spawn(kept(ring.clone(), clock.clone()));
    // So that a node that has just started answers no 503 where the issuer answers.
    ring.first_read().await;
    Ok(Some(Arc::new(Verifier::new(rules, ring, clock.clone()))))
}

async fn kept(ring: Arc<KeyRing>, clock: SharedClock) {
    loop {
        if AssertUnwindSafe(ring.run()).catch_unwind().await.is_err() {
            tracing::error!("task that keeps the issuer's keys panicked, restarting it");
        }
        clock.sleep(RESTART_AFTER).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Node;
    use crate::{
        clock::{Clock, SystemClock},
        config::{Config, Identity},
        identity::testing::{AUDIENCE, ISSUER, SigningKey, claims},
    };

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_asks_for_gateway_and_token() {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::es256("a");
        let keys = folder.path().join("public.pem");
        std::fs::write(&keys, key.pem()).unwrap();
        let mut config = Config { demo: false, ..Config::default() };
        config.embedded.dir = folder.path().join("data");
        config.embedded.reserve_bytes = 0;
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        config.api.identity = Identity::Jwt;
        config.api.jwt_keys_file = Some(keys);
        config.api.jwt_issuer = Some(ISSUER.to_owned());
        config.api.jwt_audience = Some(AUDIENCE.to_owned());
        config.api.gateway_token = Some("of-the-gateway".into());
        let node = Node::start(&config).await.unwrap();
        let mut claims = claims("ada");
        claims["exp"] = json!(SystemClock.now().0 / 1_000 + 600);
        let token = key.token(&claims);
        let asked = async |gateway: &str, token: &str| {
            let url = format!("http://{}/coupon/requests/unknown", node.api);
            let request = reqwest::Client::new().get(url).bearer_auth(token);
            let request = request.header("x-coupond-gateway", gateway);
            request.send().await.unwrap().status().as_u16()
        };
        assert_eq!(asked("of-somebody", &token).await, 401);
        assert_eq!(asked("of-the-gateway", "a.b.c").await, 401);
        assert_eq!(asked("of-the-gateway", &token).await, 404);
        node.stop().await;
    }
}
