//! `coupond serve`: logs, metrics, runtime, signals, and the node in between.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::{CliError, Done};
use crate::{
    config::Config,
    node,
    telemetry::{self, LogFilter},
};

/// How long what still runs on the runtime when the node has ended may take: the node has settled
/// everything by then.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest that the process takes to end after a signal.
const PROCESS_END_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(
    node::STOP_WITHIN.as_millis() + RUNTIME_END_TIMEOUT.as_millis()
        < PROCESS_END_TIMEOUT.as_millis()
);

/// Most files and connections that a node opens: several times what admission and waiters allow by
/// default. Many systems start a process with 1,024.
const OPEN_FILES_MAX: u64 = 65_536;

/// Exit code of a node that a second signal ended before it had settled.
const EXIT_AT_ONCE: i32 = 1;

/// Runs a node until it ends or a signal ends it.
pub(super) fn run(config: Config, logs: LogFilter) -> Result<Done, CliError> {
    telemetry::install_logs(logs);
    let metrics = telemetry::install_metrics();
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let served = runtime.block_on(async {
        let signals = Signals::install().map_err(CliError::Runtime)?;
        let (stop, stopped) = oneshot::channel();
        // On a task of its own: a second signal ends the process also while the node is busy.
        let watch = tokio::spawn(watch(signals, stop));
        let shutdown = async {
            // The sender is dropped only with the watch, after the node has ended.
            let _ = stopped.await;
        };
        let served = tokio::select! {
            served = node::serve(config, shutdown) => served,
            never = metrics.upkeep() => match never {},
        };
        watch.abort();
        served.map_err(CliError::Serve)
    });
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    served.map(|()| Done::with(""))
}

/// Raises the soft limit of open files as far as the hard one and [`OPEN_FILES_MAX`] allow.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    if limit.current.is_none_or(|current| current >= allowed) {
        return;
    }
    limit.current = Some(allowed);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, allowed, "the limit of open files could not be raised");
    }
}

/// The signals that end a node.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Completes with the name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Passes the first signal on to the node; ends the process at the second.
async fn watch(mut signals: Signals, stop: oneshot::Sender<()>) {
    let signal = signals.next().await;
    tracing::info!(signal, "stopping: a second signal ends the process at once");
    // A node that has ended already needs no signal.
    let _ = stop.send(());
    let signal = signals.next().await;
    tracing::warn!(signal, "ending at once: what is in flight is settled by the next start");
    std::process::exit(EXIT_AT_ONCE);
}
