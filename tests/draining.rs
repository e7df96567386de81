//! A node that is stopped under load fails no request.

#[path = "nodes/mod.rs"]
mod nodes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodes::{Node, until};
use serde_json::json;

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
