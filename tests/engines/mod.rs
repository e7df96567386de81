//! Real engines for tests: a real Kafka and a real CQL database, from wherever they can be had.
//!
//! In this order: endpoints given by the environment (`COUPOND_TEST_KAFKA`, `COUPOND_TEST_CQL`:
//! `host:port`, comma-separated), a container engine that answers (with the images of
//! `docker/compose.yaml`), Java 17 and Maven by `docker/engines/engines`.
//!
//! Each is started once, on first use, and shared by every test of the process; tests keep apart
//! by names of their own ([`unique`]). Nothing outlives the process: whatever runs an engine holds
//! the other end of a pipe of ours, and ends when that pipe does, also after SIGKILL.

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
    /// The environment variable that names an engine which is there already.
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

/// Where an engine answers: `host:port` of each of its nodes.
pub(crate) type Endpoints = Vec<String>;

/// The shared engine of this process, started when it is first asked for; why there is none
/// otherwise.
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

/// A name that no other test uses, now or in an earlier run on the same engine: letters, digits
/// and underscores, so that it can be a keyspace, a group or a topic prefix.
pub(crate) fn unique(what: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut random = [0_u8; 4];
    getrandom::fill(&mut random).expect("the system has randomness");
    format!("{what}_{:08x}_{number}", u32::from_le_bytes(random))
}

/// An engine that answers, and what keeps it alive.
struct Running {
    endpoints: Endpoints,
    /// Ends with the process; held in a static, it is never dropped.
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
    Err(format!("{engine} is not to be had: {variable} is not set; {}", reasons.join("; ")))
}
