//! An instance on which faults strike: its nodes, its campaigns, and the engines below.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::{
    clients::Target,
    engines::{Engine, Running},
    processes::{NodeProcess, Program},
};
use crate::{domain::ids::CampaignId, wire::routing::partition_of};

/// Partitions of an instance: several for each node.
pub(crate) const PARTITIONS: u32 = 6;

/// Coupons of a campaign for everybody, and of one that is sold out soon.
const QUOTAS: (u32, u32) = (1_000_000, 60);

/// Campaigns that are sold out soon.
const SCARCE: usize = 2;

/// The campaign whose rows are removed and altered, and its coupons.
pub(crate) const VICTIM: &str = "victim";
const VICTIM_COUPONS: usize = 12;

/// Longest start of nodes.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// Longest wait for an answer of the admin listener, and for one of all nodes, some of which may hang.
const ADMIN_WITHIN: Duration = Duration::from_secs(8);
const ALL_WITHIN: Duration = Duration::from_secs(2);

/// Pause between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Both engines, which all cycles share.
pub(crate) struct Engines {
    /// The brokers.
    pub(crate) kafka: Running,
    /// The database.
    pub(crate) database: Running,
}

impl Engines {
    /// Starts both, of `nodes` nodes each, with their data below `folder`.
    ///
    /// # Errors
    /// Why one is not ready.
    pub(crate) fn start(script: &Path, nodes: u32, folder: &Path) -> Result<Self, String> {
        let start = |engine, name| Running::start(script, engine, nodes, &folder.join(name));
        let kafka = start(Engine::Kafka, "kafka")?;
        Ok(Self { kafka, database: start(Engine::Database, "database")? })
    }

    /// Returns one of them.
    pub(crate) fn of(&self, engine: Engine) -> &Running {
        match engine {
            Engine::Kafka => &self.kafka,
            Engine::Database => &self.database,
        }
    }
}

/// What an instance is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The binary of the nodes.
    pub(crate) binary: PathBuf,
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// A name that no other instance has: of its topics and its keyspace.
    pub(crate) name: String,
    /// Where everything of it is kept.
    pub(crate) folder: PathBuf,
    /// Whether nodes are told apart by their groups.
    pub(crate) has_groups: bool,
    /// The library that sets clocks, if some are set.
    pub(crate) fake_time: Option<&'static str>,
}

/// A running instance.
pub(crate) struct Stage<'a> {
    /// The engines; none of an embedded node.
    pub(crate) engines: Option<&'a Engines>,
    /// The nodes.
    pub(crate) nodes: Vec<NodeProcess>,
    /// How they, and the audit, are started.
    pub(crate) program: Program,
    /// What clients ask for.
    pub(crate) target: Target,
    /// The keyspace, which is also the prefix of the topics.
    pub(crate) name: String,
    client: Client,
}

impl<'a> Stage<'a> {
    /// Starts the nodes and defines the campaigns.
    ///
    /// # Errors
    /// Why there is no instance.
    pub(crate) async fn start(plan: &Plan, engines: Option<&'a Engines>) -> Result<Self, String> {
        let program = Program {
            binary: plan.binary.clone(),
            settings: settings(plan, engines),
            // Its listeners are on loopback, and gone within a minute.
            token: format!("token-of-{}", plan.name),
            folder: plan.folder.clone(),
            has_groups: plan.has_groups,
            fake_time: plan.fake_time,
        };
        let nodes = (0..plan.nodes).map(|number| NodeProcess::new(number, &program));
        let mut nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        for node in &mut nodes {
            node.start()?;
        }
        let target = Target {
            nodes: nodes.iter().map(|node| node.api.clone()).collect(),
            campaigns: one_in_each(PARTITIONS),
            scarce: (0..SCARCE).map(|number| format!("scarce-{number}")).collect(),
        };
        let client =
            Client::builder().tls_certs_only([]).timeout(ADMIN_WITHIN).build().unwrap_or_default();
        let stage = Self { engines, nodes, program, target, name: plan.name.clone(), client };
        stage.ready().await?;
        for campaign in &stage.target.campaigns {
            stage.define(campaign, QUOTAS.0).await?;
        }
        for campaign in &stage.target.scarce {
            stage.define(campaign, QUOTAS.1).await?;
        }
        stage.define(VICTIM, QUOTAS.0).await?;
        for number in 0..VICTIM_COUPONS {
            stage.issue(VICTIM, &format!("early-{number}")).await?;
        }
        Ok(stage)
    }

    /// Waits until all nodes are ready.
    ///
    /// # Errors
    /// Which is not, and why.
    pub(crate) async fn ready(&self) -> Result<(), String> {
        let began = Instant::now();
        for node in &self.nodes {
            loop {
                let told = self.call(Method::GET, &node.admin, "/health/ready", None).await;
                match told {
                    Some((200, _)) => break,
                    _ if began.elapsed() < READY_WITHIN => tokio::time::sleep(LOOK_EVERY).await,
                    _ => {
                        let told =
                            told.map_or_else(|| "no answer".to_owned(), |it| it.1.to_string());
                        return Err(format!("node {} is not ready: {told}", node.number()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Calls an admin listener. `None`: no answer, or none that is JSON.
    async fn call(
        &self,
        method: Method,
        admin: &str,
        path: &str,
        body: Option<Value>,
    ) -> Option<(u16, Value)> {
        let request = self.client.request(method, format!("http://{admin}{path}"));
        let request = request.bearer_auth(&self.program.token);
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.json().await.ok()?))
    }

    /// Calls the admin listener of every node at once, and returns the answers in their order.
    pub(crate) async fn ask_all(&self, method: Method, path: &str) -> Vec<Option<(u16, Value)>> {
        let calls = self.nodes.iter().map(async |it| {
            let call = self.call(method.clone(), &it.admin, path, None);
            tokio::time::timeout(ALL_WITHIN, call).await.ok().flatten()
        });
        join_all(calls).await
    }

    /// Calls the admin listener of one node.
    pub(crate) async fn ask(
        &self,
        node: usize,
        method: Method,
        path: &str,
    ) -> Option<(u16, Value)> {
        self.call(method, &self.nodes[node].admin, path, None).await
    }

    async fn define(&self, campaign: &str, quota: u32) -> Result<(), String> {
        let path = format!("/admin/campaigns/{campaign}");
        let began = Instant::now();
        loop {
            let body = json!({ "quota": quota });
            let told = self.call(Method::PUT, &self.nodes[0].admin, &path, Some(body)).await;
            match told {
                Some((200 | 201, _)) => return Ok(()),
                _ if began.elapsed() < READY_WITHIN => tokio::time::sleep(LOOK_EVERY).await,
                told => return Err(format!("{campaign} cannot be defined: {told:?}")),
            }
        }
    }

    /// Asks until a user has a coupon. These answers are in no book.
    pub(crate) async fn issue(&self, campaign: &str, user: &str) -> Result<(), String> {
        let began = Instant::now();
        let mut last = None;
        for at in 0.. {
            let node = &self.target.nodes[at % self.target.nodes.len()];
            let request = self.client.post(format!("http://{node}/coupon/issue"));
            let request = request.header("prefer", "wait=5").header("idempotency-key", user);
            let request = request.json(&json!({ "campaign_id": campaign, "user_id": user }));
            if let Ok(response) = request.send().await {
                if response.status().as_u16() == 200 {
                    return Ok(());
                }
                last = response.text().await.ok();
            }
            if began.elapsed() > READY_WITHIN {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(format!("{user} got no decision of {campaign}: {}", last.unwrap_or_default()))
    }

    /// Returns the sum of a metric over all nodes but one. `None`: another does not answer.
    pub(crate) async fn metric(&self, line: &str, except: usize) -> Option<f64> {
        let mut sum = 0.0;
        for node in self.nodes.iter().filter(|node| node.number() != except) {
            let url = format!("http://{}/metrics", node.admin);
            let asked = self.client.get(url).timeout(ALL_WITHIN).send().await;
            let text = asked.ok()?.text().await.ok()?;
            let values =
                text.lines().filter_map(|it| it.strip_prefix(line)?.trim().parse::<f64>().ok());
            sum += values.sum::<f64>();
        }
        Some(sum)
    }
}

/// Returns the settings of an instance.
fn settings(plan: &Plan, engines: Option<&Engines>) -> Vec<String> {
    let mut settings = vec!["demo=false".to_owned(), "chaos.enabled=true".to_owned()];
    match engines {
        None => {
            settings.push(format!("embedded.dir='{}'", plan.folder.join("data").display()));
            settings.push(format!("embedded.partitions={PARTITIONS}"));
            // A small disk is smaller than the reserve by default.
            settings.push("embedded.reserve_bytes=8388608".to_owned());
        }
        Some(engines) => settings.extend([
            "mode=distributed".to_owned(),
            // A distributed node keeps its token there, which it is given here.
            format!("embedded.dir='{}'", plan.folder.join("data").display()),
            format!("kafka.brokers={}", engines.kafka.endpoints.join(",")),
            format!("kafka.topic_prefix={}", plan.name),
            format!("kafka.group={}", plan.name),
            format!("kafka.partitions={PARTITIONS}"),
            format!("cql.nodes={}", engines.database.endpoints.join(",")),
            format!("cql.keyspace={}", plan.name),
        ]),
    }
    settings
}

/// Returns campaigns of which one is in each partition.
fn one_in_each(partitions: u32) -> Vec<String> {
    let mut found = vec![None; partitions as usize];
    for number in 0.. {
        let name = format!("steady-{number}");
        if let Ok(id) = CampaignId::parse(&name) {
            found[partition_of(&id, partitions) as usize].get_or_insert(name);
        }
        if found.iter().all(Option::is_some) {
            break;
        }
    }
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_a_campaign() {
        let names = one_in_each(6);
        let partitions = names.iter().map(|it| partition_of(&CampaignId::parse(it).unwrap(), 6));
        assert_eq!(partitions.collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    }
}
