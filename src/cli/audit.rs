//! `coupond audit`: runs the audit, shows its progress and prints its report.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{CliError, Done, arguments::AuditArguments};
use crate::{
    audit::{self, AuditReport, Meter},
    config::Config,
    node::{self, AuditFailure},
};

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
