//! Why a node could not be served, and with which exit code the process ends.

/// Why a node could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// What was found does not fit the configuration. Trying again does not help.
    #[error("{found}; {remedy}")]
    Unfit {
        /// What was found.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// What was acknowledged is gone, or what is there is not what was written.
    #[error("{operation}: an invariant is broken")]
    Broken {
        /// What was attempted.
        operation: String,
        /// What was found, and what to do.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It could not be done now.
    #[error("{operation}")]
    Failed {
        /// What was attempted.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A part ended without which the node can't go on.
    #[error("{part} ended: {reason}")]
    Ended {
        /// Which part.
        part: &'static str,
        /// Why.
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

    /// The process's exit code: 2 where something must be changed first, 3 where an invariant is
    /// broken, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Unfit { .. } => 2,
            Self::Broken { .. } => 3,
            Self::Failed { .. } | Self::Ended { .. } => 1,
        }
    }
}
