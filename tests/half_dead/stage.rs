//! An instance of several nodes, each a process of its own group.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    engine,
    engines::{Engine, unique},
    instance::{define, metric, settings},
    network::GROUPS,
    procs::{Node, until},
};

/// Campaigns of an instance: some in most of its twelve partitions.
const CAMPAIGNS: usize = 24;

/// Pause between two requests of one campaign at one node.
const PRESS_EVERY: Duration = Duration::from_millis(250);

/// Longest wait for an answer to such a request.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Time after which each node has heard the others say three times that they can decide.
const ACQUAINTED: Duration = Duration::from_secs(8);

pub(crate) struct Stage {
    pub(crate) settings: Vec<String>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) campaigns: Vec<String>,
    /// Sends requests until it is dropped.
    _load: JoinSet<()>,
    users: u32,
}

pub(crate) fn brokers() -> &'static [String] {
    engine(Engine::Kafka).endpoints()
}

pub(crate) fn database() -> &'static [String] {
    engine(Engine::Cql).endpoints()
}

impl Stage {
    /// Starts so many nodes, each of which owns partitions and has requests for them. `pressed` of the
    /// campaigns go on getting requests.
    pub(crate) async fn start(nodes: usize, pressed: usize) -> Self {
        Self::start_with(nodes, pressed, &[]).await
    }

    /// The same, with these settings besides.
    pub(crate) async fn start_with(nodes: usize, pressed: usize, more: &[&str]) -> Self {
        let mut settings = settings(&unique("half_dead"), brokers(), database());
        settings.push("kafka.partitions=12".to_owned());
        settings.extend(more.iter().map(|&setting| setting.to_owned()));
        let mut running = Vec::new();
        for group in &GROUPS[..nodes] {
            running.push(Node::start_in_group(*group, &settings).await);
        }
        let campaigns: Vec<_> = (0..CAMPAIGNS).map(|number| format!("campaign-{number}")).collect();
        for campaign in &campaigns {
            define(&running[0], campaign, 1_000_000).await;
        }
        let mut stage =
            Self { settings, nodes: running, campaigns, _load: JoinSet::new(), users: 0 };
        stage.decided(0, Instant::now()).await;
        for node in &stage.nodes {
            let owns = || async { (metric(node, "coupond_actors").await > 0.0).then_some(()) };
            until("every node owns partitions", owns).await;
        }
        for campaign in &stage.campaigns[..pressed] {
            for node in &stage.nodes {
                stage._load.spawn(press(node.api.clone(), campaign.clone()));
            }
        }
        tokio::time::sleep(ACQUAINTED).await;
        stage
    }

    /// Returns how long after `began` a node has got a decision in every campaign.
    pub(crate) async fn decided(&mut self, node: usize, began: Instant) -> Duration {
        let campaigns = self.campaigns.clone();
        self.decided_in(&campaigns, node, began).await
    }

    /// The same for some campaigns.
    pub(crate) async fn decided_in(
        &mut self,
        campaigns: &[String],
        node: usize,
        began: Instant,
    ) -> Duration {
        self.users += 1;
        let (node, user) = (&self.nodes[node], format!("user-{}", self.users));
        let decided = campaigns.iter().map(async |campaign| {
            until("a request is decided", || async {
                let (status, _) = node.try_issue(campaign, &user, Some(&user)).await.ok()?;
                (status == 200).then_some(())
            })
            .await;
            began.elapsed()
        });
        join_all(decided).await.into_iter().max().expect("there are campaigns")
    }

    /// Returns how long after `began` a node owns partitions again.
    pub(crate) async fn back(&mut self, node: usize, began: Instant, within: Duration) -> Duration {
        loop {
            assert!(began.elapsed() <= within, "node {node} is not back");
            // It loads a campaign that is asked for where it owns the partition.
            self.decided(0, began).await;
            if metric(&self.nodes[node], "coupond_actors").await > 0.0 {
                return began.elapsed();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Times that nodes have left the group, by node.
    pub(crate) async fn left(&self) -> Vec<f64> {
        let left = self.nodes.iter().map(|it| metric(it, "coupond_membership_left_total"));
        join_all(left).await
    }

    /// Ends the load, and checks that log and store tell the same.
    pub(crate) async fn end(self) {
        let Self { settings, nodes, _load: load, .. } = self;
        drop(load);
        drop(nodes);
        let mut audit = Command::new(env!("CARGO_BIN_EXE_coupond"));
        audit.arg("audit").args(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        let audited = tokio::task::spawn_blocking(move || audit.output()).await;
        let audited = audited.expect("no panic").expect("the binary exists");
        let text = String::from_utf8_lossy(&audited.stdout);
        assert_eq!(audited.status.code(), Some(0), "{text}");
    }
}

/// Asks for coupons of a campaign at a node, again and again, whatever comes of it.
async fn press(api: String, campaign: String) {
    let client = reqwest::Client::new();
    for number in 0_u32.. {
        let body = json!({ "campaign_id": campaign, "user_id": format!("presser-{number}") });
        let request = client.post(format!("{api}/coupon/issue")).timeout(ANSWER_WITHIN);
        let _whatever = request.json(&body).send().await;
        tokio::time::sleep(PRESS_EVERY).await;
    }
}
