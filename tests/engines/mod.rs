//! Starts a real Kafka and a real CQL database for tests.
//!
//! Sources, in this order: endpoints in the environment (`COUPOND_TEST_KAFKA`, `COUPOND_TEST_CQL`:
//! `host:port`, comma-separated); a container engine that answers, with the images of
//! `docker/compose.yaml`; Java 17 and Maven, through `docker/engines/engines`.
//!
//! Each engine is started on first use, and shared by all tests of the process, which use
//! [`unique`] names. No engine outlives the process: its runner stops when its stdin closes, and
//! the system closes that pipe even if this process is killed.

mod start;

use std::{
    fmt,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

pub(crate) use start::Own;

/// An engine that tests can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// Apache Kafka.
    Kafka,
    #[allow(dead_code, reason = "the tests of the coupon store ask for it")]
    /// ScyllaDB in a container, Apache Cassandra from its jars.
    Cql,
}

impl Engine {
    /// Returns the environment variable with the endpoints of a running engine.
    fn variable(self) -> &'static str {
        match self {
            Self::Kafka => "COUPOND_TEST_KAFKA",
            Self::Cql => "COUPOND_TEST_CQL",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::Cql => "a CQL database",
        })
    }
}

/// The endpoints of an engine: `host:port` of each node.
pub(crate) type Endpoints = Vec<String>;

/// Returns this process's shared engine, started on first use, or why there is none.
pub(crate) fn shared(engine: Engine) -> Result<&'static Endpoints, &'static str> {
    static KAFKA: OnceLock<Result<Running, String>> = OnceLock::new();
    static CQL: OnceLock<Result<Running, String>> = OnceLock::new();
    let cell = match engine {
        Engine::Kafka => &KAFKA,
        Engine::Cql => &CQL,
    };
    match cell.get_or_init(|| find(engine)) {
        Ok(running) => Ok(&running.endpoints),
        Err(reason) => Err(reason),
    }
}

/// Returns this process's secured engines, Kafka and the database, started together on first use, or
/// why there are none. They come from their jars: access rules and certificates are the script's.
#[allow(dead_code, reason = "only some of the binaries with this module need it")]
pub(crate) fn secured() -> Result<&'static (Own, Own), &'static str> {
    static SECURED: OnceLock<Result<(Own, Own), String>> = OnceLock::new();
    let started = SECURED.get_or_init(|| {
        let database = std::thread::spawn(|| Own::start_secured(Engine::Cql));
        let kafka = Own::start_secured(Engine::Kafka);
        let database = database.join().expect("the start does not panic");
        Ok((kafka?, database?))
    });
    started.as_ref().map_err(String::as_str)
}

/// Returns a name that no other test uses, even in an earlier run on the same engine. It consists
/// of letters, digits and underscores, so that it can be a keyspace, a group or a topic prefix.
pub(crate) fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random).expect("the system has randomness");
    format!("{what}_{:08x}_{number}", u32::from_le_bytes(random))
}

/// A running engine with the handle that keeps it alive.
struct Running {
    endpoints: Endpoints,
    /// Stops the engine. Never dropped, because it is held in a static: the engine ends with the
    /// process.
    _own: Option<Own>,
}

fn find(engine: Engine) -> Result<Running, String> {
    if let Ok(given) = std::env::var(engine.variable()) {
        let endpoints: Endpoints = given.split(',').map(|node| node.trim().to_owned()).collect();
        return Ok(Running { endpoints, _own: None });
    }
    let mut reasons = Vec::new();
    for start in [start::container, start::from_jars] {
        match start(engine) {
            Ok(own) => {
                return Ok(Running { endpoints: own.endpoints().to_vec(), _own: Some(own) });
            }
            Err(reason) => reasons.push(reason),
        }
    }
    let variable = engine.variable();
    Err(format!("{engine} is not available: {variable} is not set; {}", reasons.join("; ")))
}
