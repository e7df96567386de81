//! `coupond simulate`: runs simulated worlds and sums up faults, answers and broken invariants.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{CliError, Done, arguments::SimulateArguments, one_thread};
use crate::simulation::{
    Course, Kinds, Outcome, Violation, draw, every_fault, run as play, shrink,
};

/// Exit code if not all worlds were run.
const EXIT_INTERRUPTED: u8 = 1;

/// Exit code if an invariant is broken.
const EXIT_BROKEN: u8 = 3;

/// Number of worlds after which a kind of fault that never struck is a failure. The rarest strikes
/// once in some hundred worlds.
const SEEDS_FOR_EVERY_FAULT: u64 = 5_000;

/// Most broken worlds that are listed.
const LISTED_MAX: usize = 60;

/// Lines of a broken world that are shown: what led there is at its end.
const LINES_MAX: usize = 120;

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Time between two checks whether all worlds are done.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Sums over all worlds so far.
#[derive(Default)]
struct Totals {
    worlds: u64,
    struck: BTreeMap<String, u64>,
    told: [u64; 4],
    events: u64,
    /// Time that worlds took, each on one core.
    busy: Duration,
    /// Seeds whose two runs differ.
    wavering: Vec<u64>,
    /// Broken invariants, by seed.
    broken: BTreeMap<u64, Violation>,
    /// Whether Ctrl-C ended the run.
    interrupted: bool,
}

pub(super) fn run(arguments: &SimulateArguments) -> Result<Done, CliError> {
    let faults = every_fault();
    if arguments.list_faults {
        let lines = faults.iter().map(|(kind, example)| format!("{kind:<24} {example}\n"));
        return Ok(Done::with(lines.collect::<String>()));
    }
    if let Some(file) = &arguments.course {
        let unreadable = |source| CliError::Course(file.clone(), source);
        let text = fs::read_to_string(file).map_err(|error| unreadable(Box::new(error)))?;
        let course = Course::parse(&text).map_err(|error| unreadable(Box::new(error)))?;
        return one_course(arguments, &course);
    }
    let kinds = kinds(arguments.faults.as_deref(), &faults)?;
    let started = Instant::now();
    let totals = simulate(arguments, &kinds)?;
    let mut text = summary(&totals, started.elapsed());
    let mut exit_code = 0;
    if totals.interrupted {
        text.push_str(&format!("Interrupted before all {} worlds were run\n", arguments.seeds));
        exit_code = EXIT_INTERRUPTED;
    }
    let silent: Vec<_> = kinds.iter().filter(|kind| !totals.struck.contains_key(*kind)).collect();
    if !silent.is_empty() && totals.worlds >= SEEDS_FOR_EVERY_FAULT {
        text.push_str(&format!("\nThese faults never struck: {silent:?}\n"));
        exit_code = EXIT_BROKEN;
    }
    if !totals.wavering.is_empty() {
        text.push_str(&format!("\nTwo runs differ for seeds: {:?}\n", totals.wavering));
        exit_code = EXIT_BROKEN;
    }
    if let Some((seed, violation)) = totals.broken.first_key_value() {
        text.push_str(&broken_line(violation, &format!("world {seed}"), &totals));
        if arguments.keep_going {
            text.push_str(&all_broken(&totals));
        } else {
            text.push_str(&format!("repeat with: coupond simulate --seed {seed} --seeds 1\n"));
            let course = draw(*seed, &kinds, arguments.requests);
            text.push_str(&failure(arguments, course)?);
        }
        exit_code = EXIT_BROKEN;
    }
    Ok(Done { text, exit_code })
}

fn kinds(names: Option<&[String]>, faults: &BTreeMap<String, String>) -> Result<Kinds, CliError> {
    let Some(names) = names else { return Ok(faults.keys().cloned().collect()) };
    let named = |name: &String| match faults.contains_key(name) {
        true => Ok(name.clone()),
        false => Err(CliError::UnknownFault(name.clone())),
    };
    names.iter().filter(|name| *name != "none").map(named).collect()
}

fn one_course(arguments: &SimulateArguments, course: &Course) -> Result<Done, CliError> {
    let started = Instant::now();
    let outcome = play(course, arguments.trace);
    let mut totals = Totals::default();
    let text = story(&outcome, usize::MAX);
    let violation = outcome.violations.first().cloned();
    add(&mut totals, 0, outcome, false, started.elapsed());
    let Some(violation) = violation else {
        let text = format!("{text}no invariant is broken by {} acts\n", course.acts());
        return Ok(Done { text, exit_code: 0 });
    };
    let mut text = text + &broken_line(&violation, "the course", &totals);
    if !arguments.no_shrink {
        text.push_str(&failure(arguments, course.clone())?);
    }
    Ok(Done { text, exit_code: EXIT_BROKEN })
}

/// Runs worlds until all are done, one breaks an invariant, or Ctrl-C is pressed.
fn simulate(arguments: &SimulateArguments, kinds: &Kinds) -> Result<Totals, CliError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.unwrap_or(cores).max(1);
    let next = AtomicU64::new(arguments.seed);
    let end = arguments.seed.saturating_add(arguments.seeds);
    let stop = AtomicBool::new(false);
    let totals = Mutex::new(Totals::default());
    let watch = one_thread()?;
    let interrupt = {
        let _in_it = watch.enter();
        signal(SignalKind::interrupt()).map_err(CliError::Runtime)?
    };
    let interrupted = std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let course = draw(seed, kinds, arguments.requests);
                    let started = Instant::now();
                    let outcome = play(&course, arguments.trace);
                    let busy = started.elapsed();
                    let again = arguments.twice.then(|| play(&course, false).trace);
                    let wavers = again.is_some_and(|trace| trace != outcome.trace);
                    let ends = !outcome.violations.is_empty() && !arguments.keep_going;
                    stop.fetch_or(ends, Ordering::Relaxed);
                    print!("{}", story(&outcome, usize::MAX));
                    add(&mut totals.lock(), seed, outcome, wavers, busy);
                }
            });
        }
        watch.block_on(progress(&totals, end - arguments.seed, &stop, interrupt))
    });
    let totals = totals.into_inner();
    Ok(Totals { interrupted, ..totals })
}

fn add(totals: &mut Totals, seed: u64, outcome: Outcome, wavers: bool, busy: Duration) {
    totals.worlds += 1;
    totals.busy += busy;
    for (kind, struck) in outcome.struck {
        *totals.struck.entry(kind).or_default() += struck;
    }
    for (sum, told) in totals.told.iter_mut().zip(outcome.told) {
        *sum += told;
    }
    totals.events += outcome.events;
    totals.wavering.extend(wavers.then_some(seed));
    totals.broken.extend(outcome.violations.into_iter().next().map(|violation| (seed, violation)));
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
        let done = totals.lock().worlds;
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
    let worlds = totals.worlds.max(1) as f64;
    let mut text = format!("{:<28} {:>12} {:>10}\n", "what happened", "times", "per world");
    for (kind, struck) in &totals.struck {
        let each = *struck as f64 / worlds;
        let _infallible = writeln!(text, "{kind:<28} {struck:>12} {each:>10.3}");
    }
    let [issued, already, rejected, pending] = totals.told;
    let (seconds, busy) = (elapsed.as_secs_f64(), totals.busy.as_secs_f64());
    let _infallible = writeln!(
        text,
        "\n{} worlds in {seconds:.1} s: {:.1} a second and core, {:.0} events each\nanswers: issued \
         {issued}, already issued {already}, rejected {rejected}, pending {pending}",
        totals.worlds,
        totals.worlds as f64 / busy.max(1e-6),
        totals.events as f64 / worlds,
    );
    text
}

/// The line that says what is broken, for people and for programs.
fn broken_line(violation: &Violation, place: &str, totals: &Totals) -> String {
    let Violation { invariant, detail } = violation;
    let (worlds, busy) = (totals.worlds, totals.busy.as_secs_f64());
    format!(
        "broken: {invariant} in {place}, after {worlds} worlds and {busy:.1} core-seconds: {detail}\n"
    )
}

/// Lists the worlds that broke an invariant.
fn all_broken(totals: &Totals) -> String {
    let mut text = format!("\n{} worlds broke an invariant:\n", totals.broken.len());
    for (seed, Violation { invariant, detail }) in totals.broken.iter().take(LISTED_MAX) {
        let detail: String = detail.chars().take(300).collect();
        let _infallible = writeln!(text, "{seed:>8} {invariant:<7} {detail}");
    }
    text
}

/// Makes a broken course short, and tells its story.
fn failure(arguments: &SimulateArguments, course: Course) -> Result<String, CliError> {
    let is_shown = std::io::stderr().is_terminal();
    let (acts, faults) = (course.acts(), course.faults());
    let short = match arguments.no_shrink {
        true => course,
        false => shrink(&course, |left| {
            if is_shown {
                eprint!("\rmaking it short: {left} of {acts} acts are left ");
            }
        }),
    };
    if is_shown && !arguments.no_shrink {
        eprintln!();
    }
    let mut text = format!(
        "{} of {acts} acts are enough, {} of {faults} faults among them\n",
        short.acts(),
        short.faults(),
    );
    if let Some(file) = &arguments.save {
        fs::write(file, short.text())
            .map_err(|error| CliError::Course(file.clone(), Box::new(error)))?;
        let _infallible = writeln!(text, "the course is in {}", file.display());
    }
    let outcome = play(&short, true);
    text.push_str(&story(&outcome, LINES_MAX));
    for Violation { invariant, detail } in &outcome.violations {
        let _infallible = writeln!(text, "{invariant}: {detail}");
    }
    Ok(text)
}

/// Returns the last lines of what happened.
fn story(outcome: &Outcome, most: usize) -> String {
    let skipped = outcome.story.len().saturating_sub(most);
    let mut text = String::new();
    for (us, line) in &outcome.story[skipped..] {
        let _infallible = writeln!(text, "{:>9.3} s  {line}", *us as f64 / 1e6);
    }
    text
}
