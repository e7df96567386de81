//! `coupond audit`: reads log and store, shows how far it is, and tells what it found.

use std::{
    io::{IsTerminal, Write},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{CliError, Done, arguments::AuditArguments};
use crate::{
    audit::{self, Meter, Report},
    config::Config,
    node::{self, AuditFailure},
};

/// Exit code of a self-test in which a corruption was not found, or one that is none.
const EXIT_FAILED: u8 = 1;

/// How often a terminal is told how far the audit is.
const SHOW_EVERY: Duration = Duration::from_millis(250);

/// Audits what a node with this configuration would run on.
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
                () = show(&meter) => unreachable!("it is shown without end"),
            }
        } else {
            audit.await
        }
    })?;
    Ok(told(&report, json))
}

fn told(report: &Report, json: bool) -> Done {
    let text = if json { line(report) } else { report.text() };
    Done { text, exit_code: report.exit_code() }
}

fn line(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("text and numbers are always JSON");
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
        // A terminal that can't be written to is told nothing.
        let _ = write!(terminal, "\r\x1b[K{seconds} s: {records} records, {rows} rows read");
        let _ = terminal.flush();
    }
}
