//! Tests on a real Kafka and a real CQL database.
//!
//! They are one binary, so that `cargo test` starts each engine only once. Tests without an
//! available engine are reported as ignored, with the reason. Under `CI=true` they fail.

mod clocks;
mod cql;
mod cut_off;
#[path = "../engines/mod.rs"]
mod engines;
#[path = "../nodes/instance.rs"]
mod instance;
mod kafka;
mod nodes;
mod outages;
#[path = "../nodes/mod.rs"]
mod procs;
mod proxy;
mod secured;
mod skips;
mod undefined;
mod upgrade;

use std::{process::ExitCode, time::Duration};

use engines::{Engine, Own};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Longest run of a test. A slower one fails instead of hanging.
const TEST_WITHIN: Duration = Duration::from_secs(480);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cql = [cql::trials(), cql::schema::trials(), cql::damaged::trials()];
    let nodes = [nodes::trials(), outages::trials(), upgrade::trials(), clocks::trials()];
    let nodes = nodes.into_iter().chain([skips::trials(), cut_off::trials(), undefined::trials()]);
    let nodes = nodes.chain([secured::trials()]);
    let trials = cql.into_iter().chain([kafka::trials()]).chain(nodes).flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Returns a test that needs `engines`; `body` gets them from [`engines::shared`].
fn trial<T>(
    name: impl Into<String>,
    engines: &'static [Engine],
    body: impl FnOnce() -> T + Send + 'static,
) -> Trial
where
    T: Future<Output = ()> + Send + 'static,
{
    Trial::ignorable_test(name, move || {
        for engine in engines {
            if let Err(reason) = engines::shared(*engine) {
                return absent(reason);
            }
        }
        run(body)
    })
}

/// Returns a test with its own engine of `nodes` nodes, which `body` may kill.
fn trial_with_own<T>(
    name: impl Into<String>,
    engine: Engine,
    nodes: u32,
    body: impl FnOnce(Own) -> T + Send + 'static,
) -> Trial
where
    T: Future<Output = ()> + Send + 'static,
{
    Trial::ignorable_test(name, move || match Own::start(engine, nodes) {
        Ok(own) => run(|| body(own)),
        Err(reason) => absent(&reason),
    })
}

fn absent(reason: &str) -> Result<Completion, Failed> {
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        return Err(format!("CI=true, and {reason}").into());
    }
    Ok(Completion::ignored_with(reason))
}

fn run<T>(body: impl FnOnce() -> T) -> Result<Completion, Failed>
where
    T: Future<Output = ()> + Send + 'static,
{
    procs::run_within(TEST_WITHIN, body)?;
    Ok(Completion::Completed)
}

/// Returns trials of functions: `trials!(&[Engine::Kafka]; one_function, another_function)`.
macro_rules! trials {
    ($engines:expr; $($name:ident),+ $(,)?) => {
        vec![$(crate::trial(
            concat!(module_path!(), "::", stringify!($name)),
            $engines,
            $name,
        )),+]
    };
}
pub(crate) use trials;
