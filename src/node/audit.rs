//! Adapters of an audit. They create nothing, write nothing and join no consumer group.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    ServeError,
    distributed::{NEW_NAMES, refused},
    embedded::{NEW_FOLDER, OPENING, SECRET_FILE, no_secret, not_opened},
    instance::check_format,
};
use crate::{
    audit::{self, AuditError, AuditReport, Audited, Meter},
    clock::SystemClock,
    config::{Config, Mode},
    domain::keys::Keys,
    embedded::{EmbeddedDatabase, FolderError, OpenError, found_secret},
    log::{embedded::EmbeddedLog, kafka::KafkaLog},
    store::{
        Layout, StoreInspection,
        cql::{self, ConnectError},
        embedded::EmbeddedStore,
    },
};

/// An error that prevented an audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditFailure {
    /// Log or store could not be opened.
    #[error(transparent)]
    Open(#[from] ServeError),
    /// Log or store could not be read.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl AuditFailure {
    /// Returns the exit code of the process: 2 if an operator has to change something first, 3 if
    /// the data is damaged, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Open(error) => error.exit_code(),
            Self::Audit(error) => error.exit_code(),
        }
    }
}

/// Audits the log and store of this configuration. `answers` is a file of the answers that clients
/// got.
///
/// # Errors
/// [`AuditFailure`] if no audit could be made. Findings are in the report.
pub async fn audit(
    config: &Config,
    answers: Option<PathBuf>,
    meter: Arc<Meter>,
) -> Result<AuditReport, AuditFailure> {
    let answers = answers.as_deref().map(open_answers).transpose()?;
    match config.mode {
        Mode::Embedded => {
            let (audited, database) = embedded(config).await?;
            let report = audit::audit(audited, answers, meter).await;
            database.close().await;
            Ok(report?)
        }
        Mode::Distributed => {
            let (audited, log) = distributed(config).await?;
            let report = audit::audit(audited, answers, meter).await;
            drop(log);
            Ok(report?)
        }
    }
}

fn open_answers(path: &Path) -> Result<Box<dyn BufRead + Send>, ServeError> {
    let file = File::open(path).map_err(|error| {
        ServeError::unfit(
            format!("the answers in {} cannot be opened: {error}", path.display()),
            "name a file with one answer per line",
        )
    })?;
    Ok(Box::new(BufReader::new(file)))
}

/// Opens log and store of a stopped embedded node.
async fn embedded(config: &Config) -> Result<(Audited, Arc<EmbeddedDatabase>), ServeError> {
    let folder = &config.embedded.dir;
    let nothing = || {
        ServeError::unfit(
            format!("no node has ever used the data folder {}", folder.display()),
            "set embedded.dir to the folder of the node to be audited",
        )
    };
    if !EmbeddedDatabase::is_in(folder) {
        return Err(nothing());
    }
    let settings = config.embedded.clone();
    let open = move || EmbeddedDatabase::open(&settings, Arc::new(SystemClock));
    let database = tokio::task::spawn_blocking(open)
        .await
        .map_err(|error| ServeError::failed(OPENING, error))?
        .map_err(|error| match error {
            OpenError::Folder(error @ FolderError::InUse { .. }) => {
                let operation = "a node is using the data folder: stop it first, or audit a copy \
                                 that was made while it was stopped";
                ServeError::failed(operation, error)
            }
            error => not_opened(error),
        })?;
    let store = Arc::new(EmbeddedStore::new(database.clone()));
    let layout = layout_of(&*store).await?.ok_or_else(nothing)?;
    check_format(&layout, NEW_FOLDER)?;
    let secret = match config.secret.exposed() {
        Some(secret) => Some(secret),
        None => found_secret(folder, SECRET_FILE)
            .map_err(|error| no_secret("reading the secret", error))?,
    };
    let keys = keys_of(&layout, secret)?;
    let log = Arc::new(EmbeddedLog::new(database.clone(), config.embedded.retention));
    Ok((Audited { log, store, layout, keys }, database))
}

/// Opens log and store of a distributed instance, whose nodes may be running.
async fn distributed(config: &Config) -> Result<(Audited, Arc<KafkaLog>), ServeError> {
    let nothing = || {
        ServeError::unfit(
            format!("no node has ever used the keyspace {}", config.cql.keyspace),
            "set cql.keyspace and cql.nodes to those of the instance to be audited",
        )
    };
    let store = cql::inspect(&config.cql).await.map_err(|error| match error {
        ConnectError::Refused(refusal) => refused(&refusal),
        error => ServeError::failed("connecting to the database", error),
    })?;
    let store = Arc::new(store.ok_or_else(nothing)?);
    let layout = layout_of(&*store).await?.ok_or_else(nothing)?;
    check_format(&layout, NEW_NAMES)?;
    let keys = keys_of(&layout, config.secret.exposed())?;
    let log = KafkaLog::connect(&config.kafka)
        .await
        .map_err(|error| ServeError::failed("connecting to Kafka", error))?;
    let log = Arc::new(log);
    Ok((Audited { log: log.clone(), store, layout, keys }, log))
}

async fn layout_of(inspection: &dyn StoreInspection) -> Result<Option<Layout>, ServeError> {
    inspection
        .layout_in_force()
        .await
        .map_err(|error| ServeError::failed("reading the layout of the instance", error))
}

fn keys_of(layout: &Layout, secret: Option<String>) -> Result<Arc<Keys>, ServeError> {
    let remedy = "set secret.key to the secret of the instance";
    let Some(secret) = secret.as_ref().or(layout.secret.as_ref()) else {
        let found = format!("the instance has the secret {} (fingerprint)", layout.fingerprint);
        return Err(ServeError::unfit(found, remedy));
    };
    let keys = Keys::derive(secret.as_bytes());
    if keys.fingerprint() != layout.fingerprint {
        let (found, ours) = (&layout.fingerprint, keys.fingerprint());
        return Err(ServeError::unfit(
            format!("the instance has the secret {found}, but secret.key is {ours} (fingerprints)"),
            remedy,
        ));
    }
    Ok(Arc::new(keys))
}
