//! Two nodes under load while the engines below them are killed: a minority, then a majority.

use libtest_mimic::Trial;

use crate::{
    absent,
    engines::{Engine, Own, unique},
    nodes::{define, settings},
    procs::{Crowd, Node, until},
    run,
};

/// Users of each outage: more than are answered before the kill takes effect.
const USERS: usize = 400;

/// Outages: a minority of both engines, all brokers, a majority of the database: [`killed`].
const OUTAGES: usize = 3;

/// Coupons of the campaign: the end of the quota lies in the last outage.
const QUOTA: usize = USERS * OUTAGES - USERS / 2;

/// Answers before an engine is killed, so that the crowd is in full flow.
const ANSWERED_BEFORE: usize = 50;

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
    for number in 1..=OUTAGES {
        let before = crowd.answered();
        let pressing = tokio::spawn(crowd.clone().press(number * USERS));
        until("the crowd is in full flow", || async {
            (crowd.answered() >= before + ANSWERED_BEFORE).then_some(())
        })
        .await;
        // Waiting for an engine blocks a thread, so it must not run on the crowd's.
        let at_kill = tokio::task::block_in_place(|| {
            kill(number, &brokers, &database);
            let at_kill = crowd.answered();
            restart(number, &brokers, &database);
            at_kill
        });
        assert!(at_kill < number * USERS, "outage {number} came after the crowd");
        pressing.await.expect("everybody is answered");
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
    // Database nodes that join at the same moment may fail to see each other.
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
