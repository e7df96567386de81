//! Adapters of embedded mode: log and store in one folder.

use std::sync::Arc;

use super::{Adapters, Closer, Instance, ServeError};
use crate::{
    clock::SharedClock,
    config::Config,
    domain::keys::SECRET_BYTES_MIN,
    embedded::{
        DatabaseMemory, EmbeddedDatabase, FolderError, OpenError, SecretFile, found_secret,
        kept_secret,
    },
    feed::in_process::InProcessFeed,
    log::embedded::EmbeddedLog,
    store::{StoreInspection, embedded::EmbeddedStore},
};

/// The file of the instance's secret in the data folder.
pub(super) const SECRET_FILE: SecretFile =
    SecretFile { name: "secret.key", bytes_min: SECRET_BYTES_MIN };

/// The remedy for data of another format.
pub(super) const NEW_FOLDER: &str = "set embedded.dir to a new folder, or start the version that \
                                     made this one; README \"Moving between formats\" says what \
                                     can be taken along";

/// Name of the operation that opens the data folder, for errors.
pub(super) const OPENING: &str = "opening the data folder";

pub(super) async fn adapters(
    config: &Config,
    memory: DatabaseMemory,
    clock: SharedClock,
) -> Result<Adapters, ServeError> {
    let settings = config.embedded.clone();
    let open = move || EmbeddedDatabase::open_within(&settings, memory, clock);
    let database = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| ServeError::failed(OPENING, error))?
        .map_err(not_opened)?;
    let store = Arc::new(EmbeddedStore::new(database.clone()));
    let secret = secret(config, &store).await?;
    let partitions = config.embedded.partitions;
    let kept = config.secret.key.is_none().then(|| secret.as_str().into());
    let fold = config.identity_fold;
    let instance = Instance::establish(&*store, Some(secret), partitions, fold, NEW_FOLDER).await?;
    let instance = Instance { kept_secret: kept, ..instance };
    let log = Arc::new(EmbeddedLog::new(database.clone(), config.embedded.retention));
    Ok(Adapters {
        log: log.clone(),
        store,
        feed: Arc::new(InProcessFeed::default()),
        local_log: Some(log),
        group_check: None,
        nodes: None,
        background: Vec::new(),
        instance,
        future_max_ms: None,
        closer: Closer::Embedded(database),
    })
}

/// Returns the configured secret, else the one in the data folder. Generates one only for a new
/// folder: the codes of an existing instance derive from its first secret.
async fn secret(config: &Config, store: &EmbeddedStore) -> Result<String, ServeError> {
    if let Some(secret) = config.secret.exposed() {
        return Ok(secret);
    }
    let folder = &config.embedded.dir;
    let found = found_secret(folder, SECRET_FILE)
        .map_err(|error| no_secret("reading the secret", error))?;
    if let Some(secret) = found {
        return Ok(secret);
    }
    let layout = store
        .layout_in_force()
        .await
        .map_err(|error| ServeError::failed("reading the layout of the instance", error))?;
    if layout.is_some() {
        let file = folder.join(SECRET_FILE.name);
        return Err(ServeError::unfit(
            format!("{} is missing, and the instance was created with it", file.display()),
            "restore the file, or set secret.key to its content",
        ));
    }
    kept_secret(folder, SECRET_FILE).map_err(|error| no_secret("writing the secret", error))
}

/// Maps an error of the secret file. An unusable file is a configuration error (exit code 2): the
/// operator has to replace it.
pub(super) fn no_secret(operation: &'static str, error: FolderError) -> ServeError {
    match error {
        FolderError::Secret { .. } => ServeError::unfit(
            error.to_string(),
            "restore its content, or remove the file if the instance is new",
        ),
        error => ServeError::failed(operation, error),
    }
}

/// Refuses a data folder of another format before anything in it is created or changed.
pub(super) fn check_format(config: &Config) -> Result<(), ServeError> {
    EmbeddedDatabase::check_format(&config.embedded.dir).map_err(not_opened)
}

pub(super) fn not_opened(error: OpenError) -> ServeError {
    let operation = OPENING.to_owned();
    match error {
        OpenError::Format { .. } => ServeError::unfit(error.to_string(), NEW_FOLDER),
        OpenError::Partitions { found, .. } => {
            ServeError::unfit(error.to_string(), format!("set embedded.partitions to {found}"))
        }
        OpenError::Damaged { .. } => ServeError::Broken { operation, source: error.into() },
        _ => ServeError::failed(operation, error),
    }
}
