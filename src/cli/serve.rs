//! `coupond serve`: sets up logs, metrics, runtime and signals, and runs a node.

use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{CliError, Done};
use crate::{
    config::Loaded,
    node,
    telemetry::{self, LogFilter},
};

/// Time for tasks that still run when the node has stopped. The node has settled everything by
/// then.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time from a signal to the end of the process.
const PROCESS_END_TIMEOUT: Duration = Duration::from_secs(10);

const _: () = assert!(
    node::STOP_WITHIN.as_millis() + RUNTIME_END_TIMEOUT.as_millis()
        < PROCESS_END_TIMEOUT.as_millis()
);

/// Limit of open files and connections: several times what admission and waiters allow by default.
/// Many systems start a process with 1,024.
const OPEN_FILES_MAX: u64 = 65_536;

/// Exit code if a second signal ends the process before the node has settled.
const EXIT_AT_ONCE: i32 = 1;

/// Runs a node until it ends or a signal ends it.
pub(super) fn run(loaded: Loaded, logs: LogFilter) -> Result<Done, CliError> {
    let explicit = loaded.explicit();
    telemetry::install_logs(logs);
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let metrics = telemetry::install_metrics();
    raise_open_files();
    forgo_huge_pages();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(node::BLOCKING_THREADS_MAX)
        .build()
        .map_err(CliError::Runtime)?;
    let served = runtime.block_on(async {
        let signals = Signals::install().map_err(CliError::Runtime)?;
        let (stop, stopped) = oneshot::channel();
        let (reload, reloads) = watch::channel(());
        // A task of its own, so that a second signal ends the process while the node is busy.
        let watch = tokio::spawn(watch(signals, stop, reload));
        let shutdown = async {
            // The watch owns the sender and is aborted only after the node has ended.
            let _ = stopped.await;
        };
        let served = tokio::select! {
            served = node::serve(loaded.config, explicit, reloads, shutdown) => served,
            never = metrics.upkeep() => match never {},
            never = telemetry::sum_up_logs() => match never {},
        };
        watch.abort();
        served.map_err(CliError::Serve)
    });
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    served.map(|()| Done::with(""))
}

/// Raises the soft limit of open files up to the hard limit, at most to [`OPEN_FILES_MAX`].
pub(super) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(OPEN_FILES_MAX).min(OPEN_FILES_MAX);
    if limit.current.is_none_or(|current| current >= allowed) {
        return;
    }
    limit.current = Some(allowed);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, allowed, "open file limit not raised");
    }
}

/// Keeps the kernel from backing the heap with huge pages, for which the allocator asks. One that is used
/// in part takes 2 MiB all the same: the load of a million coupons took 110 MiB more, and a node could
/// not start in the memory that it ran in (`load/memory`).
fn forgo_huge_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "huge pages not disabled: the node may take twice the memory");
    }
}

/// The signals that a node knows: two that end it, and one for its certificates.
struct Signals {
    hang_up: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        let (interrupt, hang_up) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
        Ok(Self { hang_up, interrupt, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal that ends the node, and returns its name. SIGHUP changes `reload`.
    async fn next(&mut self, reload: &watch::Sender<()>) -> &'static str {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.hang_up.recv() => {
                    tracing::info!("SIGHUP received, reading the certificates of the listeners again");
                    reload.send_replace(());
                }
            }
        }
    }
}

/// Asks the node to stop at the first signal that ends it; ends the process at the second.
async fn watch(mut signals: Signals, stop: oneshot::Sender<()>, reload: watch::Sender<()>) {
    let signal = signals.next(&reload).await;
    tracing::info!(signal, "signal received, stopping; a second signal ends the process at once");
    // Sending fails only if the node has ended already.
    let _ = stop.send(());
    let signal = signals.next(&reload).await;
    tracing::warn!(
        signal,
        "second signal received, exiting at once; the next owner settles the rest"
    );
    std::process::exit(EXIT_AT_ONCE);
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_node_forgoes_huge_pages() {
        super::forgo_huge_pages();
        assert_eq!(rustix::thread::transparent_huge_pages_are_disabled(), Ok(true));
    }
}
