//! `coupond simulate`: runs simulated worlds and sums up faults, decisions and broken invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, Done, arguments::SimulateArguments, one_thread};
use crate::simulation::{
    Fault, Kinds, Report, Setup, Simulator, Violation,
    shrink::{essence, shrink},
};

/// Exit code if not all worlds were run.
const EXIT_INTERRUPTED: u8 = 1;

/// Exit code if an invariant is broken.
const EXIT_BROKEN: u8 = 3;

/// Number of worlds after which a kind of fault that never occurred is a failure. The rarest occurs
/// once in some hundred worlds.
const SEEDS_FOR_EVERY_FAULT: u64 = 20_000;

/// Most broken worlds that are listed.
const LISTED_MAX: usize = 60;

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Time between two checks whether all worlds are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Sums over all worlds so far.
#[derive(Default)]
struct Totals {
    seeds: u64,
    fired: Vec<u64>,
    decisions: [u64; 3],
    events: u64,
    /// Seeds whose two runs differ.
    wavering: Vec<u64>,
    /// Broken invariants, by seed.
    broken: BTreeMap<u64, Violation>,
    /// Whether Ctrl-C ended the run.
    interrupted: bool,
}

pub(super) fn run(arguments: &SimulateArguments) -> Result<Done, CliError> {
    if arguments.list_faults {
        let lines = Fault::ALL.iter().map(|it| format!("{:<24} {}\n", it.name(), it.about()));
        return Ok(Done::with(lines.collect::<String>()));
    }
    let kinds = kinds(arguments.faults.as_deref())?;
    #[cfg(feature = "planted-bugs")]
    if arguments.planted {
        return Ok(planted(arguments, &kinds));
    }
    // A panic counts as a broken invariant and is reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let totals = simulate(arguments, &kinds);
    let _ = std::panic::take_hook();
    let totals = totals?;
    let elapsed = started.elapsed();
    let mut text = summary(&totals, elapsed);
    let mut exit_code = 0;
    if totals.interrupted {
        text.push_str(&format!("Interrupted before all {} worlds were run\n", arguments.seeds));
        exit_code = EXIT_INTERRUPTED;
    }
    let silent: Vec<_> = kinds.iter().filter(|kind| totals.fired[**kind as usize] == 0).collect();
    if !silent.is_empty() && totals.seeds >= SEEDS_FOR_EVERY_FAULT {
        let names: Vec<_> = silent.iter().map(|kind| kind.name()).collect();
        text.push_str(&format!("\nThese faults never occurred: {}\n", names.join(", ")));
        exit_code = EXIT_BROKEN;
    }
    if !totals.wavering.is_empty() {
        text.push_str(&format!("\nTwo runs differ for seeds: {:?}\n", totals.wavering));
        exit_code = EXIT_BROKEN;
    }
    if let Some((seed, violation)) = totals.broken.first_key_value() {
        if arguments.keep_going {
            text.push_str(&all_broken(&totals));
        } else {
            text.push_str(&failure(arguments, &kinds, *seed, violation));
        }
        exit_code = EXIT_BROKEN;
    }
    Ok(Done { text, exit_code })
}

fn kinds(names: Option<&[String]>) -> Result<Kinds, CliError> {
    let Some(names) = names else { return Ok(Fault::ALL.iter().copied().collect()) };
    let named =
        |name: &String| Fault::named(name).ok_or_else(|| CliError::UnknownFault(name.clone()));
    names.iter().filter(|name| *name != "none").map(named).collect()
}

fn setup(arguments: &SimulateArguments, kinds: &Kinds, seed: u64) -> Setup {
    Setup {
        seed,
        kinds: kinds.clone(),
        requests: arguments.requests,
        spared: arguments.spare.iter().copied().collect(),
        traced: arguments.trace,
    }
}

/// Runs worlds until all are done, one breaks an invariant, or Ctrl-C is pressed.
fn simulate(arguments: &SimulateArguments, kinds: &Kinds) -> Result<Totals, CliError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed.saturating_add(arguments.seeds);
    let stop = AtomicBool::new(false);
    let totals = Totals { fired: vec![0; Fault::COUNT], ..Totals::default() };
    let totals = Mutex::new(totals);
    let watch = one_thread()?;
    let interrupt = {
        let _in_it = watch.enter();
        signal(SignalKind::interrupt()).map_err(CliError::Runtime)?
    };
    let interrupted = std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let simulator = Simulator::new();
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let setup = setup(arguments, kinds, seed);
                    let report = simulator.run(&setup);
                    let again = arguments.twice.then(|| simulator.run(&setup).hash);
                    let wavers = again.is_some_and(|hash| hash != report.hash);
                    let ends = report.violation.is_some() && !arguments.keep_going;
                    stop.fetch_or(ends, Ordering::Relaxed);
                    let mut totals = totals.lock();
                    add(&mut totals, seed, report, wavers);
                }
            });
        }
        watch.block_on(progress(&totals, end - arguments.seed, &stop, interrupt))
    });
    let totals = totals.into_inner();
    Ok(Totals { interrupted, ..totals })
}

fn add(totals: &mut Totals, seed: u64, report: Report, wavers: bool) {
    totals.seeds += 1;
    for (sum, fired) in totals.fired.iter_mut().zip(report.fired) {
        *sum += u64::from(fired);
    }
    for (sum, decided) in totals.decisions.iter_mut().zip(report.decisions) {
        *sum += u64::from(decided);
    }
    totals.events += report.events;
    totals.wavering.extend(wavers.then_some(seed));
    for line in &report.trace {
        println!("{line}");
    }
    totals.broken.extend(report.violation.map(|violation| (seed, violation)));
}

/// Shows the progress on a terminal. Stops all worlds at Ctrl-C. Returns whether that happened.
async fn progress(
    totals: &Mutex<Totals>,
    seeds: u64,
    stop: &AtomicBool,
    mut interrupt: Signal,
) -> bool {
    let (started, mut said, mut interrupted) = (Instant::now(), Instant::now(), false);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = interrupt.recv() => {
                interrupted = true;
                stop.store(true, Ordering::Relaxed);
            }
        }
        let done = totals.lock().seeds;
        let over = done >= seeds || stop.load(Ordering::Relaxed);
        if std::io::stderr().is_terminal() && (over || said.elapsed() >= PROGRESS_EVERY) {
            said = Instant::now();
            let rate = done as f64 / started.elapsed().as_secs_f64();
            eprint!("\r{done} of {seeds} worlds, {rate:.0} a second ");
            let _ = std::io::stderr().flush();
        }
        if over {
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
            return interrupted;
        }
    }
}

fn summary(totals: &Totals, elapsed: Duration) -> String {
    let seeds = totals.seeds.max(1);
    let mut text = format!("{:<24} {:>12} {:>10}\n", "fault", "occurred", "per seed");
    for fault in Fault::ALL {
        let fired = totals.fired[*fault as usize];
        let each = fired as f64 / seeds as f64;
        text.push_str(&format!("{:<24} {fired:>12} {each:>10.3}\n", fault.name()));
    }
    let fired: u64 = totals.fired.iter().sum();
    let [issued, already, rejected] = totals.decisions;
    let seconds = elapsed.as_secs_f64().max(1e-6);
    text.push_str(&format!(
        "\n{} worlds in {seconds:.1} s: {:.0} a second, {:.0} events, {:.0} decisions and {:.0} \
         faults each\nissued {issued}, already issued {already}, rejected {rejected}\n",
        totals.seeds,
        totals.seeds as f64 / seconds,
        totals.events as f64 / seeds as f64,
        (issued + already + rejected) as f64 / seeds as f64,
        fired as f64 / seeds as f64,
    ));
    text
}

/// Plants one bug after another. Each must be found within the given number of seeds.
#[cfg(feature = "planted-bugs")]
fn planted(arguments: &SimulateArguments, kinds: &Kinds) -> Done {
    use crate::domain::planted::{Bug, plant};
    std::panic::set_hook(Box::new(|_| {}));
    let next = std::sync::atomic::AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.unwrap_or(cores).max(1) {
            scope.spawn(|| {
                let simulator = Simulator::new();
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    plant(Some(*bug));
                    let broken = (0..arguments.seeds).find_map(|number| {
                        let setup = setup(arguments, kinds, arguments.seed + number);
                        simulator.run(&setup).violation.map(|it| (number + 1, it))
                    });
                    let mut found = found.lock();
                    found.insert(*bug as usize, broken);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let found = found.into_inner();
    let mut text = format!("{:<24} {:<7} {:>6}  {}\n", "bug", "caught", "seeds", "what is wrong");
    let mut missed = 0;
    for bug in Bug::ALL {
        let (caught, seeds) = match found.get(&(*bug as usize)).and_then(Option::as_ref) {
            Some((seeds, violation)) => (violation.invariant, seeds.to_string()),
            None => ("MISSED", "-".to_owned()),
        };
        missed += u32::from(caught == "MISSED");
        text.push_str(&format!(
            "{:<24} {caught:<7} {seeds:>6}  {}\n",
            format!("{bug:?}"),
            bug.about()
        ));
    }
    let all = Bug::ALL.len();
    text.push_str(&format!("\n{} of {all} planted bugs found\n", all as u32 - missed));
    Done { text, exit_code: if missed == 0 { 0 } else { EXIT_BROKEN } }
}

/// Lists the worlds that broke an invariant.
fn all_broken(totals: &Totals) -> String {
    let mut text = format!("\n{} worlds broke an invariant:\n", totals.broken.len());
    for (seed, Violation { invariant, detail }) in totals.broken.iter().take(LISTED_MAX) {
        text.push_str(&format!("{seed:>8} {invariant:<7} {detail}\n"));
    }
    text
}

fn failure(
    arguments: &SimulateArguments,
    kinds: &Kinds,
    seed: u64,
    violation: &Violation,
) -> String {
    let Violation { invariant, detail } = violation;
    let mut text = format!("\n{invariant} is broken by seed {seed}: {detail}\n");
    std::panic::set_hook(Box::new(|_| {}));
    let simulator = Simulator::new();
    let whole = setup(arguments, kinds, seed);
    let report = simulator.run(&whole);
    let (short, shown) = shrink(&simulator, &whole, &report);
    let _ = std::panic::take_hook();
    let faults: Vec<_> = short
        .kinds
        .iter()
        .filter(|kind| shown.fired[**kind as usize] > 0)
        .map(|kind| kind.name())
        .collect();
    let spared: BTreeSet<_> =
        short.spared.iter().filter(|it| **it <= shown.firings).map(u32::to_string).collect();
    let all = |list: Vec<&str>| if list.is_empty() { "none".to_owned() } else { list.join(",") };
    text.push_str(&format!("repeat with: coupond simulate --seed {seed} --seeds 1\n"));
    text.push_str(&format!(
        "shrunk to: {} of {} faults, {} requests, kinds {}{}\n",
        shown.fired.iter().sum::<u32>(),
        report.fired.iter().sum::<u32>(),
        short.requests,
        all(faults),
        if spared.is_empty() { String::new() } else { format!(", {} spared", spared.len()) },
    ));
    for line in essence(&shown) {
        let line: String = line.chars().take(400).collect();
        text.push_str(&line);
        text.push('\n');
    }
    text
}
