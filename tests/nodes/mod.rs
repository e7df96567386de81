//! Runs nodes as processes, and clients that call them over HTTP.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};

/// Longest wait for a condition. A slower one fails the test.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// The admin token of all nodes under test.
pub(crate) const TOKEN: &str = "a-token-for-tests-only";

/// A node process that is killed on drop.
pub(crate) struct Node {
    child: Child,
    pub(crate) api: String,
    pub(crate) admin: String,
}

impl Node {
    /// Starts a node with these settings and waits until it is ready.
    pub(crate) async fn start(settings: &[String]) -> Self {
        Self::start_with(settings, &[]).await
    }

    /// Like [`Self::start`], with these variables in the environment.
    pub(crate) async fn start_with(settings: &[String], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
        command.envs(environment.iter().copied());
        Self::start_by(command, settings).await
    }

    /// Like [`Self::start`], as a process of this group.
    #[allow(dead_code, reason = "only some of the binaries with this module need it")]
    pub(crate) async fn start_in_group(group: u32, settings: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coupond"));
        command.gid(group);
        Self::start_by(command, settings).await
    }

    async fn start_by(mut command: Command, settings: &[String]) -> Self {
        command.args(["serve", "--set", "api.listen=127.0.0.1:0"]);
        command.args([
            "--set",
            "admin.listen=127.0.0.1:0",
            "--set",
            "demo=false",
            "--set",
            "api.drain=0s",
        ]);
        command.args(["--set", &format!("admin.token={TOKEN}")]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        // The environment of the developer must not configure the node.
        command.current_dir(std::env::temp_dir()).env("COUPOND_LOG", "info");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary exists");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let (found, serving) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut found = Some(found);
            for line in lines.map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "node started"
                    && let Some(found) = found.take()
                {
                    let _ = found.send((event["api"].clone(), event["admin"].clone()));
                } else if event["level"] != "INFO" {
                    println!("{line}");
                }
            }
        });
        let (api, admin) = tokio::time::timeout(WITHIN, serving)
            .await
            .expect("the node should serve in time")
            .expect("the node should serve");
        let url = |address: Value| format!("http://{}", address.as_str().expect("an address"));
        let node = Self { child, api: url(api), admin: url(admin) };
        node.is_ready().await;
        node
    }

    /// Waits until the node is ready.
    pub(crate) async fn is_ready(&self) {
        until("the node is ready", || async { (self.readiness().await.0 == 200).then_some(()) })
            .await;
    }

    /// Returns status and body of the readiness.
    pub(crate) async fn readiness(&self) -> (u16, Value) {
        let Ok(answer) = reqwest::get(format!("{}/health/ready", self.admin)).await else {
            return (0, Value::Null);
        };
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Returns the id of its process.
    #[allow(dead_code, reason = "only some of the binaries with this module need it")]
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let (signal, process) = (format!("-{name}"), self.child.id().to_string());
        let status = Command::new("kill").args([signal, process]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Kills the node with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was started here");
    }

    /// Stops the node with SIGTERM, and returns its exit code.
    pub(crate) async fn stop(self) -> Option<i32> {
        self.signal("TERM");
        self.ended().await
    }

    /// Waits until the node has ended, and returns its exit code.
    pub(crate) async fn ended(mut self) -> Option<i32> {
        let stopped = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it was started here") {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(WITHIN, stopped).await.expect("the node should stop in time")
    }

    /// Makes an admin call; returns status and body.
    pub(crate) async fn admin(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let url = format!("{}{path}", self.admin);
        let mut request = reqwest::Client::new().request(method, url).bearer_auth(TOKEN);
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await.expect("the node answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = reqwest::get(format!("{}{path}", self.api)).await.expect("the node answers");
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub(crate) async fn issue(&self, campaign: &str, user: &str) -> (u16, Value) {
        self.try_issue(campaign, user, None).await.expect("the node answers")
    }

    /// Asks for a coupon, with an idempotency key if there is one.
    pub(crate) async fn try_issue(
        &self,
        campaign: &str,
        user: &str,
        key: Option<&str>,
    ) -> reqwest::Result<(u16, Value)> {
        let body = json!({ "campaign_id": campaign, "user_id": user });
        let mut request = reqwest::Client::new()
            .post(format!("{}/coupon/issue", self.api))
            .header("prefer", "wait=20")
            .json(&body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails if the process has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a test on a runtime of its own.
///
/// # Errors
/// There is no runtime, or the test has not ended within `limit`.
#[allow(dead_code, reason = "only some of the binaries with this module need it")]
pub(crate) fn run_within<T>(limit: Duration, body: impl FnOnce() -> T) -> Result<(), String>
where
    T: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let ended = runtime.block_on(async { tokio::time::timeout(limit, body()).await });
    // Tasks that a test leaves behind must not delay the next one.
    runtime.shutdown_background();
    ended.map_err(|_| format!("not done within {limit:?}"))
}

/// Repeats `attempt` until it returns a value, within a bound.
pub(crate) async fn until<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let repeated = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = tokio::time::timeout(WITHIN, repeated).await;
    ended.unwrap_or_else(|_| panic!("not within {WITHIN:?}: {what}"))
}

/// Clients that repeat their request at any node until it is answered, and the answers they got.
pub(crate) struct Crowd {
    campaign: String,
    apis: Mutex<Vec<String>>,
    next: AtomicUsize,
    has_ended: AtomicBool,
    answers: Mutex<BTreeMap<String, Vec<Value>>>,
}

/// Why a lock cannot be poisoned.
const UNBROKEN: &str = "no panic while the lock is held";

/// Most requests of the crowd in flight at once.
const PRESSING_AT_ONCE: usize = 24;

impl Crowd {
    pub(crate) fn new(campaign: &str, nodes: &[&Node]) -> Arc<Self> {
        Arc::new(Self {
            campaign: campaign.to_owned(),
            apis: Mutex::new(nodes.iter().map(|node| node.api.clone()).collect()),
            next: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            answers: Mutex::default(),
        })
    }

    /// Sends further requests to these nodes.
    pub(crate) fn use_nodes(&self, nodes: &[&Node]) {
        self.use_apis(nodes.iter().map(|node| node.api.clone()).collect());
    }

    /// Sends further requests to the nodes with these public addresses.
    pub(crate) fn use_apis(&self, apis: Vec<String>) {
        *self.apis.lock().expect(UNBROKEN) = apis;
    }

    /// Sends requests of no further user.
    #[allow(dead_code, reason = "only some of the binaries with this module need it")]
    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    /// Counts the requests with a final answer so far.
    pub(crate) fn answered(&self) -> usize {
        self.answers.lock().expect(UNBROKEN).len()
    }

    /// Sends one request with an idempotency key for each user up to number `users` that has sent
    /// none yet, and repeats it until there is a final answer.
    pub(crate) async fn press(self: Arc<Self>, users: usize) {
        self.press_by(PRESSING_AT_ONCE, users).await;
    }

    /// Like [`Self::press`], with at most `at_once` requests in flight.
    pub(crate) async fn press_by(self: Arc<Self>, at_once: usize, users: usize) {
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                let crowd = self.clone();
                tokio::spawn(async move {
                    let client = reqwest::Client::new();
                    let claim = |next: usize| {
                        let ended = crowd.has_ended.load(Ordering::Relaxed);
                        (next < users && !ended).then_some(next + 1)
                    };
                    while let Ok(user) =
                        crowd.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim)
                    {
                        crowd.press_until_answered(&client, &format!("user-{user}")).await;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.expect("a worker ends well");
        }
    }

    async fn press_until_answered(&self, client: &reqwest::Client, user: &str) {
        let body = json!({ "campaign_id": self.campaign, "user_id": user });
        let answer = until("a user is answered", || async {
            let api = {
                let apis = self.apis.lock().expect(UNBROKEN);
                let spread: usize = user.bytes().map(usize::from).sum();
                apis.get(spread % apis.len().max(1))?.clone()
            };
            let request = client
                .post(format!("{api}/coupon/issue"))
                .header("prefer", "wait=10")
                .header("idempotency-key", format!("press-{user}"))
                .timeout(Duration::from_secs(20))
                .json(&body);
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            let answer: Value = answer.json().await.ok()?;
            match status {
                200 => Some(answer),
                202 | 503 => None,
                other => panic!("{user} was answered {other}: {answer}"),
            }
        })
        .await;
        self.answers.lock().expect(UNBROKEN).entry(user.to_owned()).or_default().push(answer);
    }

    /// Checks at `node` that all answers still hold, and that no coupon was lost, issued twice or
    /// issued beyond the quota.
    pub(crate) async fn check(&self, node: &Node, quota: usize) {
        let answers = self.answers.lock().expect(UNBROKEN).clone();
        let mut sequences = BTreeSet::new();
        let mut codes = BTreeSet::new();
        for (user, of_user) in &answers {
            for answer in of_user {
                let id = answer["request_id"].as_str().expect("an id");
                let (status, again) = node.get(&format!("/coupon/requests/{id}?wait=10")).await;
                assert_eq!((status, &again), (200, answer), "the answer of {user} changed");
                let path = format!("/campaigns/{}/users/{user}/coupons", self.campaign);
                let (_, held) = node.get(&path).await;
                let held = held["coupons"].as_array().cloned().unwrap_or_default();
                if answer["status"] == "issued" {
                    assert_eq!(held, vec![answer["coupon"].clone()], "the coupons of {user}");
                    sequences.insert(answer["coupon"]["sequence"].as_u64().expect("a number"));
                    codes.insert(answer["coupon"]["code"].as_str().expect("a code").to_owned());
                } else {
                    assert_eq!(answer["status"], "rejected", "{user}: {answer}");
                    assert_eq!(answer["reason"], "sold_out", "{user}: {answer}");
                    assert_eq!(held, Vec::<Value>::new(), "the coupons of {user}");
                }
            }
        }
        let expected = quota.min(answers.len());
        assert_eq!(sequences.len(), expected, "sequences issued");
        assert_eq!(sequences.last().copied(), Some(expected as u64), "they have no gap");
        assert_eq!(codes.len(), expected, "codes issued");
        // Views are up to 2 s behind.
        until("the view has caught up", || async {
            let (_, view) = node.get(&format!("/campaigns/{}", self.campaign)).await;
            (view["remaining"].as_u64() == Some((quota - expected) as u64)).then_some(())
        })
        .await;
    }
}
