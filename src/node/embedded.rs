//! The adapters of a node that keeps everything in one folder.

use std::sync::Arc;

use super::{Adapters, Closer, Instance, ServeError};
use crate::{
    clock::SharedClock,
    config::Config,
    embedded::{EmbeddedDatabase, OpenError, kept_secret},
    feed::in_process::InProcessFeed,
    log::embedded::EmbeddedLog,
    store::embedded::EmbeddedStore,
};

/// The file of the instance's secret in the data folder.
pub(super) const SECRET_FILE: &str = "secret.key";

pub(super) async fn adapters(config: &Config, clock: SharedClock) -> Result<Adapters, ServeError> {
    let settings = config.embedded.clone();
    let open = move || EmbeddedDatabase::open(&settings, clock);
    let database = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| ServeError::failed("opening the data folder", error))?
        .map_err(not_opened)?;
    let secret = match &config.secret {
        Some(secret) => secret.clone(),
        None => kept_secret(&config.embedded.dir, SECRET_FILE)
            .map_err(|error| ServeError::failed("keeping a secret", error))?,
    };
    let store = Arc::new(EmbeddedStore::new(database.clone()));
    let partitions = config.embedded.partitions;
    let instance = Instance::establish(&*store, Some(secret), partitions).await?;
    Ok(Adapters {
        log: Arc::new(EmbeddedLog::new(database.clone(), config.embedded.retention)),
        store,
        feed: Arc::new(InProcessFeed::default()),
        instance,
        future_max_ms: None,
        closer: Closer::Embedded(database),
    })
}

pub(super) fn not_opened(error: OpenError) -> ServeError {
    let operation = "opening the data folder".to_owned();
    match error {
        OpenError::Partitions { found, .. } => {
            ServeError::unfit(error.to_string(), format!("set embedded.partitions to {found}"))
        }
        OpenError::Damaged { .. } => ServeError::Broken { operation, source: error.into() },
        _ => ServeError::failed(operation, error),
    }
}
