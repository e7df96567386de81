//! Two nodes under load while the engines below them are killed: a minority, then a majority.

use libtest_mimic::Trial;

use crate::{
    absent,
    engines::{Engine, Own, unique},
    nodes::{define, settings},
    procs::{Crowd, Node, until},
    run,
};

/// Users who press; more than there are coupons, so that the end of the quota lies in the outages.
const USERS: usize = 1_000;

/// Coupons of the campaign.
const QUOTA: usize = 700;

pub(crate) fn trials() -> Vec<Trial> {
    let name = concat!(module_path!(), "::", "engines_die_under_load_and_nothing_is_lost_or_twice");
    vec![Trial::ignorable_test(name, || {
        let brokers = match Own::start(Engine::Kafka, 3) {
            Ok(own) => own,
            Err(reason) => return absent(&reason),
        };
        match Own::start(Engine::Cql, 3) {
            Ok(database) => {
                run(|| engines_die_under_load_and_nothing_is_lost_or_twice(brokers, database))
            }
            Err(reason) => absent(&reason),
        }
    })]
}

async fn engines_die_under_load_and_nothing_is_lost_or_twice(brokers: Own, database: Own) {
    let settings = settings(&unique("outages"), brokers.endpoints(), database.endpoints());
    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    define(&one, "spring", QUOTA).await;
    let crowd = Crowd::new("spring", &[&one, &other]);
    let pressing = tokio::spawn(crowd.clone().press(USERS));
    let answered = async |count: usize| {
        until("the crowd is answered", || async { (crowd.answered() >= count).then_some(()) })
            .await;
    };
    // Waiting for an engine keeps a thread, not the crowd.
    let during = |work: &dyn Fn()| tokio::task::block_in_place(work);

    answered(100).await;
    brokers.kill_node(1);
    database.kill_node(3);
    answered(300).await;
    during(&|| brokers.restart_nodes(&[1]));
    during(&|| database.restart_nodes(&[3]));

    for broker in 1..=3 {
        brokers.kill_node(broker);
    }
    let away = crowd.answered();
    during(&|| brokers.restart_nodes(&[1, 2, 3]));
    answered(away + 150).await;

    database.kill_node(1);
    database.kill_node(2);
    let away = crowd.answered();
    during(&|| database.restart_nodes(&[1, 2]));
    answered((away + 150).min(USERS)).await;

    pressing.await.expect("the crowd ends well");
    for node in [&one, &other] {
        crowd.check(node, QUOTA).await;
    }
    assert_eq!((one.stop().await, other.stop().await), (Some(0), Some(0)));
}
