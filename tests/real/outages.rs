//! Two nodes under load while nodes of Kafka and of the database are killed: first a minority, then
//! a majority.

use libtest_mimic::Trial;

use crate::{
    absent,
    engines::{Engine, Own, unique},
    instance::{define, settings},
    procs::{Crowd, Node, until},
    run,
};

/// Users of each outage: more than get an answer before the kill.
const USERS: usize = 400;

/// Number of outages: a minority of both engines, all brokers, a majority of the database. See
/// [`killed`].
const OUTAGES: usize = 3;

/// Coupons of the campaign. They are sold out in the last outage.
const QUOTA: usize = USERS * OUTAGES - USERS / 2;

/// Answers to wait for before a kill, so that many requests are in flight.
const ANSWERED_BEFORE: usize = 50;

pub(crate) fn trials() -> Vec<Trial> {
    let name = concat!(module_path!(), "::", "no_coupon_is_lost_in_engine_outages");
    vec![Trial::ignorable_test(name, || {
        let brokers = match Own::start(Engine::Kafka, 3) {
            Ok(own) => own,
            Err(reason) => return absent(&reason),
        };
        match Own::start(Engine::Cql, 3) {
            Ok(database) => run(|| no_coupon_is_lost_in_engine_outages(brokers, database)),
            Err(reason) => absent(&reason),
        }
    })]
}

async fn no_coupon_is_lost_in_engine_outages(brokers: Own, database: Own) {
    let settings = settings(&unique("outages"), brokers.endpoints(), database.endpoints());
    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    define(&one, "spring", QUOTA).await;
    let crowd = Crowd::new("spring", &[&one, &other]);
    for number in 1..=OUTAGES {
        let before = crowd.answered();
        let requests = tokio::spawn(crowd.clone().press(number * USERS));
        until("many requests are in flight", || async {
            (crowd.answered() >= before + ANSWERED_BEFORE).then_some(())
        })
        .await;
        // Waiting for an engine blocks a thread, which must not be one of the clients' threads.
        let at_kill = tokio::task::block_in_place(|| {
            kill(number, &brokers, &database);
            let at_kill = crowd.answered();
            restart(number, &brokers, &database);
            at_kill
        });
        assert!(at_kill < number * USERS, "outage {number} came after the last answer");
        requests.await.expect("every user is answered");
        assert_eq!(crowd.answered(), number * USERS);
    }

    for node in [&one, &other] {
        crowd.check(node, QUOTA).await;
    }
    assert_eq!((one.stop().await, other.stop().await), (Some(0), Some(0)));
}

fn kill(outage: usize, brokers: &Own, database: &Own) {
    let (of_brokers, of_database) = killed(outage);
    of_brokers.iter().for_each(|node| brokers.kill_node(*node));
    of_database.iter().for_each(|node| database.kill_node(*node));
}

fn restart(outage: usize, brokers: &Own, database: &Own) {
    let (of_brokers, of_database) = killed(outage);
    brokers.restart_nodes(of_brokers);
    // Database nodes that start at the same time may fail to see each other.
    of_database.iter().for_each(|node| database.restart_nodes(&[*node]));
}

/// Returns the brokers and database nodes that are killed in an outage.
fn killed(outage: usize) -> (&'static [u32], &'static [u32]) {
    match outage {
        1 => (&[1], &[3]),
        2 => (&[1, 2, 3], &[]),
        _ => (&[], &[1, 2]),
    }
}
