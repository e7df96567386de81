//! A node that is cut off from the database alone.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::{
    engines::{Engine, shared, unique},
    instance::{define, metric, settings},
    procs::{Node, until},
    proxy::Proxy,
    trials,
};

/// Time from the cut until everything is decided by the other node: 15 s of failed probes, up to 5 s until
/// the first of them has failed and the last one ends, and a rebalance.
const DECIDED_WITHIN: Duration = Duration::from_secs(25);

/// Time from the mending until the node owns partitions again: it stays away for 60 s, counted from its
/// leave, and probes well three times.
const BACK_WITHIN: Duration = Duration::from_secs(90);

/// Campaigns: enough that both nodes own some.
const CAMPAIGNS: usize = 12;

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka, Engine::Cql]; a_node_cut_off_from_its_store_hands_over)
}

async fn a_node_cut_off_from_its_store_hands_over() {
    let endpoints = |engine| shared(engine).expect("the trial asked for it");
    let (name, brokers, database) =
        (unique("cut"), endpoints(Engine::Kafka), endpoints(Engine::Cql));
    let proxy = Proxy::start(&database[0]).await;
    let sound = Node::start(&settings(&name, brokers, database)).await;
    let cut = Node::start(&settings(&name, brokers, &[proxy.endpoint()])).await;
    let campaigns: Vec<_> = (0..CAMPAIGNS).map(|number| format!("campaign-{number}")).collect();
    for campaign in &campaigns {
        define(&sound, campaign, 100).await;
        assert_eq!(sound.issue(campaign, "ada").await.0, 200);
    }
    until("both own partitions", || async {
        let (one, other) =
            (metric(&sound, "coupond_actors").await, metric(&cut, "coupond_actors").await);
        (one > 0.0 && other > 0.0).then_some(())
    })
    .await;
    // Each has heard the other say three times that it can decide.
    tokio::time::sleep(Duration::from_secs(6)).await;

    let began = Instant::now();
    proxy.set_cut(true);
    let mut slowest = Duration::ZERO;
    for campaign in &campaigns {
        until("a request is decided", || async {
            let (status, _) = sound.try_issue(campaign, "bob", Some("bob")).await.ok()?;
            (status == 200).then_some(())
        })
        .await;
        slowest = slowest.max(began.elapsed());
    }
    println!("decided {slowest:?} after the cut");
    assert!(slowest > Duration::from_secs(10), "no partition was at the node that was cut off");
    assert!(slowest <= DECIDED_WITHIN, "decided {slowest:?} after the cut");
    assert_eq!(metric(&cut, "coupond_membership_left_total").await, 1.0);
    assert_eq!(metric(&cut, "coupond_node_can_decide").await, 0.0);
    let (status, body) = cut.readiness().await;
    assert!(status == 503 && body.to_string().contains("own_probes"), "{status} {body}");
    assert_eq!(sound.readiness().await.0, 200);

    let began = Instant::now();
    proxy.set_cut(false);
    // It loads a campaign that is asked for where it owns the partition.
    let mut number = 0;
    let is_back = async || {
        number += 1;
        for campaign in &campaigns {
            assert!(began.elapsed() <= BACK_WITHIN, "the node is not back");
            let _answer = sound.try_issue(campaign, &format!("user-{number}"), None).await;
        }
        metric(&cut, "coupond_actors").await > 0.0
    };
    let mut is_back = is_back;
    while !is_back().await {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("back {:?} after the cut has ended", began.elapsed());
    cut.is_ready().await;
    assert_eq!(metric(&cut, "coupond_membership_left_total").await, 1.0);
    assert_eq!((sound.stop().await, cut.stop().await), (Some(0), Some(0)));
}
