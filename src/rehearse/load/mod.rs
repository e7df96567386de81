//! The load of every scenario but `peak`: an open loop.
//!
//! Requests are sent when they are due, no matter how many are still without an answer, and each is
//! timed from the moment at which it was due. A system that stalls therefore shows its stall in the
//! time of every request that was due meanwhile (no coordinated omission).
//!
//! The loop runs on one thread of its own, so that nothing else of this process delays it.

mod answers;
mod ask;
mod draw;
mod pool;
mod slow;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    io,
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::oneshot, task::LocalSet};
use tokio_util::sync::CancellationToken;

use self::{answers::AnswersFile, ask::Asker, draw::Draw};
use super::{
    scenario::{Scenario, Schedule},
    tally::Tally,
};

/// Most requests without an answer at a time. Each takes about 2 KiB; further ones are not sent and
/// count as failed.
const IN_FLIGHT_MAX: usize = 50_000;

/// Requests that are started in a row before those in flight get a turn, if the loop is behind.
const STARTED_IN_A_ROW: u64 = 32;

/// Longest wait for the last answers after the last request: three waits of 10 s for a decision, and
/// some time to say so.
const LAST_ANSWERS: Duration = Duration::from_secs(35);

/// Time between two looks whether the last answers are there.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A load to run.
#[derive(Debug)]
pub(super) struct Plan {
    /// The scenario.
    pub scenario: Scenario,
    /// Public listeners of the nodes, as `http://host:port`; each request goes to the next one.
    pub api: Vec<String>,
    /// The campaigns that requests are for.
    pub campaigns: Vec<String>,
    /// Names the run: the ids of its users begin with it.
    pub run: String,
    /// What is drawn follows from it.
    pub seed: u64,
    /// Where each answer is written down, as `coupond audit --answers` reads it.
    pub answers: Option<PathBuf>,
}

/// What an open loop reached against a server that is no node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Driven {
    /// Requests that were answered as issued.
    pub answered: u64,
    /// Requests that were not.
    pub failed: u64,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
}

/// Sends an open loop to a server and returns what came back, to measure the loop itself.
///
/// # Errors
/// Those of [`Running::end`].
pub async fn drive(scenario: Scenario, api: Vec<String>) -> io::Result<Driven> {
    let tally = Arc::new(Mutex::new(Tally::new(scenario.stages.len())));
    let (run, campaigns) = ("drive".to_owned(), vec!["drive".to_owned()]);
    let plan = Plan { scenario, api, campaigns, run, seed: 1, answers: None };
    let started = Instant::now();
    start(plan, tally.clone(), CancellationToken::new())?.end().await?;
    let seconds = started.elapsed().as_secs_f64();
    let outcomes = tally.lock().outcomes.clone();
    let answered = outcomes.issued;
    Ok(Driven { answered, failed: outcomes.requests - answered, seconds })
}

/// A load that runs.
#[derive(Debug)]
pub(super) struct Running {
    done: oneshot::Receiver<io::Result<()>>,
}

/// Starts a load on a thread of its own. It ends after its last stage, or when `stop` is cancelled.
///
/// # Errors
/// If the thread cannot be started.
pub(super) fn start(
    plan: Plan,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
) -> io::Result<Running> {
    let (sender, done) = oneshot::channel();
    thread::Builder::new().name("load".to_owned()).spawn(move || {
        let ended = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| LocalSet::new().block_on(&runtime, run(plan, tally, stop)));
        // Nobody waits if the rehearsal itself has failed.
        let _ = sender.send(ended);
    })?;
    Ok(Running { done })
}

impl Running {
    /// Waits for the end of the load.
    ///
    /// # Errors
    /// If an address cannot be resolved, or the file of answers cannot be written.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let ended = (&mut self.done).await;
        ended.unwrap_or_else(|_| Err(io::Error::other("the load ended with a panic")))
    }
}

async fn run(plan: Plan, tally: Arc<Mutex<Tally>>, stop: CancellationToken) -> io::Result<()> {
    let Plan { scenario, api, campaigns, run, seed, answers } = plan;
    let pools = pool::of_nodes(&api, scenario.connections as usize).await?;
    let answers = answers.map(|path| AnswersFile::create(&path)).transpose()?;
    let slow = slow::start(scenario.slow_clients, &pools);
    let in_flight = Rc::new(Cell::new(0_usize));
    let asker = Rc::new(Asker { pools, tally: tally.clone(), answers, campaigns });
    let mut draw = Draw::new(&scenario, run, asker.campaigns.len(), seed);
    let start = Instant::now();
    tally.lock().start(start);
    for (number, (due_s, stage)) in (0_u64..).zip(Schedule::new(&scenario.stages)) {
        let due = start + Duration::from_secs_f64(due_s);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        } else if number % STARTED_IN_A_ROW == 0 {
            tokio::task::yield_now().await;
        }
        if stop.is_cancelled() {
            break;
        }
        tally.lock().due(due_s, stage);
        if in_flight.get() >= IN_FLIGHT_MAX {
            tally.lock().failed("not_sent", stage);
            continue;
        }
        in_flight.set(in_flight.get() + 1);
        let (asker, in_flight, asked) = (asker.clone(), in_flight.clone(), draw.next());
        let node = (number % asker.pools.len() as u64) as usize;
        tokio::task::spawn_local(async move {
            asker.ask(asked, node, due, due_s, stage).await;
            in_flight.set(in_flight.get() - 1);
        });
    }
    tally.lock().end(Instant::now());
    let last = Instant::now() + LAST_ANSWERS;
    while in_flight.get() > 0 && Instant::now() < last {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let unanswered = in_flight.get() as u64;
    tally.lock().unanswered(unanswered);
    drop(slow);
    asker.answers.as_ref().map_or(Ok(()), AnswersFile::finish)
}

/// Returns the addresses of the nodes, as the URL says them, for a client without names and TLS.
async fn resolve(url: &str) -> io::Result<(std::net::SocketAddr, String)> {
    let refused =
        |rule: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{url}: {rule}"));
    let parsed = reqwest::Url::parse(url).map_err(|_| refused("write it as http://host:port"))?;
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
        return Err(refused("write it as http://host:port"));
    };
    let host = format!("{host}:{port}");
    let address = tokio::net::lookup_host(&host).await?.next();
    address.map(|address| (address, host.clone())).ok_or_else(|| refused("has no address"))
}
