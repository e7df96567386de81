//! The load of the `peak` scenario, by k6.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde::Deserialize;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{outcomes::Outcomes, scenario::Scenario};
use crate::children::{TETHER, is_installed, tethered};

/// Exit codes of k6 with results: a request got no answer; it was interrupted.
const WITH_RESULTS: [i32; 2] = [99, 105];

/// Why k6 has no results.
#[derive(Debug, thiserror::Error)]
pub enum K6Error {
    /// It is not installed.
    #[error(
        "k6 is missing, and a scenario of kind peak needs it; install it with `go install \
         go.k6.io/k6@v1.8.1` and put it in the PATH"
    )]
    Missing,
    /// The script is not beside the scenario.
    #[error("{} is missing; the script lies beside the scenario", .0.display())]
    NoScript(PathBuf),
    /// It did not run.
    #[error("running k6; its output is {}", output.display())]
    Run {
        /// What it printed.
        output: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What k6 found.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Results {
    /// What became of requests.
    #[serde(flatten)]
    pub outcomes: Outcomes,
    /// Milliseconds of each kind of call.
    pub milliseconds: BTreeMap<String, Milliseconds>,
    /// Requests that the virtual users could send at most.
    pub iterations_allowed: Option<f64>,
}

/// Times of one kind of call.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Milliseconds {
    /// Calls.
    pub count: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// A run of k6.
#[derive(Debug)]
pub(super) struct K6 {
    child: Child,
    output: PathBuf,
    summary: PathBuf,
}

/// Returns the script beside a scenario.
///
/// # Errors
/// If k6 or the script is missing.
pub(super) fn script(scenario: &Path) -> Result<PathBuf, K6Error> {
    if !is_installed("k6") {
        return Err(K6Error::Missing);
    }
    let script = scenario.with_file_name("peak.js");
    if script.is_file() { Ok(script) } else { Err(K6Error::NoScript(script)) }
}

impl K6 {
    /// Starts k6 on a campaign that exists. `folder` gets its output.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(
        script: &Path,
        scenario: &Scenario,
        api: &[String],
        campaign: &str,
        folder: &Path,
    ) -> Result<Self, K6Error> {
        let (output, summary) = (folder.join("k6.txt"), folder.join("k6.json"));
        let stages: Vec<_> = scenario
            .stages
            .iter()
            .map(|stage| json!({ "seconds": stage.seconds, "target": stage.to }))
            .collect();
        let run = |source| K6Error::Run { output: output.clone(), source };
        let log = fs::File::create(&output).map_err(run)?;
        // k6 ends with this process, also when that is killed, where there is setpriv.
        let mut command = match is_installed(TETHER) {
            true => Command::from(tethered("k6")),
            false => Command::new("k6"),
        };
        command
            .args(["run", "--quiet", "--no-usage-report", "--address", ""])
            .arg(script)
            .env("API", api.join(","))
            .env("CAMPAIGN", campaign)
            .env("USERS", scenario.users.unwrap_or(1).to_string())
            .env("STAGES", json!(stages).to_string())
            .env("SUMMARY", &summary)
            .env_remove("TOKEN")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(run)?)
            .stderr(log)
            // Ctrl-C at a terminal reaches it through `end` alone.
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(run)?;
        Ok(Self { child, output, summary })
    }

    /// Waits for its end. Interrupts it when `stop` is cancelled.
    ///
    /// # Errors
    /// If it failed without results.
    pub(super) async fn end(&mut self, stop: &CancellationToken) -> Result<Results, K6Error> {
        let output = self.output.clone();
        let run = |source| K6Error::Run { output: output.clone(), source };
        let ended = tokio::select! {
            ended = self.child.wait() => Some(ended),
            () = stop.cancelled() => None,
        };
        let status = match ended {
            Some(status) => status.map_err(run)?,
            None => {
                let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
                }
                self.child.wait().await.map_err(run)?
            }
        };
        if !status.success() && !status.code().is_some_and(|code| WITH_RESULTS.contains(&code)) {
            return Err(run(io::Error::other(format!("k6 ended with {status}"))));
        }
        let text = fs::read(&self.summary).map_err(run)?;
        let mut results: Results =
            serde_json::from_slice(&text).map_err(|error| run(io::Error::other(error)))?;
        results.outcomes.settle();
        Ok(results)
    }
}

impl Outcomes {
    /// Counts as refused what k6 counts as failed although it is a certain answer, and drops zeros.
    fn settle(&mut self) {
        if let Some(count) = self.failed.remove("too_many") {
            *self.refused.entry("too_many".to_owned()).or_default() += count;
        }
        for counts in [&mut self.rejected, &mut self.refused, &mut self.failed] {
            counts.retain(|_, count| *count > 0);
        }
    }
}
