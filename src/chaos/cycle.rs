//! One cycle: nodes start, faults strike under load, and the audit judges what clients were told.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde::Serialize;

use super::{
    clients::{self, Book},
    kinds::{Kind, Since},
    network,
    processes::Program,
    rows::Stored,
    schedule::{Cycle, Strike},
    stage::{Engines, LOOK_EVERY, Plan, Stage},
    strikes::{self, Standing},
};
use crate::children;

/// Answers of each cycle at least.
const ANSWERS: u64 = 1_000;

/// Longest wait for a campaign that decides nothing. Far above every bound: what takes longer never comes
/// back by itself.
const GIVE_UP: Duration = Duration::from_secs(180);

/// Longest wait for the messages of a node that goes on after a pause.
const ZOMBIE_WITHIN: Duration = Duration::from_secs(6);

/// Counts messages of an owner whose partition another node has taken over.
const OLDER: &str = r#"coupond_feed_lost_messages_total{reason="older"}"#;

/// Size and access bits of a small disk.
const SMALL_DISK: &str = "size=128m,mode=0700";

/// How long a fault took until everything was decided again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Recovery {
    /// The fault.
    pub(crate) kind: Kind,
    /// Milliseconds until every campaign had a decision.
    pub(crate) ms: u64,
    /// The bound of the kind.
    pub(crate) within_ms: u64,
}

/// What came of a cycle.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Outcome {
    /// Faults that struck, in order.
    pub(crate) recoveries: Vec<Recovery>,
    /// Nodes that wrote after a takeover, with the proof.
    pub(crate) zombies: Vec<String>,
    /// Answers that clients got.
    pub(crate) answers: u64,
    /// How often each was given.
    pub(crate) told: BTreeMap<String, u64>,
    /// What is broken. Empty: nothing.
    pub(crate) broken: Vec<String>,
}

impl Outcome {
    /// Returns that of a cycle that could not be run.
    pub(crate) fn broken(reason: String) -> Self {
        Self { broken: vec![reason], ..Self::default() }
    }
}

/// Tells the user what happens.
pub(crate) type Say = Arc<dyn Fn(&str) + Send + Sync>;

struct Running<'a, 'b> {
    stage: &'a mut Stage<'b>,
    book: Arc<Book>,
    outcome: Outcome,
    say: Say,
}

/// Runs a cycle. What is broken is in the outcome.
///
/// # Errors
/// Why it could not be run.
pub(crate) async fn run(
    cycle: &Cycle,
    plan: &Plan,
    engines: Option<&Engines>,
    say: &Say,
) -> Result<Outcome, String> {
    let disk = SmallDisk::mount_for(cycle, plan)?;
    if plan.has_groups {
        network::mend()?;
    }
    let mut stage = Stage::start(plan, engines).await?;
    let answers = plan.folder.join("answers.jsonl");
    let book = Book::new(&answers, Stored::of(&stage).await?)?;
    let clients = clients::start(&stage.target, &book, cycle.seed);
    let mut running = Running {
        stage: &mut stage,
        book: book.clone(),
        outcome: Outcome::default(),
        say: say.clone(),
    };
    running.strikes(&cycle.strikes).await;
    if running.outcome.broken.is_empty() {
        running.enough_answers().await;
    }
    let mut outcome = running.outcome;
    book.end()?;
    // Each ends with the request that it has, which has a time limit.
    clients.join_all().await;
    book.end()?;
    outcome.answers = book.answers();
    outcome.told = book.told();
    outcome.broken.extend(book.lies());
    end(&mut stage, &mut outcome).await;
    audit(&stage, &answers, &mut outcome).await;
    drop(stage);
    if !outcome.broken.is_empty() {
        disk.keep(&plan.folder);
    }
    Ok(outcome)
}

impl Running<'_, '_> {
    /// Lets all faults strike, and stops at the first one after which something is broken: what follows
    /// would be judged by it.
    async fn strikes(&mut self, strikes: &[Strike]) {
        let mut before: Option<Standing> = None;
        for (at, strike) in strikes.iter().enumerate() {
            let lasts = strikes.get(at + 1).is_some_and(|next| next.overlaps);
            let struck = self.strike(strike, lasts, before.is_some()).await;
            let mended = match before.take() {
                Some(standing) => self.mend(&standing, false).await.map(drop),
                None => Ok(()),
            };
            match (struck, mended) {
                (Ok(standing), Ok(())) => before = standing,
                (Err(reason), _) | (_, Err(reason)) => {
                    self.outcome.broken.push(format!("{}: {reason}", strike.kind));
                    return;
                }
            }
        }
    }

    /// Lets a fault strike, waits until everything is decided again, and ends it unless it `lasts` into
    /// the next one.
    async fn strike(
        &mut self,
        strike: &Strike,
        lasts: bool,
        another_lasts: bool,
    ) -> Result<Option<Standing>, String> {
        tokio::time::sleep(Duration::from_millis(strike.after_ms)).await;
        let (within_ms, since) = self.bound(strike.kind);
        if !another_lasts {
            self.ended_by_themselves()?;
        }
        let began = Instant::now();
        self.book.watch(began);
        let standing = strikes::strike(self.stage, &self.book, strike).await?;
        // What returns when it is over ends at its return, and packets pass until the last rule is there.
        let mut struck = began;
        if *strike.kind.lasts_ms().end() == 0 || strike.kind.is_of_links() {
            struck = Instant::now();
            self.book.watch(struck);
        }
        let mut recovered = None;
        if since == Since::Strike {
            recovered = Some(self.recovered(struck).await?);
        }
        if !lasts {
            let left = Duration::from_millis(strike.lasts_ms).saturating_sub(began.elapsed());
            tokio::time::sleep(left).await;
            let mended = self.mend(&standing, another_lasts).await?;
            if since == Since::Mend {
                recovered = Some(mended);
            }
        }
        let ms = recovered.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.outcome.recoveries.push(Recovery { kind: strike.kind, ms, within_ms });
        let late = if ms > within_ms { "  LATE" } else { "" };
        (self.say)(&format!(
            "  {:<22} node {}  decided again after {:>6.2} s (within {:.1} s){late}",
            strike.kind,
            standing.node(),
            ms as f64 / 1_000.0,
            within_ms as f64 / 1_000.0,
        ));
        Ok(lasts.then_some(standing))
    }

    /// Nobody takes over from a single node. Everything waits for the end of its fault.
    fn bound(&self, kind: Kind) -> (u64, Since) {
        let (within_ms, since) = kind.bound();
        let is_alone = self.stage.nodes.len() == 1 && kind.moves_partitions();
        (within_ms, if is_alone { Since::Mend } else { since })
    }

    /// Ends a fault, and returns the time until everything was decided after it. All nodes are ready again
    /// then, unless another fault lasts.
    async fn mend(&mut self, standing: &Standing, another_lasts: bool) -> Result<Duration, String> {
        let is_pause = standing.kind() == Kind::Pause;
        let node = standing.node();
        let older = if is_pause { self.stage.metric(OLDER, node).await } else { None };
        strikes::mend(self.stage, standing).await?;
        let mended = Instant::now();
        self.book.watch(mended);
        if let (Some(older), true) = (older, self.stage.nodes.len() > 1) {
            self.look_for_zombie(node, older).await;
        }
        let took = self.recovered(mended).await?;
        if !another_lasts {
            self.stage.ready().await?;
            self.ended_by_themselves()?;
        }
        Ok(took)
    }

    /// A node that goes on after a pause, and others have what it had: does it still write? They count its
    /// messages, which are of an older generation than their own.
    async fn look_for_zombie(&mut self, node: usize, before: f64) {
        let began = Instant::now();
        while began.elapsed() < ZOMBIE_WITHIN {
            let now = self.stage.metric(OLDER, node).await;
            if let Some(now) = now.filter(|now| *now > before) {
                let proof = format!(
                    "{:.1} s after node {node} went on, the others had got {} message(s) of a \
                     generation that one of them had ended",
                    began.elapsed().as_secs_f64(),
                    now - before
                );
                (self.say)(&format!("  zombie: {proof}"));
                return self.outcome.zombies.push(proof);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until every campaign has a decision of a request that was sent after `since`, from which on
    /// the book must watch.
    async fn recovered(&self, since: Instant) -> Result<Duration, String> {
        let campaigns = &self.stage.target.campaigns;
        loop {
            match self.book.recovered(campaigns) {
                Ok(time) => return Ok(time),
                Err(silent) if since.elapsed() > GIVE_UP => {
                    let silent = silent.join(", ");
                    return Err(format!("INV-10: {silent} decided nothing within {GIVE_UP:?}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Finds nodes that ended although nothing ended them.
    fn ended_by_themselves(&mut self) -> Result<(), String> {
        for node in &mut self.stage.nodes {
            if let Some(ended) = node.ended() {
                return Err(format!("node {} ended by itself: {ended}", node.number()));
            }
        }
        Ok(())
    }

    async fn enough_answers(&mut self) {
        let began = Instant::now();
        while self.book.answers() < ANSWERS {
            if began.elapsed() > GIVE_UP {
                let answers = self.book.answers();
                self.outcome.broken.push(format!("INV-10: only {answers} answers in {GIVE_UP:?}"));
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Ends all nodes in order.
async fn end(stage: &mut Stage<'_>, outcome: &mut Outcome) {
    for node in &mut stage.nodes {
        // One that is still paused, after something broke, could not end.
        node.signal(Signal::CONT);
        node.signal(Signal::TERM);
    }
    for node in stage.nodes.iter_mut().filter(|node| node.is_started()) {
        match node.exit_code().await {
            Ok(0) => {}
            Ok(code) => outcome.broken.push(format!("node {} ended with {code}", node.number())),
            Err(reason) => outcome.broken.push(reason),
        }
    }
}

/// Compares log, rows and answers.
async fn audit(stage: &Stage<'_>, answers: &Path, outcome: &mut Outcome) {
    let Program { binary, settings, folder, .. } = &stage.program;
    let mut audit = children::coupond(binary, "audit", settings, folder);
    audit.arg("--answers").arg(answers);
    let audited = tokio::task::spawn_blocking(move || audit.output()).await;
    let Ok(Ok(audited)) = audited else {
        return outcome.broken.push("the audit could not be run".to_owned());
    };
    let report = [&audited.stdout[..], &audited.stderr[..]].concat();
    let _kept = fs::write(folder.join("audit.txt"), &report);
    if audited.status.code() != Some(0) {
        let text = String::from_utf8_lossy(&report);
        outcome.broken.push(format!("the audit ended with {}:\n{text}", audited.status));
    }
}

/// A disk of its own for the data of an embedded node, where one is to be filled.
struct SmallDisk(Option<PathBuf>);

impl SmallDisk {
    fn mount_for(cycle: &Cycle, plan: &Plan) -> Result<Self, String> {
        if !cycle.strikes.iter().any(|strike| strike.kind == Kind::DiskFull) {
            return Ok(Self(None));
        }
        let data = plan.folder.join("data");
        fs::create_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SMALL_DISK, "tmpfs"]).arg(&data);
        match mount.status() {
            Ok(status) if status.success() => Ok(Self(Some(data))),
            _ => Err("a small disk cannot be mounted".to_owned()),
        }
    }

    /// Copies what is on it to where it stays.
    fn keep(&self, folder: &Path) {
        if let Some(data) = &self.0 {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(data).arg(folder.join("data-of-the-small-disk"));
            let _kept = copy.status();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(data) = &self.0 {
            let _gone = Command::new("umount").arg(data).status();
        }
    }
}
