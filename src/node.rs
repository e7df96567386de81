//! The composition root: to come.

use crate::config::Config;

/// Why a node could not be served.
#[derive(Debug, thiserror::Error)]
#[error("the node is not composed yet")]
pub struct ServeError;

impl ServeError {
    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        1
    }
}

/// Runs a node until `shutdown` completes.
///
/// # Errors
/// [`ServeError`] when the node could not start or go on.
pub async fn serve(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    drop(config);
    shutdown.await;
    Err(ServeError)
}
