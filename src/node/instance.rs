//! The identity of an instance: layout, secret and admin token.

use std::sync::Arc;

use super::{ServeError, embedded::OPENING};
use crate::{
    config::{Config, Secret},
    domain::{
        identity_fold::IdentityFold,
        ids::ProcessName,
        keys::{Keys, hex},
    },
    embedded::{FolderError, SecretFile, data_folder, kept_secret},
    store::{CouponStore, LOG_EPOCH, Layout},
};

/// Random bytes of an instance id and of a generated secret.
const INSTANCE_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// The file of the admin token in the data folder.
const ADMIN_TOKEN_FILE: SecretFile = SecretFile { name: "admin.token", bytes_min: 1 };

/// The properties of an instance that are fixed at its first start.
pub(super) struct Instance {
    pub(super) layout: Layout,
    pub(super) keys: Arc<Keys>,
    /// The secret, where coupond keeps it and no setting names it.
    pub(super) kept_secret: Option<Secret>,
}

impl Instance {
    /// Creates the layout of the instance or reads the existing one, and checks it against this
    /// node.
    ///
    /// `secret` is the configured or stored one. Without one, a new secret is generated and stored in
    /// the layout. `partitions` is the number of partitions of the log, `fold` the setting of that name.
    /// `new_data` is the remedy for data of another format.
    pub(super) async fn establish(
        store: &dyn CouponStore,
        secret: Option<String>,
        partitions: u32,
        fold: IdentityFold,
        new_data: &str,
    ) -> Result<Self, ServeError> {
        let made = match &secret {
            Some(_) => None,
            None => Some(random(SECRET_BYTES)?),
        };
        let proposed_secret = secret.as_ref().or(made.as_ref());
        let proposed_keys = Keys::derive(proposed_secret.map_or("", String::as_str).as_bytes());
        let fingerprint = proposed_keys.fingerprint().to_owned();
        let proposed = Layout::new(random(INSTANCE_BYTES)?, partitions, fingerprint);
        let identity_fold = fold.name().to_owned();
        let proposed = Layout { secret: made, identity_fold, ..proposed };
        let layout = store
            .layout(&proposed)
            .await
            .map_err(|error| ServeError::failed("reading the layout of the instance", error))?;
        check_format(&layout, new_data)?;
        let keys = match (&secret, &layout.secret) {
            (Some(secret), _) | (None, Some(secret)) => Keys::derive(secret.as_bytes()),
            (None, None) => {
                return Err(ServeError::unfit(
                    "the instance was created with a secret that is not in its layout",
                    "set secret.key to that secret",
                ));
            }
        };
        check(&layout, &keys, partitions, fold)?;
        // One that is configured comes first, and then this one may be an old copy.
        let kept_secret = match (&secret, &layout.secret) {
            (None, Some(kept)) => Some(kept.as_str().into()),
            _ => None,
        };
        Ok(Self { layout, keys: Arc::new(keys), kept_secret })
    }
}

/// Refuses a layout of another format.
pub(super) fn check_format(layout: &Layout, new_data: &str) -> Result<(), ServeError> {
    let refused = |other| ServeError::unfit(format!("the instance {other}"), new_data);
    layout.check_format().map_err(refused)
}

fn check(
    layout: &Layout,
    keys: &Keys,
    partitions: u32,
    fold: IdentityFold,
) -> Result<(), ServeError> {
    if layout.fingerprint != keys.fingerprint() {
        let (found, ours) = (&layout.fingerprint, keys.fingerprint());
        return Err(ServeError::unfit(
            format!("the instance has the secret {found}, but secret.key is {ours} (fingerprints)"),
            "set secret.key to the secret of the instance",
        ));
    }
    let (found, ours) = (&layout.identity_fold, fold.name());
    if found != ours {
        return Err(ServeError::unfit(
            format!("the instance folds user ids by {found:?}, but identity_fold is {ours:?}"),
            format!(
                "set identity_fold = {found:?}: it was fixed at the first start of the instance"
            ),
        ));
    }
    if layout.log_epoch != LOG_EPOCH {
        let epoch = layout.log_epoch;
        return Err(ServeError::unfit(
            format!("the instance has log epoch {epoch}, this version knows only {LOG_EPOCH}"),
            "start the version that last used it, or a newer one",
        ));
    }
    if partitions < layout.partitions {
        let wanted = layout.partitions;
        return Err(ServeError::unfit(
            format!("the log has {partitions} partitions, the layout expects {wanted}"),
            "add partitions to the request topic up to this number; campaigns are routed by it",
        ));
    }
    if partitions > layout.partitions {
        let used = layout.partitions;
        tracing::warn!(partitions, used, "log has more partitions than the layout uses");
    }
    Ok(())
}

/// Returns the configured admin token, else the one in the data folder; generates it at the first
/// start. None, if the listener is not on loopback and only keys are configured.
pub(super) fn admin_token(config: &Config) -> Result<Option<String>, ServeError> {
    if let Some(token) = &config.admin.token {
        return Ok(Some(token.expose().to_owned()));
    }
    if !config.admin.listen.is_loopback() {
        // Whoever is not listed in `admin.keys` must not get in by a file that was once made.
        return Ok(None);
    }
    let folder = &config.embedded.dir;
    data_folder(folder).map_err(|error| ServeError::failed(OPENING, error))?;
    kept_secret(folder, ADMIN_TOKEN_FILE).map(Some).map_err(|error| match error {
        FolderError::Secret { .. } => ServeError::unfit(
            error.to_string(),
            "write a token into the file, or remove it so that a new one is generated",
        ),
        error => ServeError::failed("writing the admin token", error),
    })
}

/// Draws the name of this process.
pub(super) fn process_name() -> Result<ProcessName, ServeError> {
    let number = getrandom::u64()
        .map_err(|error| ServeError::failed("reading random bytes", error.to_string()))?;
    Ok(ProcessName::of(number))
}

fn random(bytes: usize) -> Result<String, ServeError> {
    let mut random = vec![0_u8; bytes];
    getrandom::fill(&mut random)
        .map_err(|error| ServeError::failed("reading random bytes", error.to_string()))?;
    Ok(hex(&random))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn an_instance_keeps_its_fold() {
        let store = MemoryStore::default();
        let secret = "a secret of at least 32 bytes, and more".to_owned();
        let establish = async |fold| {
            let made = Instance::establish(&store, Some(secret.clone()), 4, fold, "new data").await;
            made.map(|instance| instance.layout.identity_fold)
        };
        assert_eq!(establish(IdentityFold::Lower).await.unwrap(), "lower");
        assert_eq!(establish(IdentityFold::Lower).await.unwrap(), "lower");
        let refused = establish(IdentityFold::None).await.unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert_eq!(
            refused.to_string(),
            "the instance folds user ids by \"lower\", but identity_fold is \"none\"; set \
             identity_fold = \"lower\": it was fixed at the first start of the instance"
        );
    }

    #[test]
    fn a_token_is_made_on_loopback_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.embedded.dir = folder.path().to_owned();
        let made = admin_token(&config).unwrap();
        assert!(made.as_ref().is_some_and(|token| token.len() >= 16), "{made:?}");
        assert_eq!(admin_token(&config).unwrap(), made, "it is kept");
        config.admin.listen = "0.0.0.0:8081".parse().unwrap();
        assert_eq!(admin_token(&config).unwrap(), None, "what was made once admits nobody");
        config.admin.token = Some("a-token-of-somebody".into());
        assert_eq!(admin_token(&config).unwrap().as_deref(), Some("a-token-of-somebody"));
    }
}
