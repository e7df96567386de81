//! Lets faults strike, and ends them.

use std::{
    fs::{self, File},
    io::Write,
    sync::Arc,
    time::Duration,
};

use reqwest::Method;
use rustix::process::Signal;

use super::{
    clients::{self, Book},
    engines::Engine,
    kinds::Kind,
    network::{self, Link},
    processes::NodeProcess,
    rows,
    schedule::Strike,
    stage::{LOOK_EVERY, PARTITIONS, Stage},
};

/// Times that one more node comes and goes.
const STORM: u32 = 5;

/// Longest life of such a node.
const STORM_LIFE: Duration = Duration::from_millis(1_500);

/// Longest wait until some node crashes an actor: one of them owns its partition, or will soon.
const CRASH_LOOKS: u32 = 100;

/// Time that a node takes to end after a write or an allocation has failed.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Bytes written at a time until the disk is full.
const FILL_BYTES: usize = 64 * 1_024;

/// A fault that lasts.
pub(crate) struct Standing {
    strike: Strike,
    node: usize,
}

impl Standing {
    /// Returns its kind.
    pub(crate) fn kind(&self) -> Kind {
        self.strike.kind
    }

    /// Returns the node that it struck.
    pub(crate) fn node(&self) -> usize {
        self.node
    }
}

/// Lets a fault strike. Kinds that do not last are over when this returns.
///
/// # Errors
/// What went otherwise than it must: a node that ends with another code, a row whose loss went unnoticed.
pub(crate) async fn strike(
    stage: &mut Stage<'_>,
    book: &Arc<Book>,
    strike: &Strike,
) -> Result<Standing, String> {
    let node = strike.node % stage.nodes.len();
    let engine = |kind: Kind| match kind {
        Kind::KafkaKilled | Kind::KafkaPaused | Kind::KafkaRestarted => Engine::Kafka,
        _ => Engine::Database,
    };
    match strike.kind {
        Kind::Kill => stage.nodes[node].kill(),
        Kind::BurstAtTakeover => {
            stage.nodes[node].kill();
            clients::burst(&stage.target, book, strike.after_ms).await;
        }
        Kind::Pause => stage.nodes[node].signal(Signal::STOP),
        Kind::Terminate => terminate(&mut stage.nodes[node]).await?,
        Kind::RollingRestart => {
            for node in 0..stage.nodes.len() {
                terminate(&mut stage.nodes[node]).await?;
                stage.nodes[node].start()?;
                stage.ready().await?;
            }
        }
        Kind::ActorPanic => {
            for campaign in stage.target.campaigns.clone() {
                crash(stage, &format!("/admin/campaigns/{campaign}/crash")).await?;
            }
        }
        Kind::ConsumerPanic => {
            for partition in 0..PARTITIONS {
                crash(stage, &format!("/admin/partitions/{partition}/crash")).await?;
            }
        }
        Kind::SupervisorPanic => {
            // Whether or not its answer arrives before the node ends.
            let _told = stage.ask(node, Method::POST, "/admin/supervisor/crash").await;
            let code = stage.nodes[node].exit_code().await?;
            if code != 1 {
                return Err(format!("node {node} ended with {code} after its supervisor, not 1"));
            }
        }
        Kind::RebalanceStorm => storm(stage).await?,
        Kind::KafkaKilled | Kind::DatabaseKilled => {
            let engine = engine(strike.kind);
            blocking(|| with(stage, engine, strike, |it, at| it.kill(at)))?;
        }
        Kind::KafkaPaused | Kind::DatabasePaused => {
            let engine = engine(strike.kind);
            with(stage, engine, strike, |it, at| it.signal(at, Signal::STOP))?;
        }
        Kind::KafkaRestarted | Kind::DatabaseRestarted => {
            let engine = engine(strike.kind);
            blocking(|| with(stage, engine, strike, |it, at| it.shut_down(at)))?;
        }
        Kind::NoQuorum => two_databases(stage, strike, Signal::STOP)?,
        Kind::KafkaAway => whole(stage, Engine::Kafka, Signal::STOP)?,
        Kind::DatabaseAway => whole(stage, Engine::Database, Signal::STOP)?,
        Kind::CutFromKafka | Kind::CutFromDatabase | Kind::CutFromBoth | Kind::CutFromBroker => {
            network::harm(node, &endpoints(stage, strike), Link::Cut)?;
        }
        Kind::SlowLink => network::harm(node, &endpoints(stage, strike), Link::Slow)?,
        Kind::LossyLink => network::harm(node, &endpoints(stage, strike), Link::Lossy)?,
        Kind::DescriptorsExhausted => stage.nodes[node].limit_files(true)?,
        Kind::MemoryExhausted => stage.nodes[node].limit_memory(true)?,
        Kind::TopicChanged => rows::set_compression(stage, "gzip").await?,
        Kind::RowRemoved => rows::harmed_row(stage, rows::Harm::Removed).await?,
        Kind::RowAltered => rows::harmed_row(stage, rows::Harm::Altered).await?,
        Kind::ClockStep => stage.nodes[node].set_clock("+3600")?,
        Kind::Suspend => everything(stage, Signal::STOP)?,
        Kind::DiskFull => blocking(|| fill(stage))?,
    }
    Ok(Standing { strike: strike.clone(), node })
}

/// Ends a fault.
///
/// # Errors
/// That it cannot be ended.
pub(crate) async fn mend(stage: &mut Stage<'_>, standing: &Standing) -> Result<(), String> {
    let Standing { strike, node } = standing;
    let node = *node;
    match strike.kind {
        Kind::Kill | Kind::BurstAtTakeover | Kind::Terminate | Kind::SupervisorPanic => {
            stage.nodes[node].start()
        }
        Kind::Pause => {
            stage.nodes[node].signal(Signal::CONT);
            Ok(())
        }
        Kind::RollingRestart | Kind::ActorPanic | Kind::ConsumerPanic | Kind::RebalanceStorm => {
            Ok(())
        }
        Kind::RowRemoved | Kind::RowAltered => Ok(()),
        Kind::KafkaKilled | Kind::KafkaRestarted => {
            blocking(|| with(stage, Engine::Kafka, strike, |it, at| it.restart(at)))
        }
        Kind::DatabaseKilled | Kind::DatabaseRestarted => {
            blocking(|| with(stage, Engine::Database, strike, |it, at| it.restart(at)))
        }
        Kind::KafkaPaused => {
            with(stage, Engine::Kafka, strike, |it, at| it.signal(at, Signal::CONT))
        }
        Kind::DatabasePaused => {
            with(stage, Engine::Database, strike, |it, at| it.signal(at, Signal::CONT))
        }
        Kind::NoQuorum => two_databases(stage, strike, Signal::CONT),
        Kind::KafkaAway => whole(stage, Engine::Kafka, Signal::CONT),
        Kind::DatabaseAway => whole(stage, Engine::Database, Signal::CONT),
        Kind::CutFromKafka
        | Kind::CutFromDatabase
        | Kind::CutFromBoth
        | Kind::CutFromBroker
        | Kind::SlowLink
        | Kind::LossyLink => network::mend(),
        Kind::DescriptorsExhausted => stage.nodes[node].limit_files(false),
        // A node that cannot go on ends, and whoever runs it starts it again.
        Kind::MemoryExhausted => {
            tokio::time::sleep(ENDS_WITHIN).await;
            if stage.nodes[node].runs() {
                return stage.nodes[node].limit_memory(false);
            }
            stage.nodes[node].start()
        }
        Kind::TopicChanged => rows::set_compression(stage, "uncompressed").await,
        Kind::ClockStep => stage.nodes[node].set_clock("+0"),
        Kind::Suspend => everything(stage, Signal::CONT),
        Kind::DiskFull => {
            fs::remove_file(filler(stage)).map_err(|error| error.to_string())?;
            tokio::time::sleep(ENDS_WITHIN).await;
            if stage.nodes[node].runs() {
                return Ok(());
            }
            match stage.nodes[node].exit_code().await? {
                // What is on disk is unknown after a failed write, until the next start.
                1 => stage.nodes[node].start(),
                code => Err(format!("node {node} ended with {code} on a full disk, not 1")),
            }
        }
    }
}

/// Lets the runtime's other tasks go on while a script runs.
fn blocking<T>(run: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(run)
}

fn with(
    stage: &Stage<'_>,
    engine: Engine,
    strike: &Strike,
    act: impl FnOnce(&super::engines::Running, usize) -> Result<(), String>,
) -> Result<(), String> {
    let engine = stage.engines.ok_or("there are no engines")?.of(engine);
    act(engine, strike.node % engine.endpoints.len())
}

fn two_databases(stage: &Stage<'_>, strike: &Strike, signal: Signal) -> Result<(), String> {
    let database = &stage.engines.ok_or("there are no engines")?.database;
    let nodes = database.endpoints.len();
    (0..2).try_for_each(|at| database.signal((strike.node + at) % nodes, signal))
}

fn whole(stage: &Stage<'_>, engine: Engine, signal: Signal) -> Result<(), String> {
    let engine = stage.engines.ok_or("there are no engines")?.of(engine);
    (0..engine.endpoints.len()).try_for_each(|node| engine.signal(node, signal))
}

fn everything(stage: &mut Stage<'_>, signal: Signal) -> Result<(), String> {
    stage.nodes.iter_mut().for_each(|node| node.signal(signal));
    if stage.engines.is_none() {
        return Ok(());
    }
    whole(stage, Engine::Kafka, signal)?;
    whole(stage, Engine::Database, signal)
}

/// Returns what a node loses the way to.
fn endpoints(stage: &Stage<'_>, strike: &Strike) -> Vec<String> {
    let Some(engines) = stage.engines else { return Vec::new() };
    let (kafka, database) = (&engines.kafka.endpoints, &engines.database.endpoints);
    match strike.kind {
        Kind::CutFromKafka => kafka.clone(),
        Kind::CutFromDatabase => database.clone(),
        Kind::CutFromBroker => vec![kafka[strike.node % kafka.len()].clone()],
        _ => [&kafka[..], &database[..]].concat(),
    }
}

/// Asks a node to end, which it does with code 0.
async fn terminate(node: &mut NodeProcess) -> Result<(), String> {
    if !node.runs() {
        return Ok(());
    }
    node.signal(Signal::TERM);
    match node.exit_code().await? {
        0 => Ok(()),
        code => Err(format!("node {} ended with {code} after SIGTERM, not 0", node.number())),
    }
}

/// Crashes an actor at the node where it runs.
async fn crash(stage: &Stage<'_>, path: &str) -> Result<(), String> {
    let mut told = Vec::new();
    for _ in 0..CRASH_LOOKS {
        told = stage.ask_all(Method::POST, path).await;
        if told.iter().flatten().any(|(status, _)| *status == 200) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(format!("POST {path} crashed nothing at any node: {told:?}"))
}

/// Crashes the actor of a campaign, wherever it runs.
pub(super) async fn crash_actor(stage: &Stage<'_>, campaign: &str) -> Result<(), String> {
    crash(stage, &format!("/admin/campaigns/{campaign}/crash")).await
}

/// One more node joins the group and leaves it again, in order and not.
async fn storm(stage: &mut Stage<'_>) -> Result<(), String> {
    for round in 0..STORM {
        let mut guest = NodeProcess::new(stage.nodes.len(), &stage.program)?;
        guest.start()?;
        tokio::time::sleep(STORM_LIFE).await;
        if round % 2 == 0 {
            terminate(&mut guest).await?;
        }
    }
    Ok(())
}

fn filler(stage: &Stage<'_>) -> std::path::PathBuf {
    stage.program.folder.join("data").join("filler")
}

/// Fills the disk of the data folder.
fn fill(stage: &Stage<'_>) -> Result<(), String> {
    let path = filler(stage);
    let mut file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let zeros = vec![0; FILL_BYTES];
    while file.write_all(&zeros).is_ok() {}
    Ok(())
}
