//! Sends the statements that set up a keyspace.

use std::{future::Future, sync::Arc, time::Duration};

use scylla::{
    client::session::Session,
    deserialize::row::DeserializeRow,
    errors::{DbError, ExecutionError, PrepareError, RequestAttemptError},
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::{Consistency, Statement},
};

use super::{Cause, error::ConnectError, trouble};
use crate::{
    config::CqlConfig,
    retry::{Backoff, Bounded},
};

/// Retries of a statement, with 2 s of pauses in all. ScyllaDB refuses a schema change that meets
/// another one, and a node may not know yet about the change of another node.
const RETRY: Bounded =
    Backoff::doubling(Duration::from_millis(200), Duration::from_millis(800)).attempts(5);

/// Sends statements over the setup session.
pub(super) struct Setup<'a> {
    pub(super) session: &'a Session,
    pub(super) config: &'a CqlConfig,
}

impl Setup<'_> {
    /// Changes the schema and waits until all database nodes agree on it.
    pub(super) async fn change(&self, text: &str) -> Result<(), ConnectError> {
        let summary = text.lines().next().unwrap_or(text);
        let send = || self.session.query_unpaged(self.statement(text), ());
        self.repeat(summary, send).await?;
        self.agree().await
    }

    /// Writes a row. May write it twice.
    pub(super) async fn write(
        &self,
        text: &str,
        values: impl SerializeRow,
    ) -> Result<(), ConnectError> {
        let send = || self.session.query_unpaged(self.statement(text), &values);
        self.repeat(text, send).await.map(|_| ())
    }

    /// Runs a lightweight transaction once. The caller reads the outcome.
    pub(super) async fn attempt(&self, text: &str, values: impl SerializeRow) {
        if let Err(error) = self.session.query_unpaged(self.statement(text), values).await {
            tracing::warn!(%error, "transaction on the schema lock failed, reading its outcome");
        }
    }

    /// Builds a statement for the database node with the lowest id.
    ///
    /// One coordinator makes changes one after another. Two coordinators that create the same table
    /// give it two different ids. Reads go to the same node, so they see its last change.
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

    /// Repeats an idempotent statement until it succeeds, within the limits of [`RETRY`].
    async fn repeat<F>(
        &self,
        operation: &str,
        send: impl Fn() -> F,
    ) -> Result<QueryResult, ConnectError>
    where
        F: Future<Output = Result<QueryResult, ExecutionError>>,
    {
        let sent = RETRY.run(operation, |error| !is_final(error), send).await;
        sent.map_err(|error| {
            let refusal = match &error {
                ExecutionError::LastAttemptError(attempt)
                | ExecutionError::PrepareError(PrepareError::AllAttemptsFailed {
                    first_attempt: attempt,
                    ..
                }) => trouble::forbidden(attempt, operation, self.config),
                _ => None,
            };
            refusal.map_or_else(|| ConnectError::unavailable(operation, error), Into::into)
        })
    }

    /// Waits until all database nodes agree on the schema.
    pub(super) async fn agree(&self) -> Result<(), ConnectError> {
        let agreed = self.session.await_schema_agreement().await;
        agreed.map(|_| ()).map_err(|error| {
            ConnectError::unavailable("waiting until the nodes agree on the schema", error)
        })
    }

    /// Reads rows.
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

/// Returns whether repeating a statement is pointless. "Invalid" is not final, because a database
/// node answers it for a keyspace that it does not know yet.
fn is_final(error: &ExecutionError) -> bool {
    matches!(database_error(error), Some(DbError::SyntaxError | DbError::Unauthorized))
}
