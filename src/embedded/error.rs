//! Why the embedded database was not opened.

use std::{io, path::PathBuf};

use super::folder::FolderError;
use crate::wire::format::OtherFormat;

/// Why the embedded database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data folder cannot be created, or another process holds it.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The database engine returned an error.
    #[error("opening the embedded database in {}", path.display())]
    Database {
        /// Folder of the database.
        path: PathBuf,
        /// Error of the engine.
        #[source]
        source: fjall::Error,
    },
    /// A file could not be read before the database was opened, or the high-water file could not be
    /// written.
    #[error("checking the files of the embedded database in {}", path.display())]
    Inspect {
        /// File or folder.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The data folder has another format.
    #[error("data folder {} {other}", path.display())]
    Format {
        /// The data folder.
        path: PathBuf,
        /// Its format.
        other: OtherFormat,
    },
    /// The data folder was created with another number of partitions.
    #[error("embedded.partitions is {configured}, but the data folder has {found}")]
    Partitions {
        /// The configured number.
        configured: u32,
        /// The number in the instance's layout.
        found: u32,
    },
    /// Acknowledged records are missing, or a file is not as it was written.
    #[error("the embedded database in {} is damaged: {detail}; {remedy}", path.display())]
    Damaged {
        /// Folder of the database.
        path: PathBuf,
        /// The finding.
        detail: String,
        /// What an operator can do.
        remedy: String,
    },
    /// The committer's thread could not be started.
    #[error("starting the committer thread of the embedded database")]
    Thread(#[source] io::Error),
}
