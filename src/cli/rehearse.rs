//! `coupond rehearse`: runs a rehearsal, shows its progress, writes its report.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{CliError, Done, arguments::Settings, client, machine, serve};
use crate::{
    config::{Config, Loaded, Mode, Problems},
    rehearse::{self, Kind, Live, Local, Order, RehearseError, Run, Scenario},
    report::{self, Fact, Report, Verdict},
};

/// Time between two updates at a terminal.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// Time between two lines where progress is no terminal's.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Exit code if a target was missed.
const EXIT_MISSED: u8 = 1;

/// Exit code if an invariant is broken.
const EXIT_BROKEN: u8 = 3;

/// Name of the built-in reference run.
const PREDECESSOR: &str = "predecessor";

/// Rehearse an event: load, figures and verdicts, as one report
///
/// Creates campaigns of its own, which no public list shows, sends them the load of a scenario
/// (load/*.toml), and closes them. Writes report.html, report.md with pictures, and report.json.
/// Exit codes: 0 every target met, 1 a target missed or failure, 2 usage, 3 an invariant is broken.
#[derive(Debug, Args)]
pub(super) struct RehearseArguments {
    #[command(flatten)]
    pub(super) settings: Settings,
    /// File of the scenario
    #[arg(required_unless_present = "compare")]
    pub(super) scenario: Option<PathBuf>,
    /// URLs of all public listeners, comma-separated [default: http://, followed by api.listen]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub(super) api: Vec<String>,
    /// URLs of all admin listeners, comma-separated [default: http://, followed by admin.listen]
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub(super) admin: Vec<String>,
    /// Admin token [default: the setting admin.token, else the file admin.token in the data folder]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub(super) token: Option<String>,
    /// File with the admin token
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Start two nodes on one Kafka and one Cassandra for the rehearsal, and end them again
    #[arg(long, conflicts_with_all = ["api", "admin", "token", "token_file"])]
    pub(super) local: bool,
    /// Folder for the report and everything that belongs to it
    #[arg(long, value_name = "DIR", default_value = "rehearsal")]
    pub(super) out: PathBuf,
    /// Run the same load curve in this fraction of the time
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = shrink)]
    pub(super) shrink: f64,
    /// What is drawn follows from it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Put two reports side by side instead; "predecessor" is the built-in reference run
    #[arg(long, num_args = 2, value_names = ["BEFORE.json", "AFTER.json"],
        conflicts_with_all = ["scenario", "local", "api", "admin"])]
    pub(super) compare: Option<Vec<PathBuf>>,
    /// Names of the two runs
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"], requires = "compare")]
    pub(super) labels: Option<Vec<String>>,
}

/// Parses how many times shorter a rehearsal is.
fn shrink(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(times) if (1.0..=1_000.0).contains(&times) => Ok(times),
        _ => Err("must be a number from 1 to 1,000".to_owned()),
    }
}

/// Runs a rehearsal, or puts two reports side by side.
pub(super) fn run(
    load: impl FnOnce() -> Result<Loaded, Problems>,
    arguments: RehearseArguments,
) -> Result<Done, CliError> {
    if let Some(files) = &arguments.compare {
        return compare(files, arguments.labels.as_deref(), &arguments.out);
    }
    let file = arguments.scenario.clone().unwrap_or_default();
    let scenario = Scenario::read(&file)?;
    rehearse::check(&scenario, &file)?;
    let scenario = scenario.shrunk(arguments.shrink);
    serve::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(CliError::Runtime)?;
    runtime.block_on(async {
        if arguments.local {
            return local(&arguments, scenario, file).await;
        }
        let config = load()?.config;
        let order = on_running(&config, &arguments, scenario, file)?;
        let mut facts = machine::facts();
        facts.push(Fact::new("nodes", order.admin.join(", ")));
        rehearsed(order, facts, &arguments).await
    })
}

/// Returns the rehearsal on an instance that runs.
fn on_running(
    config: &Config,
    arguments: &RehearseArguments,
    scenario: Scenario,
    file: PathBuf,
) -> Result<Order, CliError> {
    let token = match &arguments.token_file {
        Some(path) => Some(client::token_of(path)?),
        None => arguments.token.clone(),
    };
    let listeners = client::listeners(config, &arguments.api, &arguments.admin, token)?;
    let audit = match config.mode {
        Mode::Distributed => Ok(config.clone()),
        Mode::Embedded => Err(format!(
            "an embedded node must be stopped for it; stop it and run `coupond audit --answers {}`",
            arguments.out.join("answers.jsonl").display()
        )),
    };
    Ok(Order {
        scenario,
        file,
        api: listeners.api,
        admin: listeners.admin,
        token: listeners.token,
        engines: Vec::new(),
        out: arguments.out.clone(),
        seed: arguments.seed,
        audit,
    })
}

/// Runs a rehearsal on an instance of its own.
async fn local(
    arguments: &RehearseArguments,
    scenario: Scenario,
    file: PathBuf,
) -> Result<Done, CliError> {
    let started = tokio::select! {
        started = Local::start(&arguments.out, |doing| eprintln!("{doing}")) => started,
        _ = tokio::signal::ctrl_c() => return Ok(Done { text: "stopped\n".into(), exit_code: 1 }),
    };
    let instance = started.map_err(RehearseError::from)?;
    let order = Order {
        scenario,
        file,
        api: instance.api.clone(),
        admin: instance.admin.clone(),
        token: Some(instance.token.clone()),
        engines: instance.engines.clone(),
        out: arguments.out.clone(),
        seed: arguments.seed,
        audit: Ok(instance.config.clone()),
    };
    let mut facts = machine::facts();
    let engines = "one Kafka and one Cassandra by docker/engines";
    let nodes = format!("{} on {engines}, everything on this machine", instance.api.len());
    facts.push(Fact::new("nodes", nodes));
    let done = rehearsed(order, facts, arguments).await;
    instance.stop().await;
    done
}

async fn rehearsed(
    order: Order,
    mut facts: Vec<Fact>,
    arguments: &RehearseArguments,
) -> Result<Done, CliError> {
    let stop = CancellationToken::new();
    let live = Arc::new(Mutex::new(Live::default()));
    let scenario = order.scenario.clone();
    if scenario.kind == Kind::Peak {
        facts.extend(machine::k6());
    }
    if arguments.shrink > 1.0 {
        facts.push(Fact::new("shrunk", format!("to 1/{} of the time", arguments.shrink)));
    }
    let run = tokio::select! {
        run = rehearse::rehearse(order, live.clone(), stop.clone()) => run?,
        () = show(&scenario, &live) => unreachable!("progress is shown without end"),
        () = cut_short(&stop) => unreachable!("it waits for ever"),
    };
    let page = rehearse::report(&run, facts);
    write(&page, &arguments.out)?;
    Ok(done(&run, &page, &arguments.out))
}

/// Ends the load at the first Ctrl-C; what was measured is reported. The second one ends the process.
async fn cut_short(stop: &CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        eprintln!("stopping the load; Ctrl-C again ends without a report");
        stop.cancel();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(i32::from(EXIT_MISSED));
        }
    }
    std::future::pending().await
}

fn write(page: &Report, out: &Path) -> Result<(), CliError> {
    report::write(page, out).map_err(|error| CliError::Report(out.to_owned(), error))
}

fn done(run: &Run, page: &Report, out: &Path) -> Done {
    let mut text = format!("{}\n", page.summary);
    for (row, verdict) in page.judged() {
        let mark = if verdict == Verdict::Met { "✓" } else { "✗" };
        text.push_str(&format!("  {mark} {}\n", report::judged(row)));
    }
    for conclusion in &page.conclusions {
        text.push_str(&format!("- {conclusion}\n"));
    }
    text.push_str(&format!("{}\n", out.join(report::FILES[0]).display()));
    let exit_code = match (run.is_broken(), page.passed) {
        (true, _) => EXIT_BROKEN,
        (false, Some(true)) => 0,
        (false, _) => EXIT_MISSED,
    };
    Done { text, exit_code }
}

fn compare(files: &[PathBuf], labels: Option<&[String]>, out: &Path) -> Result<Done, CliError> {
    let read = |file: &PathBuf| -> Result<Report, CliError> {
        if file.as_os_str() == PREDECESSOR {
            return Ok(rehearse::predecessor());
        }
        report::read(file).map_err(|error| CliError::Report(file.clone(), error))
    };
    let (before, after) = (read(&files[0])?, read(&files[1])?);
    let names: Vec<String> = match labels {
        Some(labels) => labels.to_vec(),
        None if files[0].as_os_str() == PREDECESSOR => {
            vec![PREDECESSOR.to_owned(), "this run".to_owned()]
        }
        None => vec!["before".to_owned(), "after".to_owned()],
    };
    let page = report::compare(&before, &after, [&names[0], &names[1]]);
    write(&page, out)?;
    Ok(Done::with(format!("{}\n{}\n", page.summary, out.join(report::FILES[0]).display())))
}

/// Shows progress without end.
async fn show(scenario: &Scenario, live: &Mutex<Live>) {
    if std::io::stderr().is_terminal() {
        bars(scenario, live).await;
    }
    let mut last = String::new();
    loop {
        let now = live.lock().clone();
        let line = now.at_s.map_or_else(
            || now.phase.clone(),
            |at_s| {
                format!(
                    "{at_s:.0} of {:.0} s: {}",
                    scenario.duration().as_secs_f64(),
                    figures(&now)
                )
            },
        );
        if line != last && !line.is_empty() {
            eprintln!("{line}");
        }
        last = line;
        tokio::time::sleep(SAY_EVERY).await;
    }
}

/// Shows a bar for each stage, and the figures below them, without end.
async fn bars(scenario: &Scenario, live: &Mutex<Live>) {
    let all = MultiProgress::new();
    let bar = ProgressStyle::with_template("  {msg:24} [{bar:40}] {percent:>3} %");
    let bar = bar.unwrap_or_else(|_| ProgressStyle::default_bar());
    let unit = if scenario.kind == Kind::Peak { "users" } else { "/s" };
    let mut stages = Vec::new();
    let mut from = 0.0;
    for stage in &scenario.stages {
        let its = all.add(ProgressBar::new((stage.seconds * 1_000.0) as u64));
        its.set_style(bar.clone());
        its.set_message(format!("{:.0} s to {} {unit}", stage.seconds, stage.to));
        stages.push((from, its));
        from += stage.seconds;
    }
    let line = all.add(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("  {msg}") {
        line.set_style(style);
    }
    loop {
        let now = live.lock().clone();
        match now.at_s {
            Some(at_s) => {
                for (from, stage) in &stages {
                    stage.set_position(((at_s - from).max(0.0) * 1_000.0) as u64);
                }
                line.set_message(figures(&now));
            }
            None => line.set_message(now.phase),
        }
        line.tick();
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

fn figures(now: &Live) -> String {
    let latency = now
        .latency_ms
        .map_or_else(String::new, |(p50, p99)| format!(", P50 {p50:.1} ms, P99 {p99:.1} ms"));
    format!(
        "{:.0} requests/s{latency}, lag {:.0}, {:.0} issued, {} failed",
        now.rate, now.lag, now.issued, now.failed
    )
}
