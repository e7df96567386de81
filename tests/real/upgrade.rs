//! Nodes of two versions in one instance. The newer version has one more schema step.

use std::sync::Arc;

use coupond::{
    audit::Meter,
    config::{self, Config, Listen, Sources},
    node,
    store::cql::{STEPS, SchemaChange, Step},
};
use libtest_mimic::Trial;
use scylla::client::session_builder::SessionBuilder;

use crate::{
    engines::{Engine, shared, unique},
    instance::{define, settings},
    procs::{Crowd, Node, until},
    trials,
};

/// More coupons than the test requests, so that coupons are written in every phase.
const QUOTA: usize = 1_000_000;

/// Concurrent requests: load in every phase, but few enough answers to check each of them.
const PRESSING_AT_ONCE: usize = 3;

/// Answers to wait for in each phase.
const PHASE: usize = 50;

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka, Engine::Cql]; nodes_are_upgraded_one_by_one)
}

/// Returns the schema steps of the newer version.
fn newer_steps() -> Vec<Step> {
    let number = STEPS[STEPS.len() - 1].number + 1;
    let change = SchemaChange::Column { table: "coupons", name: "test_only", cql_type: "text" };
    [STEPS, &[Step { number, change }]].concat()
}

/// Starts a node of the newer version in this process.
async fn start_newer(config: &Config) -> node::Node {
    let node = node::Node::start_with(config, &newer_steps()).await.expect("it starts");
    let ready = format!("http://{}/health/ready", node.admin);
    until("the newer node is ready", || async {
        let answer = reqwest::get(&ready).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    node
}

/// Waits for more answers. Checks that the nodes at these admin addresses have no halted partition,
/// no campaign on hold and no violated invariant.
async fn goes_on(crowd: &Crowd, admins: &[String]) {
    let before = crowd.answered();
    until("answers come", || async { (crowd.answered() >= before + PHASE).then_some(()) }).await;
    let mut pages = String::new();
    for admin in admins {
        let answer = reqwest::get(format!("{admin}/metrics")).await.expect("the node answers");
        let metrics = answer.text().await.expect("text");
        let bad = metrics.lines().filter(|line| {
            let trouble = line.starts_with("coupond_partition_halted")
                || line.starts_with("coupond_invariant_violations_total")
                || line.contains(r#"coupond_campaigns{state="quarantined"}"#);
            trouble && !line.ends_with(" 0")
        });
        assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new(), "{admin}");
        pages += &metrics;
    }
    assert!(pages.contains("coupond_partition_halted{"), "the metric is missing");
}

async fn nodes_are_upgraded_one_by_one() {
    let (name, database) = (unique("upgrade"), shared(Engine::Cql).expect("asked for"));
    let settings = settings(&name, shared(Engine::Kafka).expect("asked for"), database);
    let newer = [
        "api.listen=127.0.0.1:0",
        "admin.listen=127.0.0.1:0",
        "admin.token=of-the-newer",
        "api.drain=0s",
    ];
    let set = settings.iter().cloned().chain(newer.map(str::to_owned)).collect();
    let newer = config::load(&Sources { set, ..Sources::default() }).expect("settings").config;

    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    define(&one, "spring", QUOTA).await;
    let crowd = Crowd::new("spring", &[&one, &other]);
    let requests = tokio::spawn(crowd.clone().press_by(PRESSING_AT_ONCE, QUOTA));
    goes_on(&crowd, &[one.admin.clone(), other.admin.clone()]).await;

    // One node is stopped. A newer node takes the step and joins the old one.
    crowd.use_nodes(&[&other]);
    assert_eq!(one.stop().await, Some(0));
    let first = start_newer(&newer).await;
    let address = |address: &Listen| format!("http://{address}");
    crowd.use_apis(vec![other.api.clone(), address(&first.api)]);
    goes_on(&crowd, &[other.admin.clone(), address(&first.admin)]).await;

    // The other node is replaced too.
    crowd.use_apis(vec![address(&first.api)]);
    assert_eq!(other.stop().await, Some(0));
    let second = start_newer(&newer).await;
    crowd.use_apis(vec![address(&first.api), address(&second.api)]);
    goes_on(&crowd, &[address(&first.admin), address(&second.admin)]).await;

    // An old node can still start after the step, as after a rollback.
    let old = Node::start(&settings).await;
    crowd.use_apis(vec![old.api.clone(), address(&first.api), address(&second.api)]);
    goes_on(&crowd, &[old.admin.clone(), address(&first.admin), address(&second.admin)]).await;
    crowd.end();
    requests.await.expect("the crowd ends well");
    first.stop().await;
    second.stop().await;
    crowd.check(&old, QUOTA).await;

    let session = SessionBuilder::new().known_nodes(database).use_keyspace(name, false);
    let session = session.build().await.expect("a session");
    let steps = session.query_unpaged("SELECT step FROM schema_steps", ()).await.expect("rows");
    let steps = steps.into_rows_result().expect("rows").rows_num();
    assert_eq!(steps, STEPS.len() + 1, "the step was taken");
    let report = node::audit(&newer, None, Arc::new(Meter::default())).await.expect("a report");
    assert_eq!(report.exit_code(), 0, "{}", report.text());
}
