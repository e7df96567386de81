//! Half-dead nodes on three brokers and three database nodes: cut off from some of them, paused, with a
//! thread that hangs. What is left must decide within the time that README promises.
//!
//! The whole test runs in a network namespace of its own, so that its cuts touch nothing else, and its
//! engines and nodes end with it. It needs root, and takes a quarter of an hour: it is part of the
//! nightly proofs, and runs only if it is asked for (`cargo test --test half_dead -- --ignored`).

#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../engines/mod.rs"]
mod engines;
#[path = "../nodes/instance.rs"]
mod instance;
mod network;
#[allow(dead_code, reason = "other tests need the rest")]
#[path = "../nodes/mod.rs"]
mod procs;
mod ranges;
mod rows;
mod stage;
mod threads;

use std::{process::ExitCode, sync::OnceLock, time::Duration};

use engines::{Engine, Own};
use libtest_mimic::{Arguments, Failed, Trial};

/// Longest run of a test. A slower one fails instead of hanging.
const TEST_WITHIN: Duration = Duration::from_secs(420);

/// Nodes of each engine.
const ENGINE_NODES: u32 = 3;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One cut at a time, and no load beside a measured time.
    arguments.test_threads = Some(1);
    let runs = (arguments.ignored || arguments.include_ignored) && !arguments.list;
    if runs {
        match network::enter() {
            Ok(None) => {}
            Ok(Some(code)) => return ExitCode::from(code),
            Err(reason) => {
                eprintln!("half-dead nodes cannot be tried: {reason}");
                return ExitCode::FAILURE;
            }
        }
    }
    libtest_mimic::run(&arguments, rows::trials().into_iter().chain(ranges::trials()).collect())
        .exit_code()
}

/// Returns an engine of three nodes, started on first use.
fn engine(engine: Engine) -> &'static Own {
    static KAFKA: OnceLock<Own> = OnceLock::new();
    static CQL: OnceLock<Own> = OnceLock::new();
    let cell = if engine == Engine::Kafka { &KAFKA } else { &CQL };
    cell.get_or_init(|| Own::start(engine, ENGINE_NODES).expect("the engine starts"))
}

/// Returns a test that runs only if it is asked for.
fn trial<T>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Trial
where
    T: Future<Output = ()> + Send + 'static,
{
    let run = move || {
        let (_brokers, _database) = (engine(Engine::Kafka), engine(Engine::Cql));
        network::mend();
        procs::run_within(TEST_WITHIN, body).map_err(Failed::from)
    };
    Trial::test(name, run).with_ignored_flag(true)
}

/// Returns trials of functions.
macro_rules! trials {
    ($($name:ident),+ $(,)?) => {
        vec![$(crate::trial(concat!(module_path!(), "::", stringify!($name)), $name)),+]
    };
}
pub(crate) use trials;
