//! Measures the outage of a campaign after a panic of its actor: from the panic to the next answer
//! over HTTP, for a new campaign and for one with 100,000 issued coupons.
//!
//! `cargo bench --bench restart` prints the median and the longest outage.

use std::time::{Duration, Instant};

use coupond::{
    config::Config, domain::ids::CampaignId, node::Node, partition::actor_view::Crashed,
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

const ISSUED: [usize; 2] = [100, 100_000];
const CONNECTIONS: usize = 256;
const PANICS: usize = 21;
const CAMPAIGN: &str = "bench";

async fn issue(client: &reqwest::Client, api: &str, user: String) -> Option<Value> {
    let body = json!({ "campaign_id": CAMPAIGN, "user_id": user });
    let request = client.post(api).header("prefer", "wait=10").json(&body);
    let answer = request.send().await.expect("the node answers");
    (answer.status().as_u16() == 200).then_some(answer.json().await.expect("JSON"))
}

async fn silent_after_a_panic(client: &reqwest::Client, node: &Node, number: usize) -> Duration {
    let api = format!("http://{}/coupon/issue", node.api);
    let campaign = CampaignId::parse(CAMPAIGN).expect("an id");
    let started = Instant::now();
    node.crash(Crashed::Coupon(campaign));
    let mut tries = 0;
    loop {
        let answer = issue(client, &api, format!("after-{number}-{tries}")).await;
        if answer.is_some_and(|answer| answer["status"] == "issued") {
            return started.elapsed();
        }
        tries += 1;
    }
}

#[tokio::main]
async fn main() {
    for issued in ISSUED {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config { demo: false, ..Config::default() };
        config.embedded.dir = folder.path().to_owned();
        config.api.listen = "127.0.0.1:0".parse().expect("an address");
        config.api.drain = std::time::Duration::ZERO;
        config.admin.listen = "127.0.0.1:0".parse().expect("an address");
        let node = Node::start(&config).await.expect("it starts");
        let client = reqwest::Client::new();
        let url = format!("http://{}/admin/campaigns/{CAMPAIGN}", node.admin);
        let request = client.put(url).bearer_auth(&node.admin_token);
        let answer = request.json(&json!({ "quota": 1_000_000 })).send().await.expect("it answers");
        assert_eq!(answer.status().as_u16(), 201);
        let api = format!("http://{}/coupon/issue", node.api);
        stream::iter(0..issued)
            .for_each_concurrent(CONNECTIONS, |user| {
                let (client, api) = (&client, &api);
                async move {
                    issue(client, api, format!("user-{user}")).await;
                }
            })
            .await;
        let mut silent = Vec::new();
        for number in 0..PANICS {
            silent.push(silent_after_a_panic(&client, &node, number).await);
        }
        silent.sort();
        println!(
            "{issued} issued, {PANICS} panics: silent for {:.1} ms (median), {:.1} ms (longest)",
            silent[PANICS / 2].as_secs_f64() * 1e3,
            silent[PANICS - 1].as_secs_f64() * 1e3,
        );
        node.stop().await;
    }
}
