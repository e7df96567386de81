//! Chaos on real processes: nodes under load, on engines of their own or embedded, while faults of a
//! schedule strike. What clients were told is judged by the audit, and each recovery is compared with the
//! bound of its kind.
//!
//! `schedule` draws the faults and `kinds` lists them; both are pure. `cycle` runs one cycle of a
//! schedule: `stage` starts an instance, `strikes` and `rows` let faults strike, `clients` ask for coupons.
//! `processes`, `engines` and `network` touch only what this process has made.

mod clients;
mod cycle;
mod engines;
mod kinds;
mod network;
mod processes;
mod rows;
mod schedule;
mod stage;
mod strikes;
mod verdict;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::geteuid;

pub(crate) use self::{
    cycle::Say,
    kinds::{Kind, Place},
    network::is_own as is_inside,
    schedule::{Cycle, parse},
    verdict::Verdict,
};
use self::{
    network::Namespace,
    stage::{Engines, Plan},
};
use crate::children::{TETHER, is_installed};

/// What is to be run.
#[derive(Debug, Clone)]
pub(crate) struct Chaos {
    /// An embedded node instead of several on engines.
    pub(crate) is_embedded: bool,
    /// Brokers, and database nodes: 1 or 3.
    pub(crate) engines: u32,
    /// coupond nodes.
    pub(crate) nodes: usize,
    /// Faults are drawn from it.
    pub(crate) seed: u64,
    /// Whether the seed was drawn, and not given.
    pub(crate) is_drawn: bool,
    /// Only these kinds strike. Empty: all that can.
    pub(crate) kinds: Vec<Kind>,
    /// Number of cycles, instead of as many as let each kind strike three times.
    pub(crate) cycles: Option<usize>,
    /// The first cycle in which something is broken is the last.
    pub(crate) until_broken: bool,
    /// No cycle begins after this time.
    pub(crate) at_most: Option<Duration>,
    /// These cycles instead of drawn ones.
    pub(crate) again: Option<Vec<Cycle>>,
    /// The script that starts engines.
    pub(crate) script: PathBuf,
    /// Where evidence is kept. It does not exist yet.
    pub(crate) out: PathBuf,
}

/// A chaos run that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChaosError {
    /// What is missing, or what failed that is no fault of coupond.
    #[error("chaos cannot go on: {0}")]
    Failed(String),
    /// It was run in a namespace of its own, whose process ended with this code.
    #[error("ended with {0}")]
    Ended(u8),
}

impl From<String> for ChaosError {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

impl Chaos {
    /// Runs all cycles.
    ///
    /// # Errors
    /// [`ChaosError`] if they cannot be run. What is broken is in the verdict.
    pub(crate) fn run(&self, say: &Say) -> Result<Verdict, ChaosError> {
        if let Some(tool) = [TETHER, "prlimit"].into_iter().find(|it| !is_installed(it)) {
            return Err(ChaosError::Failed(format!("`{tool}` (of util-linux) is missing")));
        }
        if !self.is_embedded {
            // The namespace has no way to the network.
            engines::fetch(&self.script)?;
        }
        // A drawn seed is drawn once.
        let drawn = self.is_drawn.then(|| ["--seed".to_owned(), self.seed.to_string()]);
        let drawn = drawn.as_ref().map_or(&[][..], |drawn| &drawn[..]);
        let (has_namespace, why_not) = match network::enter(drawn) {
            Namespace::Ended(code) => return Err(ChaosError::Ended(code)),
            Namespace::Own => (true, String::new()),
            Namespace::Machine(reason) => (false, reason),
        };
        let place = Place {
            is_embedded: self.is_embedded,
            engines: self.engines,
            nodes: self.nodes,
            has_network: has_namespace,
            has_small_disk: has_namespace && geteuid().is_root(),
            has_fake_time: processes::fake_time().is_some(),
        };
        if !has_namespace {
            say(&format!("without a network namespace ({why_not})"));
        }
        let (kinds, left_out) = self.chosen(&place);
        let reasons: BTreeSet<_> = left_out.iter().map(|(_, reason)| *reason).collect();
        for reason in reasons {
            let of = left_out.iter().filter(|(_, other)| *other == reason);
            let names: Vec<_> = of.map(|(kind, _)| kind.name()).collect();
            say(&format!("left out, because {reason}: {}", names.join(", ")));
        }
        if kinds.is_empty() {
            return Err(ChaosError::Failed("no kind of fault can strike here".to_owned()));
        }
        let draw = || schedule::draw(self.seed, &kinds, self.nodes, self.cycles);
        let cycles = self.again.clone().unwrap_or_else(draw);
        let failed = |error: std::io::Error| format!("{}: {error}", self.out.display());
        fs::create_dir_all(&self.out).map_err(failed)?;
        let out = self.out.canonicalize().map_err(failed)?;
        fs::write(out.join("schedule.jsonl"), schedule::text(&cycles)).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
        let mut verdict = Verdict::new(self, &cycles, kinds, left_out);
        let ended = runtime.block_on(async {
            tokio::select! {
                done = self.cycles(&cycles, &out, &mut verdict, say) => done,
                _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
            }
        });
        verdict.keep(&out)?;
        ended?;
        Ok(verdict)
    }

    fn chosen(&self, place: &Place) -> (Vec<Kind>, Vec<(Kind, &'static str)>) {
        let wanted = |kind: &Kind| self.kinds.is_empty() || self.kinds.contains(kind);
        let (mut kinds, mut left_out) = (Vec::new(), Vec::new());
        for kind in Kind::ALL.iter().copied().filter(wanted) {
            match place.lacks(kind) {
                Some(reason) => left_out.push((kind, reason)),
                None => kinds.push(kind),
            }
        }
        (kinds, left_out)
    }

    async fn cycles(
        &self,
        cycles: &[Cycle],
        out: &Path,
        verdict: &mut Verdict,
        say: &Say,
    ) -> Result<(), String> {
        let engines = match self.is_embedded {
            true => None,
            false => {
                say(&format!("starting {0} broker(s) and {0} database node(s)", self.engines));
                Some(tokio::task::block_in_place(|| {
                    Engines::start(&self.script, self.engines, out)
                })?)
            }
        };
        let began = Instant::now();
        for (number, cycle) in cycles.iter().enumerate() {
            if self.at_most.is_some_and(|most| began.elapsed() >= most) {
                say("the time is over");
                break;
            }
            let kinds: Vec<_> = cycle.strikes.iter().map(|strike| strike.kind.name()).collect();
            say(&format!("cycle {}/{}: {}", number + 1, cycles.len(), kinds.join(", ")));
            let folder = out.join(format!("cycle-{}", number + 1));
            fs::create_dir_all(&folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
            let line = schedule::text(std::slice::from_ref(cycle));
            let kept = fs::write(folder.join("schedule.jsonl"), line);
            kept.map_err(|error| format!("{}: {error}", folder.display()))?;
            let plan = self.plan(cycle, number, folder)?;
            let run = cycle::run(cycle, &plan, engines.as_ref(), say).await;
            // After one that could not be run, engines may be in any state.
            let is_last = run.is_err();
            let outcome = run.unwrap_or_else(cycle::Outcome::broken);
            let is_sound = outcome.broken.is_empty();
            for broken in &outcome.broken {
                say(&format!("  BROKEN: {broken}"));
            }
            if is_sound {
                // Evidence is kept of what broke. The rest would fill the disk in a night.
                let _gone = fs::remove_dir_all(&plan.folder);
            }
            verdict.add(number, outcome);
            if is_last || (self.until_broken && !is_sound) {
                break;
            }
        }
        Ok(())
    }

    fn plan(&self, cycle: &Cycle, number: usize, folder: PathBuf) -> Result<Plan, String> {
        let sets_clocks = cycle.strikes.iter().any(|strike| strike.kind == Kind::ClockStep);
        Ok(Plan {
            binary: std::env::current_exe().map_err(|error| error.to_string())?,
            nodes: if self.is_embedded { 1 } else { self.nodes },
            name: format!("chaos_{}_{}", std::process::id(), number + 1),
            folder,
            has_groups: !self.is_embedded && network::is_own(),
            fake_time: sets_clocks.then(processes::fake_time).flatten(),
        })
    }
}
