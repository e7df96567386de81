//! Why the store could not be opened.

use thiserror::Error;

use crate::wire::format::OtherFormat;

/// Why [`super::connect`] gave no store.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The database could not be asked now; trying again may help.
    #[error("{operation}")]
    Unavailable {
        /// What was attempted, with its data.
        operation: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another node held the schema lock for longer than anybody should.
    #[error("the schema lock of keyspace {keyspace} is held by {holder}; see what that node does")]
    Locked {
        /// Which keyspace.
        keyspace: String,
        /// Random name of the node that holds it.
        holder: String,
    },
    /// What is configured, or found in the database, does not fit. Trying again does not help.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What does not fit, as found, and what to do about it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The keyspace's name is not one.
    #[error(
        "cql.keyspace is {found:?}; must be 1 to 48 of a-z, 0-9 and '_', starting with a letter"
    )]
    KeyspaceName {
        /// The name.
        found: String,
    },
    /// The cluster has several datacenters and the keyspace does not exist.
    #[error(
        "the cluster has the datacenters {found}, and keyspace {keyspace} is not there; create it \
         with the replication that you want (NetworkTopologyStrategy), then start again"
    )]
    SeveralDatacenters {
        /// Which keyspace.
        keyspace: String,
        /// Their names.
        found: String,
    },
    /// The keyspace holds data that this version does not read.
    #[error("keyspace {keyspace} {other}")]
    Format {
        /// The keyspace.
        keyspace: String,
        /// What it has.
        other: OtherFormat,
    },
    /// The keyspace lacks a step, and only a node may take it.
    #[error(
        "keyspace {keyspace} lacks schema step {step}; audit it with the version of its nodes, or \
         start a node of this version on it first"
    )]
    MissingStep {
        /// The keyspace.
        keyspace: String,
        /// The first step that is missing.
        step: String,
    },
    /// A table is not what its step makes.
    #[error(
        "table {keyspace}.{table} is not as coupond makes it: {differences}; name another \
         cql.keyspace, or restore the table"
    )]
    Columns {
        /// Which keyspace.
        keyspace: String,
        /// Which table.
        table: String,
        /// Every column that differs, found and expected.
        differences: String,
    },
}

impl ConnectError {
    pub(super) fn unavailable(
        operation: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { operation: operation.into(), source: source.into() }
    }

    /// Whether what was found has to change before a start can succeed: exit code 2.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
