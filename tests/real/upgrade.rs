//! Nodes of two versions on one instance: the newer one knows one step of the schema more.

use std::sync::Arc;

use coupond::{
    audit::Meter,
    config::{self, Config, Sources},
    node,
    store::cql::{Change, STEPS, Step},
};
use libtest_mimic::Trial;
use scylla::client::session_builder::SessionBuilder;

use crate::{
    engines::{Engine, shared, unique},
    nodes::{define, settings},
    procs::{Crowd, Node, until},
    trials,
};

/// More than are asked for while nodes come and go: coupons are written in every phase.
const QUOTA: usize = 1_000_000;

/// Requests under way at once: load in every phase, and few enough to check each answer.
const PRESSING_AT_ONCE: usize = 3;

/// Answers that show that a phase goes on.
const PHASE: usize = 50;

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka, Engine::Cql]; nodes_follow_a_schema_step_one_by_one)
}

/// The steps of the newer version.
fn newer_steps() -> Vec<Step> {
    let number = STEPS[STEPS.len() - 1].number + 1;
    let change = Change::Column { table: "coupons", name: "test_only", cql_type: "text" };
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

/// Waits for more answers, and checks that the nodes at these admin addresses have halted no
/// partition, held no campaign and seen no invariant broken.
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
    assert!(pages.contains("coupond_partition_halted{"), "no node says whether it halts");
}

async fn nodes_follow_a_schema_step_one_by_one() {
    let (name, database) = (unique("upgrade"), shared(Engine::Cql).expect("asked for"));
    let settings = settings(&name, shared(Engine::Kafka).expect("asked for"), database);
    let newer = ["api.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0", "admin.token=of-the-newer"];
    let set = settings.iter().cloned().chain(newer.map(str::to_owned)).collect();
    let newer = config::load(&Sources { set, ..Sources::default() }).expect("settings").config;

    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    define(&one, "spring", QUOTA).await;
    let crowd = Crowd::new("spring", &[&one, &other]);
    let pressing = tokio::spawn(crowd.clone().press_by(PRESSING_AT_ONCE, QUOTA));
    goes_on(&crowd, &[one.admin.clone(), other.admin.clone()]).await;

    // One is stopped, and a newer node takes the step and joins the old one.
    crowd.turn_to(&[&other]);
    assert_eq!(one.stop().await, Some(0));
    let first = start_newer(&newer).await;
    let address = |address| format!("http://{address}");
    crowd.turn_to_apis(vec![other.api.clone(), address(first.api)]);
    goes_on(&crowd, &[other.admin.clone(), address(first.admin)]).await;

    // The other follows.
    crowd.turn_to_apis(vec![address(first.api)]);
    assert_eq!(other.stop().await, Some(0));
    let second = start_newer(&newer).await;
    crowd.turn_to_apis(vec![address(first.api), address(second.api)]);
    goes_on(&crowd, &[address(first.admin), address(second.admin)]).await;

    // An old node can start beside the step, as after a rollback.
    let old = Node::start(&settings).await;
    crowd.turn_to_apis(vec![old.api.clone(), address(first.api), address(second.api)]);
    goes_on(&crowd, &[old.admin.clone(), address(first.admin), address(second.admin)]).await;
    crowd.end();
    pressing.await.expect("the crowd ends well");
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
