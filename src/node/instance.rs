//! Which instance this is: its layout, its secret, its admin token.

use std::sync::Arc;

use super::{ServeError, embedded::OPENING};
use crate::{
    config::Config,
    domain::keys::{Keys, hex},
    embedded::{FolderError, SecretFile, data_folder, kept_secret},
    store::{CouponStore, LOG_EPOCH, Layout},
};

/// Random bytes of an instance's name and of a secret that coupond makes.
const INSTANCE_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// The file of the admin token in the data folder.
const ADMIN_TOKEN_FILE: SecretFile = SecretFile { name: "admin.token", bytes_min: 1 };

/// An instance: what is fixed when it first starts.
pub(super) struct Instance {
    pub(super) layout: Layout,
    pub(super) keys: Arc<Keys>,
}

impl Instance {
    /// Creates the instance's layout or takes the one in force, and checks that it fits.
    ///
    /// `secret` is the configured or kept one; where there is none, one is made and kept in the
    /// layout. `partitions` is the number that the log has. `new_data` is the remedy for data of
    /// another format.
    pub(super) async fn establish(
        store: &dyn CouponStore,
        secret: Option<String>,
        partitions: u32,
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
        let proposed = Layout { secret: made, ..proposed };
        let layout = store
            .layout(&proposed)
            .await
            .map_err(|error| ServeError::failed("reading the instance's layout", error))?;
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
        check(&layout, &keys, partitions)?;
        Ok(Self { layout, keys: Arc::new(keys) })
    }
}

/// Refuses a layout of another format.
pub(super) fn check_format(layout: &Layout, new_data: &str) -> Result<(), ServeError> {
    let refused = |other| ServeError::unfit(format!("the instance {other}"), new_data);
    layout.check_format().map_err(refused)
}

fn check(layout: &Layout, keys: &Keys, partitions: u32) -> Result<(), ServeError> {
    if layout.fingerprint != keys.fingerprint() {
        let (found, ours) = (&layout.fingerprint, keys.fingerprint());
        return Err(ServeError::unfit(
            format!("the instance was created under secret {found}, secret.key is {ours}"),
            "set secret.key to the instance's secret (these are fingerprints)",
        ));
    }
    if layout.log_epoch != LOG_EPOCH {
        let epoch = layout.log_epoch;
        return Err(ServeError::unfit(
            format!("the instance has log epoch {epoch}, this version knows only {LOG_EPOCH}"),
            "start the version that it was last used with, or a newer one",
        ));
    }
    if partitions < layout.partitions {
        let wanted = layout.partitions;
        return Err(ServeError::unfit(
            format!("the log has {partitions} partitions, the layout {wanted}"),
            "give the log back the partitions that it had; campaigns are routed over them",
        ));
    }
    if partitions > layout.partitions {
        let used = layout.partitions;
        tracing::warn!(partitions, used, "log has more partitions than the layout uses");
    }
    Ok(())
}

/// The token that administers: configured, or made on the first start and kept.
pub(super) fn admin_token(config: &Config) -> Result<String, ServeError> {
    if let Some(token) = &config.admin.token {
        return Ok(token.expose().to_owned());
    }
    let folder = &config.embedded.dir;
    data_folder(folder).map_err(|error| ServeError::failed(OPENING, error))?;
    kept_secret(folder, ADMIN_TOKEN_FILE).map_err(|error| match error {
        FolderError::Secret { .. } => ServeError::unfit(
            error.to_string(),
            "write a token into it, or remove it: another one is made then",
        ),
        error => ServeError::failed("keeping an admin token", error),
    })
}

fn random(bytes: usize) -> Result<String, ServeError> {
    let mut random = vec![0_u8; bytes];
    getrandom::fill(&mut random)
        .map_err(|error| ServeError::failed("asking for randomness", error.to_string()))?;
    Ok(hex(&random))
}
