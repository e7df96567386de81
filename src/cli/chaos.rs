//! `coupond chaos`: breaks nodes and engines of its own.

use std::{fmt::Write as _, fs, path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, builder::TypedValueParser};

use super::{CliError, Done};
use crate::chaos::{self, Chaos, ChaosError, Kind};

/// Exit code if something is broken.
const EXIT_BROKEN: u8 = 3;

#[derive(Debug, Args)]
pub(super) struct ChaosArguments {
    /// Seed of the schedule [default: drawn]
    #[arg(long, value_name = "S")]
    pub(super) seed: Option<u64>,
    /// Break one embedded node instead of several on engines
    #[arg(long)]
    pub(super) embedded: bool,
    /// Brokers, and database nodes
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "embedded",
        value_parser = clap::builder::PossibleValuesParser::new(["1", "3"]).map(|it| it.parse::<u32>().unwrap_or(1)))]
    pub(super) engines: u32,
    /// coupond nodes
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "embedded",
        value_parser = clap::value_parser!(u8).range(2..=9))]
    pub(super) nodes: u8,
    /// Kinds of faults, comma-separated [default: all that can strike here]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) kinds: Vec<String>,
    /// Number of cycles, each of three faults [default: until each kind has struck three times]
    #[arg(long, value_name = "N")]
    pub(super) cycles: Option<usize>,
    /// Begin no cycle after so many minutes
    #[arg(long, value_name = "N")]
    pub(super) minutes: Option<u64>,
    /// End after the first cycle in which something is broken
    #[arg(long)]
    pub(super) until_broken: bool,
    /// Folder for the evidence; must not exist yet [default: chaos-SEED]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// Run the schedule of this file again: schedule.jsonl of a run, or of one of its cycles
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "kinds", "cycles"])]
    pub(super) again: Option<PathBuf>,
    /// The script that starts the engines
    #[arg(long, value_name = "FILE", default_value = "docker/engines/engines")]
    pub(super) engines_script: PathBuf,
    /// List the kinds of faults and exit
    #[arg(long)]
    pub(super) list_kinds: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(arguments: ChaosArguments) -> Result<Done, CliError> {
    if arguments.list_kinds {
        let mut text = String::new();
        for kind in Kind::ALL {
            let _ = writeln!(text, "{kind:<22} {}", kind.about());
        }
        return Ok(Done::with(text));
    }
    let json = arguments.json;
    let chaos = planned(arguments)?;
    let verdict = match chaos.run(&(Arc::new(|line: &str| eprintln!("{line}")) as chaos::Say)) {
        Ok(verdict) => verdict,
        // The process inside the namespace has printed it.
        Err(ChaosError::Ended(exit_code)) => return Ok(Done { text: String::new(), exit_code }),
        Err(error) => return Err(error.into()),
    };
    let text = if json { verdict.json() } else { verdict.text() };
    let exit_code = if verdict.is_sound() { 0 } else { EXIT_BROKEN };
    Ok(Done { text, exit_code })
}

fn planned(arguments: ChaosArguments) -> Result<Chaos, CliError> {
    let kinds = arguments
        .kinds
        .iter()
        .map(|name| Kind::parse(name).ok_or_else(|| CliError::UnknownKind(name.clone())));
    let kinds = kinds.collect::<Result<Vec<_>, _>>()?;
    let again = arguments.again.as_ref().map(|file| {
        let text = fs::read_to_string(file).map_err(|error| error.to_string());
        let refused = |reason| CliError::Schedule { file: file.display().to_string(), reason };
        text.and_then(|text| chaos::parse(&text)).map_err(refused)
    });
    let is_drawn = arguments.seed.is_none() && arguments.again.is_none();
    // Without random numbers of the system, the first schedule is as good as any.
    let drawn = || u64::from(getrandom::u32().unwrap_or_default());
    let seed = arguments.seed.unwrap_or_else(|| if is_drawn { drawn() } else { 0 });
    let out = arguments.out.unwrap_or_else(|| PathBuf::from(format!("chaos-{seed}")));
    if !chaos::is_inside() && out.exists() {
        return Err(CliError::Exists(out));
    }
    Ok(Chaos {
        is_embedded: arguments.embedded,
        engines: arguments.engines,
        nodes: if arguments.embedded { 1 } else { usize::from(arguments.nodes) },
        seed,
        is_drawn,
        kinds,
        cycles: arguments.cycles,
        until_broken: arguments.until_broken,
        at_most: arguments.minutes.map(|minutes| Duration::from_secs(minutes * 60)),
        again: again.transpose()?,
        script: arguments.engines_script,
        out,
    })
}
