//! `coupond audit`: runs the audit, shows its progress and prints its report.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;

use super::{
    CliError, Done,
    arguments::{ANSWERS_HELP, Settings},
};
use crate::{
    audit::{self, AuditReport, Meter},
    config::Config,
    node::{self, AuditFailure},
};

/// Check every invariant against request log and coupon store
///
/// Replays every record with an independent model and compares the result with coupons, by-user
/// view, definition versions, marks, holds and progress: INV-1 to INV-8. Writes nothing. An
/// embedded node must be stopped. A distributed instance may be running; it is checked up to its
/// current progress. Exit codes: 0 every invariant holds, 1 failure, 2 usage or configuration, 3 an
/// invariant is broken.
#[derive(Debug, Args)]
#[command(after_long_help = ANSWERS_HELP)]
pub(super) struct AuditArguments {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// Also check the answers that clients got: a file with one JSON object per line
    #[arg(long, value_name = "FILE")]
    pub(super) answers: Option<PathBuf>,
    /// Test the audit itself: plant every kind of corruption in sound data in memory
    #[arg(long, conflicts_with = "answers")]
    pub(super) self_test: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Exit code of a self-test with a missed corruption or a false alarm.
const EXIT_FAILED: u8 = 1;

/// Time between two updates of the progress line.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// Audits the log and store of this configuration, or the audit itself.
pub(super) fn run(config: &Config, arguments: AuditArguments) -> Result<Done, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let meter = Arc::new(Meter::default());
    let AuditArguments { json, answers, self_test, .. } = arguments;
    if self_test {
        let tested = runtime.block_on(audit::self_test()).map_err(AuditFailure::from)?;
        let exit_code = if tested.passed() { 0 } else { EXIT_FAILED };
        let text = if json { line(&tested) } else { tested.text() };
        return Ok(Done { text, exit_code });
    }
    let report = runtime.block_on(async {
        let audit = node::audit(config, answers, meter.clone());
        if std::io::stderr().is_terminal() {
            tokio::select! {
                report = audit => {
                    eprint!("\r\x1b[K");
                    report
                }
                () = show(&meter) => unreachable!("progress is shown without end"),
            }
        } else {
            audit.await
        }
    })?;
    Ok(done(&report, json))
}

fn done(report: &AuditReport, json: bool) -> Done {
    let text = if json { line(report) } else { report.text() };
    Done { text, exit_code: report.exit_code() }
}

fn line(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("reports hold only text and numbers");
    format!("{text}\n")
}

async fn show(meter: &Meter) {
    let started = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(SHOW_EVERY).await;
        let records = meter.records.load(Ordering::Relaxed);
        let rows = meter.rows.load(Ordering::Relaxed);
        let seconds = started.elapsed().as_secs();
        let mut terminal = std::io::stderr().lock();
        // Progress is optional; a failed write does not end the audit.
        let _ = write!(terminal, "\r\x1b[K{seconds} s: {records} records, {rows} rows read");
        let _ = terminal.flush();
    }
}
