//! The command line: parses arguments, runs a command, prints its result and sets the exit code.
//!
//! Exit codes: 0 success, 1 failure, 2 usage or configuration, 3 an invariant is broken.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "printing is the command line's job"
)]

mod apply;
mod arguments;
mod audit;
mod base;
mod campaign;
mod changes;
mod chaos;
mod client;
mod issue;
mod machine;
mod rehearse;
mod secret;
mod serve;
mod shell;
mod show;
mod simulate;
mod terms;
#[cfg(test)]
mod tests;
mod tls_files;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::Parser;
use rustix::{fs::Mode, process::umask};

use self::{
    arguments::{Arguments, Command},
    client::ClientError,
};
use crate::{
    chaos::ChaosError,
    config::{self, ConfigProblem, Loaded, Origin, Problems, Sources},
    node::{self, AuditFailure, ServeError},
    rehearse::{RehearseError, ScenarioError},
    telemetry::LogFilter,
};

/// Access bits that no file of this process gets, those of group and others: the data folder holds user
/// ids and codes.
const UMASK: Mode = Mode::from_bits_truncate(0o077);

/// Exit code for wrong usage or configuration.
const EXIT_USAGE: u8 = 2;

/// Runs the command of the process's arguments. Prints its result or its error.
#[must_use]
pub fn main() -> ExitCode {
    umask(UMASK);
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors too. If they cannot be printed, no message could be.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE));
        }
    };
    match run(arguments) {
        Ok(done) => match print(&done.text) {
            Ok(()) => ExitCode::from(done.exit_code),
            Err(error) => {
                eprintln!("coupond: writing to the standard output: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            if error.json().is_none_or(|json| print(json).is_err()) {
                eprintln!("{}", error.describe());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// The output of a command and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    text: String,
    exit_code: u8,
}

impl Done {
    fn with(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit_code: 0 }
    }
}

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Configuration(#[from] Problems),
    #[error("starting the runtime")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Serve(ServeError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Audit(#[from] AuditFailure),
    #[error(transparent)]
    Rehearse(#[from] RehearseError),
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    #[error("report {}", .0.display())]
    Report(PathBuf, #[source] io::Error),
    #[error("unknown kind of fault {0:?}; list them with `coupond simulate --list-faults`")]
    UnknownFault(String),
    #[error("unknown kind of fault {0:?}; list them with `coupond chaos --list-kinds`")]
    UnknownKind(String),
    #[error("{file} cannot be used as a schedule: {reason}")]
    Schedule { file: String, reason: String },
    #[error("{} exists; name another folder with --out", .0.display())]
    Exists(PathBuf),
    #[error(transparent)]
    Chaos(#[from] ChaosError),
    #[error("{} cannot be used as a course", .0.display())]
    Course(PathBuf, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl CliError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_)
            | Self::UnknownFault(_)
            | Self::UnknownKind(_)
            | Self::Schedule { .. }
            | Self::Exists(_)
            | Self::Course(..)
            | Self::Scenario(_) => EXIT_USAGE,
            Self::Runtime(_) | Self::Report(..) | Self::Chaos(_) => 1,
            Self::Rehearse(error) if error.is_usage() => EXIT_USAGE,
            Self::Rehearse(_) => 1,
            Self::Serve(error) => error.exit_code(),
            Self::Client(error) => error.exit_code(),
            Self::Audit(error) => error.exit_code(),
        }
    }

    /// Returns the JSON for the standard output, if the caller asked for JSON.
    fn json(&self) -> Option<&str> {
        match self {
            Self::Client(error) => error.json(),
            Self::Configuration(_)
            | Self::Runtime(_)
            | Self::Serve(_)
            | Self::Audit(_)
            | Self::UnknownFault(_)
            | Self::UnknownKind(_)
            | Self::Schedule { .. }
            | Self::Exists(_)
            | Self::Chaos(_)
            | Self::Course(..)
            | Self::Rehearse(_)
            | Self::Scenario(_)
            | Self::Report(..) => None,
        }
    }

    /// Returns the error and its causes, one per line.
    fn describe(&self) -> String {
        let mut text = format!("coupond: {self}");
        let mut said = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            // Errors of some libraries repeat the text of their cause.
            let says = error.to_string();
            if !said.contains(&says) {
                text.push_str(&format!("\n  caused by: {says}"));
            }
            said = says;
            cause = error.source();
        }
        text
    }
}

fn run(arguments: Arguments) -> Result<Done, CliError> {
    let (settings, command) = arguments.settled();
    let load = || -> Result<Loaded, Problems> {
        config::load(&Sources::of_process(settings.config.clone(), settings.set.clone()))
    };
    match command {
        Command::Serve(_) => {
            let (loaded, logs) = with_logs(load())?;
            serve::run(loaded, logs)
        }
        Command::CheckConfig(_) => {
            let (loaded, _) = with_logs(load())?;
            serve::raise_open_files();
            let bounds = node::memory_bounds(&loaded.config, &loaded.explicit());
            let bounds = bounds.map_err(CliError::Serve)?;
            let warnings: String =
                loaded.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            Ok(Done::with(format!("{}\n{bounds}\n{warnings}", loaded.summary())))
        }
        Command::PrintConfig(print) if print.defaults => Ok(Done::with(config::documented())),
        Command::PrintConfig(_) => Ok(Done::with(load()?.print())),
        Command::Campaign(campaign) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(campaign::run(&config, campaign))?)
        }
        Command::Issue(issue) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(issue::run(&config, issue))?)
        }
        Command::Skip(skip) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(campaign::skip(&config, skip))?)
        }
        Command::Changes(changes) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(changes::run(&config, changes))?)
        }
        Command::Secret(secret::SecretArguments {
            action: secret::SecretAction::Export(export),
        }) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(secret::export(&config, export))?)
        }
        Command::Crash(crash) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(campaign::crash(&config, crash))?)
        }
        Command::Audit(audit) => audit::run(&load()?.config, audit),
        Command::Simulate(simulate) => simulate::run(&simulate),
        Command::Chaos(chaos) => chaos::run(chaos),
        Command::Rehearse(rehearse) => rehearse::run(load, rehearse),
        Command::Completions(completions) => Ok(Done::with(shell::completions(&completions))),
        Command::Man => Ok(Done::with(shell::manual_page())),
        Command::Health(health) => {
            let config = load()?.config;
            Ok(one_thread()?.block_on(campaign::health(&config, health))?)
        }
    }
}

/// Adds the log filter to a configuration. `serve` refuses an invalid filter, so it is reported with
/// the problems of the settings.
fn with_logs(loaded: Result<Loaded, Problems>) -> Result<(Loaded, LogFilter), Problems> {
    let logs = LogFilter::from_environment().map_err(|error| ConfigProblem {
        key: error.variable.to_owned(),
        fault: format!("is {:?}, must be a log filter ({})", error.filter, error.source),
        remedy: "write for example \"warn\" or \"info,coupond=debug\"".to_owned(),
        origin: Origin::Environment(error.variable.to_owned()),
    });
    match (loaded, logs) {
        (Ok(loaded), Ok(logs)) => Ok((loaded, logs)),
        (Err(problems), Ok(_)) => Err(problems),
        (Ok(_), Err(problem)) => Err(Problems(vec![problem])),
        (Err(Problems(mut problems)), Err(problem)) => {
            problems.push(problem);
            Err(Problems(problems))
        }
    }
}

fn one_thread() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::Runtime)
}

/// Prints to the standard output. A closed pipe is no error: `| head` needs no more.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
