//! Errors that keep a node from starting or end it, with the exit code of the process.

/// An error that keeps a node from starting or ends it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Kafka, the database or the data folder does not match the configuration. An operator has to
    /// change one of them.
    #[error("{found}; {remedy}")]
    Unfit {
        /// What was found, as a clause.
        found: String,
        /// What the operator can do, as a clause.
        remedy: String,
    },
    /// Stored data is damaged: acknowledged records are missing or differ from those written.
    #[error("{operation}: an invariant is broken")]
    Broken {
        /// The operation that failed, as in "opening the data folder".
        operation: String,
        /// The damage and the remedy.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An operation failed, which may succeed later.
    #[error("{operation}")]
    Failed {
        /// The operation that failed, as in "opening the data folder".
        operation: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part of the node ended that it cannot run without.
    #[error("{part} ended unexpectedly: {reason}")]
    Ended {
        /// The name of the part.
        part: &'static str,
        /// The panic or error.
        reason: String,
    },
}

impl ServeError {
    pub(super) fn failed(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed { operation: operation.into(), source: source.into() }
    }

    pub(super) fn unfit(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Unfit { found: found.into(), remedy: remedy.into() }
    }

    /// Returns the exit code of the process: 2 if an operator has to change something first, 3 if
    /// an invariant is broken, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unfit { .. } => 2,
            Self::Broken { .. } => 3,
            Self::Failed { .. } | Self::Ended { .. } => 1,
        }
    }
}
