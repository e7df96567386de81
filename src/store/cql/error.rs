//! Errors of connecting to the database.

use thiserror::Error;

use crate::wire::format::OtherFormat;

/// Why [`super::connect`] or [`super::inspect`] failed.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The database did not answer. Retrying may help.
    #[error("{operation}")]
    Unavailable {
        /// The attempted operation, with its data.
        operation: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another node holds the schema lock, and does not release it.
    #[error(
        "the schema lock of keyspace {keyspace} is held by node {holder} for too long; look into the \
         log of the node that is starting, or wait until its lease ends"
    )]
    Locked {
        /// The keyspace.
        keyspace: String,
        /// Random name of the node that holds the lock.
        holder: String,
    },
    /// A setting or the keyspace has to be changed first. Retrying does not help.
    #[error(transparent)]
    Refused(#[from] SetupRefusal),
}

/// A setting or a keyspace that coupond refuses.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SetupRefusal {
    /// The keyspace's name is not valid.
    #[error(
        "cql.keyspace is {found:?}; it must be 1 to 48 of a-z, 0-9 and '_', starting with a letter"
    )]
    KeyspaceName {
        /// The configured name.
        found: String,
    },
    /// The cluster has several datacenters and the keyspace does not exist.
    #[error(
        "the cluster has several datacenters ({found}) and no keyspace {keyspace}; create the \
         keyspace with the replication that you want (NetworkTopologyStrategy), then start again"
    )]
    SeveralDatacenters {
        /// The keyspace.
        keyspace: String,
        /// Names of the datacenters.
        found: String,
    },
    /// The database does not take this node, for a reason that only an operator can change.
    #[error("{found}; {remedy}")]
    Trouble {
        /// What was found.
        found: String,
        /// What to change.
        remedy: String,
    },
    /// The database or the keyspace does not have the configured datacenter.
    #[error("cql.datacenter is {datacenter:?}, and {place} does not have it")]
    UnknownDatacenter {
        /// The configured name.
        datacenter: String,
        /// The database or the replication of the keyspace.
        place: String,
        /// Names of the datacenters.
        found: String,
    },
    /// The keyspace holds data that this version does not read.
    #[error("keyspace {keyspace} {other}")]
    Format {
        /// The keyspace.
        keyspace: String,
        /// Its format.
        other: OtherFormat,
    },
    /// The keyspace lacks a schema step. An audit takes none.
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
    /// A table lacks a column, or has another type or key than the schema steps make.
    #[error(
        "table {keyspace}.{table} is not as coupond makes it: {differences}; set cql.keyspace to \
         another keyspace, or restore the table"
    )]
    Columns {
        /// The keyspace.
        keyspace: String,
        /// The table.
        table: String,
        /// Each column that differs, as found and as expected.
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

    /// Returns whether a setting or the keyspace has to be changed before a start can succeed.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}
