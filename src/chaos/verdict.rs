//! What came of a chaos run: a table by kind, and what is broken.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use serde::Serialize;

use super::{Chaos, Cycle, cycle::Outcome, kinds::Kind, schedule::TIMES_EACH};

/// The sums over all cycles.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    seed: u64,
    is_embedded: bool,
    engines: u32,
    nodes: usize,
    cycles_planned: usize,
    /// Cycles that were run.
    pub(crate) cycles: usize,
    answers: u64,
    told: BTreeMap<String, u64>,
    kinds: BTreeMap<&'static str, Times>,
    left_out: BTreeMap<&'static str, &'static str>,
    zombies: Vec<String>,
    /// What is broken, with the number of its cycle.
    pub(crate) broken: Vec<(usize, String)>,
}

/// How often a kind struck, and how long everything took to decide again.
#[derive(Debug, Default, Serialize)]
struct Times {
    struck: usize,
    late: usize,
    within_ms: u64,
    recovery_ms: Vec<u64>,
}

impl Times {
    fn median(&self) -> u64 {
        let mut sorted = self.recovery_ms.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self) -> u64 {
        self.recovery_ms.iter().copied().max().unwrap_or_default()
    }
}

impl Verdict {
    pub(super) fn new(
        chaos: &Chaos,
        cycles: &[Cycle],
        kinds: Vec<Kind>,
        left_out: Vec<(Kind, &'static str)>,
    ) -> Self {
        let times =
            |kind: Kind| (kind.name(), Times { within_ms: kind.bound().0, ..Times::default() });
        Self {
            seed: chaos.seed,
            is_embedded: chaos.is_embedded,
            engines: chaos.engines,
            nodes: if chaos.is_embedded { 1 } else { chaos.nodes },
            cycles_planned: cycles.len(),
            cycles: 0,
            answers: 0,
            told: BTreeMap::new(),
            kinds: kinds.into_iter().map(times).collect(),
            left_out: left_out.into_iter().map(|(kind, reason)| (kind.name(), reason)).collect(),
            zombies: Vec::new(),
            broken: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, number: usize, outcome: Outcome) {
        self.cycles += 1;
        self.answers += outcome.answers;
        for (name, count) in outcome.told {
            *self.told.entry(name).or_default() += count;
        }
        for recovery in outcome.recoveries {
            let times = self.kinds.entry(recovery.kind.name()).or_default();
            times.struck += 1;
            times.within_ms = recovery.within_ms;
            times.late += usize::from(recovery.ms > recovery.within_ms);
            times.recovery_ms.push(recovery.ms);
        }
        self.zombies.extend(outcome.zombies);
        self.broken.extend(outcome.broken.into_iter().map(|what| (number + 1, what)));
    }

    /// Writes it to `verdict.json`.
    pub(super) fn keep(&self, out: &Path) -> Result<(), String> {
        let file = out.join("verdict.json");
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    /// Returns whether cycles were run, and nothing is broken.
    pub(crate) fn is_sound(&self) -> bool {
        self.cycles > 0 && self.broken.is_empty()
    }

    /// Returns it for programs.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Returns the table for people.
    pub(crate) fn text(&self) -> String {
        let seconds = |ms: u64| ms as f64 / 1_000.0;
        let mut text = format!(
            "{} of {} cycles, seed {}, {} node(s){}\n\n{:<22} {:>6} {:>6} {:>9} {:>9} {:>9}\n",
            self.cycles,
            self.cycles_planned,
            self.seed,
            self.nodes,
            if self.is_embedded {
                String::new()
            } else {
                format!(", {0} + {0} engines", self.engines)
            },
            "fault",
            "struck",
            "late",
            "median",
            "longest",
            "bound",
        );
        for (kind, times) in &self.kinds {
            let _ = writeln!(
                text,
                "{kind:<22} {:>6} {:>6} {:>7.2} s {:>7.2} s {:>7.1} s",
                times.struck,
                times.late,
                seconds(times.median()),
                seconds(times.longest()),
                seconds(times.within_ms),
            );
        }
        for (kind, reason) in &self.left_out {
            let _ = writeln!(text, "{kind:<22} left out: {reason}");
        }
        let few = self.kinds.iter().filter(|(_, times)| times.struck < TIMES_EACH);
        let few: Vec<_> = few.map(|(kind, times)| format!("{kind} ({})", times.struck)).collect();
        if !few.is_empty() {
            let _ = writeln!(text, "\nstruck less than {TIMES_EACH} times: {}", few.join(", "));
        }
        let _ = writeln!(text, "\n{} answers:", self.answers);
        for (name, count) in &self.told {
            let _ = writeln!(text, "{count:>9}  {name}");
        }
        let _ = writeln!(text, "\n{} proven zombie(s)", self.zombies.len());
        match self.broken.len() {
            0 if self.cycles == 0 => text.push_str("no cycle was run: nothing is known\n"),
            0 => text.push_str("nothing lost, nothing given twice, nothing oversold\n"),
            count => {
                let _ = writeln!(text, "{count} BROKEN:");
                for (cycle, what) in &self.broken {
                    let _ = writeln!(text, "  cycle {cycle}: {what}");
                }
            }
        }
        text
    }
}
