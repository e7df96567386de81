//! Clients that ask for coupons while faults strike. Every answer is written down for the audit, and the
//! first decision of each campaign after a moment is noted.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::rows::Stored;
use crate::random::Random;

/// Clients of each node. When a node hangs, only its own hang with it.
const CLIENTS_EACH: usize = 10;

/// Pause of a client between two requests. Together about 250 requests a second at three nodes.
const PAUSE_MS: (u64, u64) = (60, 160);

/// Longest wait of a request for its decision, as it asks for it.
const WAIT_S: u64 = 5;

/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Times that a request is tried, or asked about, until its client gives up.
const TRIES: usize = 4;

/// One answer in so many is compared with the database at once.
const LOOKED_UP_ONE_IN: u64 = 6;

/// Most coupons that were told and not stored which are kept: what one of them shows, all show.
const LIES_MAX: usize = 20;

/// Requests at once of a burst, and how many each task of it sends.
const BURST: (usize, usize) = (50, 40);

/// What clients were told.
pub(crate) struct Book {
    lines: Mutex<BufWriter<File>>,
    answers: AtomicU64,
    /// How often each answer was given, by its name.
    told: Mutex<BTreeMap<String, u64>>,
    watch: Mutex<Option<Watch>>,
    is_over: AtomicBool,
    /// Where coupons are looked up, if they are in a database that anybody can ask.
    stored: Option<Stored>,
    lies: Mutex<Vec<String>>,
}

/// The first decision of each campaign that was asked for after a moment.
struct Watch {
    since: Instant,
    first: BTreeMap<String, Instant>,
}

impl Book {
    /// Opens a book that writes to a file.
    ///
    /// # Errors
    /// That the file cannot be made.
    pub(crate) fn new(file: &Path, stored: Option<Stored>) -> Result<Arc<Self>, String> {
        let lines = File::create(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Arc::new(Self {
            lines: Mutex::new(BufWriter::new(lines)),
            answers: AtomicU64::new(0),
            told: Mutex::default(),
            watch: Mutex::new(None),
            is_over: AtomicBool::new(false),
            stored,
            lies: Mutex::default(),
        }))
    }

    /// Returns the coupons that were told and not stored.
    pub(crate) fn lies(&self) -> Vec<String> {
        self.lies.lock().clone()
    }

    /// Looks up a coupon as soon as it is told: it must be stored by then.
    async fn look_up(&self, ask: &Ask, answer: &Answer) {
        let (Some(stored), Some(sequence)) = (&self.stored, answer.issued()) else { return };
        if stored.has(&ask.campaign, sequence).await == Some(false) {
            let mut lies = self.lies.lock();
            if lies.len() < LIES_MAX {
                lies.push(format!(
                    "INV-3: {} was told coupon {sequence} of {}, which the database did not have",
                    ask.user, ask.campaign
                ));
            }
        }
    }

    /// Returns the number of answers.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Returns how often each answer was given.
    pub(crate) fn told(&self) -> BTreeMap<String, u64> {
        self.told.lock().clone()
    }

    /// Begins to note first decisions.
    pub(crate) fn watch(&self, since: Instant) {
        *self.watch.lock() = Some(Watch { since, first: BTreeMap::new() });
    }

    /// Returns those of `campaigns` that have had no decision yet, or the time until the last of them had.
    pub(crate) fn recovered(&self, campaigns: &[String]) -> Result<Duration, Vec<String>> {
        let watch = self.watch.lock();
        let Some(watch) = &*watch else { return Err(campaigns.to_vec()) };
        let silent = campaigns.iter().filter(|campaign| !watch.first.contains_key(*campaign));
        let silent: Vec<_> = silent.cloned().collect();
        let last = campaigns.iter().filter_map(|campaign| watch.first.get(campaign)).max();
        match last {
            Some(last) if silent.is_empty() => Ok(last.saturating_duration_since(watch.since)),
            _ => Err(silent),
        }
    }

    /// Asks all clients to end, and writes what is buffered.
    ///
    /// # Errors
    /// That the file cannot be written.
    pub(crate) fn end(&self) -> Result<(), String> {
        self.is_over.store(true, Ordering::Relaxed);
        self.lines.lock().flush().map_err(|error| format!("the answers cannot be kept: {error}"))
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn note(&self, ask: &Ask, answer: &Answer) {
        let Ask { campaign, user, key, .. } = ask;
        let now = jiff::Timestamp::now();
        let mut line = json!({ "time": format!("{now:.3}"), "user": user, "campaign": campaign,
            "status": answer.status });
        if let Some(key) = key {
            line["key"] = json!(key);
        }
        if !answer.body.is_null() {
            line["body"] = answer.body.clone();
        }
        let _full = writeln!(self.lines.lock(), "{line}");
        self.answers.fetch_add(u64::from(answer.status != 0), Ordering::Relaxed);
        *self.told.lock().entry(answer.name()).or_default() += 1;
        if answer.is_decided()
            && let Some(watch) = &mut *self.watch.lock()
            && ask.sent >= watch.since
        {
            watch.first.entry(campaign.clone()).or_insert_with(Instant::now);
        }
    }
}

/// A request of a client.
struct Ask {
    campaign: String,
    user: String,
    key: Option<String>,
    sent: Instant,
}

/// What came back.
struct Answer {
    /// 0: nothing.
    status: u16,
    body: Value,
}

impl Answer {
    async fn of(request: RequestBuilder) -> Self {
        let none = Self { status: 0, body: Value::Null };
        let Ok(response) = request.timeout(ANSWER_WITHIN).send().await else { return none };
        let status = response.status().as_u16();
        match response.json().await {
            Ok(body) => Self { status, body },
            // The answer broke off, so the client knows nothing.
            Err(_) => none,
        }
    }

    /// Returns the sequence of the coupon, if it was issued.
    fn issued(&self) -> Option<i64> {
        let is_issued = self.status == 200 && self.body["status"] == "issued";
        is_issued.then(|| self.body["coupon"]["sequence"].as_i64()).flatten()
    }

    fn is_decided(&self) -> bool {
        self.status == 200
    }

    /// Status and reason of a decision, or the problem.
    fn name(&self) -> String {
        let text = |key: &str| self.body[key].as_str().map(str::to_owned);
        match self.status {
            0 => "no answer".to_owned(),
            200 | 202 => text("reason").or_else(|| text("status")).unwrap_or_default(),
            status => {
                let problem = text("type").unwrap_or_default();
                format!("{status} {}", problem.trim_start_matches("/problems/"))
            }
        }
    }
}

/// What clients ask for, and where.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port` of the public listeners.
    pub(crate) nodes: Vec<String>,
    /// Campaigns with coupons for everybody: by their decisions recovery is measured.
    pub(crate) campaigns: Vec<String>,
    /// Campaigns that are sold out soon.
    pub(crate) scarce: Vec<String>,
}

/// Starts the clients. They end with the book, or when the set is dropped.
pub(crate) fn start(target: &Target, book: &Arc<Book>, seed: u64) -> JoinSet<()> {
    let client =
        Client::builder().tls_certs_only([]).connect_timeout(Duration::from_secs(2)).build();
    let client = client.unwrap_or_default();
    let mut clients = JoinSet::new();
    for node in 0..target.nodes.len() {
        for number in 0..CLIENTS_EACH {
            let random = Random(seed ^ ((node * CLIENTS_EACH + number + 1) as u64) << 32);
            let one = One {
                client: client.clone(),
                target: target.clone(),
                book: book.clone(),
                node,
                random,
                name: format!("{node}-{number}"),
                asked: 0,
            };
            clients.spawn(one.run());
        }
    }
    clients
}

struct One {
    client: Client,
    target: Target,
    book: Arc<Book>,
    node: usize,
    random: Random,
    name: String,
    asked: u64,
}

impl One {
    async fn run(mut self) {
        while !self.book.is_over() {
            let ask = self.draw();
            self.ask(ask).await;
            let pause = self.random.between(PAUSE_MS.0, PAUSE_MS.1);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn draw(&mut self) -> Ask {
        let Target { campaigns, scarce, .. } = &self.target;
        let from = if self.random.one_in(8) && !scarce.is_empty() { scarce } else { campaigns };
        let campaign = from[self.random.index(from.len())].clone();
        // Some ask again.
        let user =
            if self.random.one_in(6) { self.random.below(self.asked + 1) } else { self.asked };
        self.asked += 1;
        let key = self.random.one_in(2).then(|| format!("{}-{user}", self.name));
        Ask { campaign, user: format!("user-{}-{user}", self.name), key, sent: Instant::now() }
    }

    /// Asks until there is a decision or a refusal. Tries again go to another node.
    async fn ask(&mut self, ask: Ask) {
        let mut pending: Option<String> = None;
        for attempt in 0..TRIES {
            let nodes = &self.target.nodes;
            let node = format!("http://{}", nodes[(self.node + attempt) % nodes.len()]);
            let request = match &pending {
                Some(id) => self.client.get(format!("{node}/coupon/requests/{id}?wait={WAIT_S}")),
                None => issue(&self.client, &node, &ask),
            };
            let answer = Answer::of(request).await;
            self.book.note(&ask, &answer);
            if self.random.one_in(LOOKED_UP_ONE_IN) {
                self.book.look_up(&ask, &answer).await;
            }
            // Some take a refusal for what it is. Their requests must not turn up in the log.
            if answer.status == 503 && self.random.one_in(3) {
                return;
            }
            match answer.status {
                202 => pending = answer.body["request_id"].as_str().map(str::to_owned),
                0 | 429 | 503 => tokio::time::sleep(Duration::from_millis(200)).await,
                // Taken once, and lost with what was skipped: the same key may be sent again.
                410 => pending = None,
                _ => return,
            }
        }
    }
}

fn issue(client: &Client, node: &str, ask: &Ask) -> RequestBuilder {
    let request = client
        .post(format!("{node}/coupon/issue"))
        .header("prefer", format!("wait={WAIT_S}"))
        .json(&json!({ "campaign_id": ask.campaign, "user_id": ask.user }));
    match &ask.key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    }
}

/// Sends two thousand requests at once to all nodes, and waits for their answers.
pub(crate) async fn burst(target: &Target, book: &Arc<Book>, number: u64) {
    let client = Client::new();
    let mut tasks = JoinSet::new();
    for task in 0..BURST.0 {
        let (client, target, book) = (client.clone(), target.clone(), book.clone());
        tasks.spawn(async move {
            for at in 0..BURST.1 {
                let node = format!("http://{}", target.nodes[(task + at) % target.nodes.len()]);
                let campaign = target.campaigns[(task + at) % target.campaigns.len()].clone();
                let user = format!("burst-{number}-{task}-{at}");
                let ask = Ask { campaign, user, key: None, sent: Instant::now() };
                let answer = Answer::of(issue(&client, &node, &ask)).await;
                book.note(&ask, &answer);
            }
        });
    }
    tasks.join_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> (tempfile::TempDir, Arc<Book>) {
        let folder = tempfile::tempdir().unwrap();
        let book = Book::new(&folder.path().join("answers.jsonl"), None).unwrap();
        (folder, book)
    }

    fn ask(campaign: &str, sent: Instant) -> Ask {
        Ask {
            campaign: campaign.to_owned(),
            user: "ada".to_owned(),
            key: Some("k".to_owned()),
            sent,
        }
    }

    fn decided() -> Answer {
        Answer { status: 200, body: json!({ "status": "rejected", "reason": "sold_out" }) }
    }

    #[test]
    fn recovery_needs_a_decision_of_every_campaign() {
        let (_folder, book) = book();
        let campaigns = ["spring".to_owned(), "summer".to_owned()];
        let early = Instant::now();
        let struck = early + Duration::from_nanos(1);
        book.watch(struck);
        // Asked for before the fault: it says nothing about the time after it.
        book.note(&ask("spring", early), &decided());
        book.note(&ask("summer", struck), &Answer { status: 503, body: Value::Null });
        assert_eq!(book.recovered(&campaigns), Err(campaigns.to_vec()));
        book.note(&ask("summer", struck), &decided());
        assert_eq!(book.recovered(&campaigns), Err(vec!["spring".to_owned()]));
        book.note(&ask("spring", struck), &decided());
        assert!(book.recovered(&campaigns).is_ok());
        book.watch(Instant::now());
        assert!(book.recovered(&campaigns).is_err(), "a new fault, a new recovery");
    }

    #[test]
    fn answers_are_kept_as_the_audit_reads_them() {
        let (folder, book) = book();
        let now = Instant::now();
        book.note(&ask("spring", now), &decided());
        book.note(
            &Ask { key: None, ..ask("spring", now) },
            &Answer { status: 0, body: Value::Null },
        );
        book.end().unwrap();
        let text = std::fs::read_to_string(folder.path().join("answers.jsonl")).unwrap();
        let lines: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        assert_eq!((lines[0]["status"].as_u64(), lines[0]["key"].as_str()), (Some(200), Some("k")));
        assert_eq!(lines[0]["body"]["reason"], "sold_out");
        assert_eq!((lines[1]["status"].as_u64(), lines[1].get("body")), (Some(0), None));
        assert!(lines[1].get("key").is_none(), "{text}");
        assert_eq!(book.answers(), 1, "no answer is none");
        assert_eq!(book.told()["sold_out"], 1);
    }
}
