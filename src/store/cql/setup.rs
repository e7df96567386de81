//! Sends the statements of a setup, one after another: changes of the schema, transactions and reads.

use std::{future::Future, sync::Arc, time::Duration};

use scylla::{
    client::session::Session,
    deserialize::row::DeserializeRow,
    errors::{DbError, ExecutionError, RequestAttemptError},
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::{Consistency, Statement},
};

use super::{Cause, error::ConnectError};
use crate::retry::{Backoff, Bounded};

/// Retries of a statement, with 2 s of pauses in all. ScyllaDB refuses a schema change that meets
/// another one, and a node may not know yet about the change of another node.
const RETRY: Bounded =
    Backoff::doubling(Duration::from_millis(200), Duration::from_millis(800)).attempts(5);

/// The session of a setup.
pub(super) struct Setup<'a> {
    pub(super) session: &'a Session,
}

impl Setup<'_> {
    /// Changes the schema and waits until the nodes agree.
    pub(super) async fn change(&self, text: &str) -> Result<(), ConnectError> {
        let summary = text.lines().next().unwrap_or(text);
        let send = || self.session.query_unpaged(self.statement(text), ());
        self.repeat(summary, send).await?;
        self.agree().await
    }

    /// Writes a row that may be written twice.
    pub(super) async fn write(
        &self,
        text: &str,
        values: impl SerializeRow,
    ) -> Result<(), ConnectError> {
        let send = || self.session.query_unpaged(self.statement(text), &values);
        self.repeat(text, send).await.map(|_| ())
    }

    /// Runs a lightweight transaction of which the outcome is looked up afterwards.
    pub(super) async fn attempt(&self, text: &str, values: impl SerializeRow) {
        if let Err(error) = self.session.query_unpaged(self.statement(text), values).await {
            tracing::warn!(%error, "transaction on the schema lock failed, its outcome is read");
        }
    }

    /// Builds a statement for the connected node with the lowest id. That node makes concurrent
    /// changes one after another, each on the schema that it reads itself. Two coordinators that
    /// create one table at once would each give it an id of their own.
    fn statement(&self, text: &str) -> Statement {
        let mut statement = Statement::new(text);
        let state = self.session.get_cluster_state();
        let connected = state.get_nodes_info().iter().filter(|node| node.is_connected());
        if let Some(node) = connected.min_by_key(|node| node.host_id) {
            let target = NodeIdentifier::Node(Arc::clone(node));
            let policy = SingleTargetLoadBalancingPolicy::new(target, None);
            statement.set_load_balancing_policy(Some(policy));
        }
        statement
    }

    /// Does something that may be done twice until it succeeds, a few times at most.
    async fn repeat<F>(
        &self,
        operation: &str,
        send: impl Fn() -> F,
    ) -> Result<QueryResult, ConnectError>
    where
        F: Future<Output = Result<QueryResult, ExecutionError>>,
    {
        let sent = RETRY.run(operation, |error| !is_final(error), send).await;
        sent.map_err(|error| ConnectError::unavailable(operation, error))
    }

    pub(super) async fn agree(&self) -> Result<(), ConnectError> {
        let agreed = self.session.await_schema_agreement().await;
        agreed.map(|_| ()).map_err(|error| {
            ConnectError::unavailable("waiting until the nodes agree on the schema", error)
        })
    }

    pub(super) async fn select<R>(
        &self,
        text: &str,
        values: impl SerializeRow,
        consistency: Consistency,
    ) -> Result<Vec<R>, ConnectError>
    where
        R: for<'frame> DeserializeRow<'frame, 'frame>,
    {
        let send = || {
            let mut statement = self.statement(text);
            statement.set_consistency(consistency);
            statement.set_is_idempotent(true);
            self.session.query_unpaged(statement, &values)
        };
        let result = self.repeat(text, send).await?;
        let rows = || -> Result<Vec<R>, Cause> {
            Ok(result.into_rows_result()?.rows::<R>()?.collect::<Result<_, _>>()?)
        };
        rows().map_err(|error| ConnectError::unavailable(text, error))
    }
}

fn database_error(error: &ExecutionError) -> Option<&DbError> {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => Some(error),
        _ => None,
    }
}

/// Whether repeating a schema change can't help. A keyspace that a node does not know yet is
/// invalid, so that one is repeated.
fn is_final(error: &ExecutionError) -> bool {
    matches!(database_error(error), Some(DbError::SyntaxError | DbError::Unauthorized))
}
