//! An embedded node over HTTP: under load while it is killed, stopped and restarted, and administered.

#[path = "nodes/mod.rs"]
mod nodes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodes::{Crowd, Node, until};
use serde_json::{Value, json};

fn settings(folder: &tempfile::TempDir) -> Vec<String> {
    vec![format!("embedded.dir='{}'", folder.path().display())]
}

async fn define(node: &Node, campaign: &str, quota: usize) {
    let path = format!("/admin/campaigns/{campaign}");
    let (status, body) = node.admin("PUT", &path, json!({ "quota": quota })).await;
    assert_eq!(status, 201, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_under_load_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(&settings(&folder)).await;
    define(&node, "spring", 400).await;
    let crowd = Crowd::new("spring", &[&node]);
    let requests = tokio::spawn(crowd.clone().press(600));
    for answered in [60, 200, 350] {
        until("some are answered", || async { (crowd.answered() >= answered).then_some(()) }).await;
        node.kill();
        node = Node::start(&settings(&folder)).await;
        crowd.use_nodes(&[&node]);
    }
    requests.await.unwrap();
    crowd.check(&node, 400).await;
    assert_eq!(node.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_folder_is_removed_issues_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(&folder)).await;
    define(&node, "spring", 400).await;
    let (_, kept) = node.issue("spring", "ada").await;
    assert_eq!(kept["status"], "issued");
    std::fs::remove_dir_all(folder.path()).unwrap();
    for number in 0..400 {
        // The process ends meanwhile, and then nothing is answered.
        match node.try_issue("spring", &format!("ben-{number}"), None).await {
            Ok((_, lost)) => assert_ne!(lost["status"], "issued", "{number}: {lost}"),
            Err(_) => break,
        }
    }
    assert_eq!(node.ended().await, Some(1));
}

/// Copies a folder with everything in it.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("the file system does it");
    for entry in std::fs::read_dir(from).expect("the file system does it") {
        let entry = entry.expect("the file system does it");
        let target = to.join(entry.file_name());
        match entry.file_type().expect("the file system does it").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("the file system does it")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_tells_nobody_a_lie() {
    let parent = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let dir = parent.path().join(name);
        (vec![format!("embedded.dir='{}'", dir.display())], dir)
    };
    let ((settings, dir), (old_settings, old)) = (folder("data"), folder("copy"));
    let node = Node::start(&settings).await;
    define(&node, "spring", 1_000).await;
    let ada = node.issue("spring", "ada").await.1;
    assert_eq!(node.stop().await, Some(0));
    copy(&dir, &old);
    let node = Node::start(&settings).await;
    let ben = node.issue("spring", "ben").await.1;
    let cleo = node.issue("spring", "cleo").await.1;
    assert_eq!((&ben["status"], &cleo["status"]), (&json!("issued"), &json!("issued")));
    assert_eq!(node.stop().await, Some(0));

    let mut node = Node::start(&old_settings).await;
    let dan = node.issue("spring", "dan").await.1;
    assert_eq!(dan["coupon"]["sequence"], 2, "it has ben's place");
    for start in ["first", "second"] {
        for (of, status) in [(&ada, 200), (&ben, 410), (&cleo, 410), (&dan, 200)] {
            let id = of["request_id"].as_str().unwrap();
            let (found, body) = node.get(&format!("/coupon/requests/{id}")).await;
            assert_eq!(found, status, "{start} start: {body}");
        }
        assert_eq!(node.stop().await, Some(0));
        node = Node::start(&old_settings).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_follow_the_operators_changes() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(&folder)).await;
    define(&node, "spring", 2).await;
    let (_, ada) = node.issue("spring", "ada").await;
    assert_eq!((&ada["status"], &ada["coupon"]["sequence"]), (&json!("issued"), &json!(1)));
    let (_, again) = node.issue("spring", "ada").await;
    assert_eq!(again["status"], "already_issued");
    assert_eq!(again["coupon"], ada["coupon"]);

    let (status, paused) = node.admin("POST", "/admin/campaigns/spring/pause", Value::Null).await;
    assert_eq!((status, &paused["state"]), (200, &json!("paused")));
    let (status, refused) = node.issue("spring", "ben").await;
    assert_eq!((status, refused["type"].as_str().unwrap().ends_with("/paused")), (409, true));
    let (status, _) = node.admin("POST", "/admin/campaigns/spring/resume", Value::Null).await;
    assert_eq!(status, 200);
    let (_, ben) = node.issue("spring", "ben").await;
    assert_eq!(ben["coupon"]["sequence"], 2);

    let path = "/admin/campaigns/spring";
    let (status, problem) = node.admin("PATCH", path, json!({ "quota": 1 })).await;
    assert_eq!((status, &problem["issued"]), (409, &json!(2)));
    let (status, _) = node.admin("PATCH", path, json!({ "quota": 3 })).await;
    assert_eq!(status, 200);
    let (_, cy) = node.issue("spring", "cy").await;
    assert_eq!(cy["coupon"]["sequence"], 3);
    let sold_out = until("a request is rejected as sold out", || async {
        let (status, answer) = node.issue("spring", "dee").await;
        (status == 409 || answer["reason"] == "sold_out").then_some(answer)
    })
    .await;
    assert!(sold_out.to_string().contains("sold"), "{sold_out}");
    let (status, _) = node.admin("POST", "/admin/campaigns/spring/close", Value::Null).await;
    assert_eq!(status, 200);
    let (status, _) = node.admin("POST", "/admin/campaigns/spring/resume", Value::Null).await;
    assert_eq!(status, 409);
    let (status, view) = node.admin("GET", path, Value::Null).await;
    assert_eq!((status, &view["state"], &view["remaining"]), (200, &json!("closed"), &json!(0)));
    assert_eq!(view["actor"]["state"], "live");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_of_0_stops_the_sale() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(&folder)).await;
    define(&node, "spring", 0).await;
    let path = "/admin/campaigns/spring";
    let (_, view) = node.admin("GET", path, Value::Null).await;
    assert_eq!((&view["state"], &view["remaining"]), (&json!("sold_out"), &json!(0)));
    let (status, answer) = node.issue("spring", "ada").await;
    let by_edge = status == 409 && answer["type"].as_str().unwrap().ends_with("/sold-out");
    assert!(by_edge || answer["reason"] == "sold_out", "{answer}");
    let (status, _) = node.admin("PATCH", path, json!({ "quota": 1 })).await;
    assert_eq!(status, 200);
    let (_, ada) = node.issue("spring", "ada").await;
    assert_eq!(ada["coupon"]["sequence"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlisted_campaign_is_in_the_admin_list_only() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(&settings(&folder)).await;
    define(&node, "open", 1).await;
    let path = "/admin/campaigns/secret";
    let body = json!({ "quota": 1, "listed": false, "title": "Für Gäste" });
    let (status, secret) = node.admin("PUT", path, body).await;
    assert_eq!((status, &secret["listed"]), (201, &json!(false)));
    let ids = |page: &Value| -> Vec<String> {
        let campaigns = page["campaigns"].as_array().unwrap().iter();
        campaigns.map(|campaign| campaign["campaign_id"].as_str().unwrap().to_owned()).collect()
    };
    let (_, public) = node.get("/campaigns?limit=1").await;
    assert_eq!((ids(&public), &public["next"]), (vec!["open".to_owned()], &Value::Null));
    let (_, admin) = node.admin("GET", "/admin/campaigns", Value::Null).await;
    assert_eq!(ids(&admin), ["open", "secret"]);
    let (status, by_id) = node.get("/campaigns/secret").await;
    assert_eq!((status, &by_id["title"]), (200, &json!("Für Gäste")));
    let (status, _) = node.admin("PATCH", path, json!({ "listed": true })).await;
    assert_eq!(status, 200);
    let (_, public) = node.get("/campaigns").await;
    assert_eq!(ids(&public), ["open", "secret"]);
}

/// Clients at once.
const CLIENTS: usize = 24;

/// A load balancer in front of one node: it asks the public listener whether the node is ready, and then its
/// clients go elsewhere.
struct Balancer {
    api: String,
    is_gone: AtomicBool,
    answered: AtomicUsize,
    failed: parking_lot::Mutex<Vec<String>>,
}

impl Balancer {
    /// Watches the node until it is not ready.
    async fn watch(self: Arc<Self>) {
        let url = format!("{}/health/ready", self.api);
        while reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.is_gone.store(true, Ordering::SeqCst);
    }

    /// Sends one request after another. Every third client keeps no connection.
    async fn press(self: Arc<Self>, client: usize) {
        let mut builder = reqwest::Client::builder();
        if client.is_multiple_of(3) {
            builder = builder.pool_max_idle_per_host(0);
        }
        let http = builder.build().expect("a client");
        let mut number = 0;
        while !self.is_gone.load(Ordering::SeqCst) {
            number += 1;
            let body =
                json!({ "campaign_id": "spring", "user_id": format!("u-{client}-{number}") });
            let mut request = http.post(format!("{}/coupon/issue", self.api)).json(&body);
            if client.is_multiple_of(2) {
                request = request.header("prefer", "wait=30");
            }
            match request.send().await {
                Ok(answer) if answer.status().is_success() => {
                    self.answered.fetch_add(1, Ordering::SeqCst);
                }
                Ok(answer) => self.failed.lock().push(answer.status().to_string()),
                Err(error) => self.failed.lock().push(format!("{error:?}")),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stopped_under_load_fails_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let dir = format!("embedded.dir='{}'", folder.path().display());
    let node = Node::start(&[dir, "api.drain=1s".to_owned()]).await;
    let (status, body) =
        node.admin("PUT", "/admin/campaigns/spring", json!({ "quota": 1_000_000 })).await;
    assert_eq!(status, 201, "{body}");
    let balancer = Arc::new(Balancer {
        api: node.api.clone(),
        is_gone: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        failed: parking_lot::Mutex::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(balancer.clone().watch());
    for client in 0..CLIENTS {
        tasks.spawn(balancer.clone().press(client));
    }
    let answered = || balancer.answered.load(Ordering::SeqCst);
    until("some are answered", || async { (answered() > 100).then_some(()) }).await;
    let exit_code = node.stop().await;
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task panics");
    }
    assert_eq!(*balancer.failed.lock(), Vec::<String>::new());
    assert_eq!(exit_code, Some(0));
}
