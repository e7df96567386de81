//! Coupon actors and partition consumers that panic under load, in a node inside this process.

use std::{collections::BTreeSet, path::Path, time::Duration};

use coupond::{
    config::Config, domain::ids::CampaignId, node::Node, partition::actor_view::Crashed,
};
use serde_json::{Value, json};

const USERS: usize = 400;
const QUOTA: usize = 300;

/// Requests a coupon until there is a final answer.
async fn request(api: String, campaign: &str, user: usize) -> Value {
    let body = json!({ "campaign_id": campaign, "user_id": format!("user-{user}") });
    let client = reqwest::Client::new();
    let repeated = async {
        loop {
            let request = client
                .post(format!("{api}/coupon/issue"))
                .header("prefer", "wait=20")
                .header("idempotency-key", "press")
                .json(&body);
            let answer = request.send().await.expect("the node answers");
            match answer.status().as_u16() {
                200 => return answer.json().await.expect("JSON"),
                // A partition does not answer while its consumer restarts.
                202 | 503 => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("user {user} was answered {other}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), repeated).await.expect("answered in time")
}

fn config(folder: &Path) -> Config {
    let mut config = Config { demo: false, ..Config::default() };
    config.embedded.dir = folder.to_owned();
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.api.drain = std::time::Duration::ZERO;
    config.admin.listen = "127.0.0.1:0".parse().expect("an address");
    config
}

/// Sends the requests of all users, and calls `crash` after every tenth answer.
async fn crashed_under_load(crash: impl Fn(&Node, usize)) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let node = Node::start(&config).await.expect("it starts");
    for campaign in ["spring", "summer"] {
        let url = format!("http://{}/admin/campaigns/{campaign}", node.admin);
        let request = reqwest::Client::new().put(url).bearer_auth(&node.admin_token);
        let answer = request.json(&json!({ "quota": QUOTA })).send().await.expect("it answers");
        assert_eq!(answer.status().as_u16(), 201);
    }
    let api = format!("http://{}", node.api);
    for campaign in ["spring", "summer"] {
        let mut requests = tokio::task::JoinSet::new();
        let mut sequences = BTreeSet::new();
        let mut rejected = 0;
        let mut answers = 0;
        for user in 0..USERS {
            if requests.len() == 16 {
                let answer: Value = requests.join_next().await.expect("one").expect("it ends");
                answers += 1;
                count(&answer, &mut sequences, &mut rejected);
                if answers % 10 == 0 {
                    crash(&node, answers);
                }
            }
            let api = api.clone();
            requests.spawn(async move { request(api, campaign, user).await });
        }
        while let Some(answer) = requests.join_next().await {
            count(&answer.expect("it ends"), &mut sequences, &mut rejected);
        }
        assert_eq!((sequences.len(), rejected), (QUOTA, USERS - QUOTA), "of {campaign}");
        assert_eq!(sequences.last(), Some(&(QUOTA as u64)));
    }
    node.stop().await;
}

fn count(answer: &Value, sequences: &mut BTreeSet<u64>, rejected: &mut usize) {
    if answer["status"] == "issued" {
        let sequence = answer["coupon"]["sequence"].as_u64().expect("a number");
        assert!(sequences.insert(sequence), "sequence {sequence} was issued twice");
    } else {
        assert_eq!(answer["reason"], "sold_out", "{answer}");
        *rejected += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_actor_issues_each_coupon_once() {
    crashed_under_load(|node, _| {
        let spring = CampaignId::parse("spring").expect("an id");
        node.crash(Crashed::Coupon(spring));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_consumer_restarts_from_progress() {
    crashed_under_load(|node, answers| {
        if answers % 100 == 0 {
            (0..4).for_each(|partition| node.crash(Crashed::Consumer(partition)));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_in_order_when_its_supervisor_panics() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let mut node = Node::start(&config).await.expect("it starts");
    node.crash(Crashed::Supervisor);
    let failed = node.failed().await.to_string();
    assert!(failed.contains("the supervisor"), "{failed}");
    node.stop().await;
    // It has given its folder back: another node can use it.
    Node::start(&config).await.expect("it starts again").stop().await;
}
