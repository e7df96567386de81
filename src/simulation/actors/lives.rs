//! Actors that start, stop and move, and partitions that halt.

use super::*;
use crate::{
    domain::{
        ids::ProcessName,
        rows::{Register, Row},
    },
    feed::DecisionFeed,
    log::memory::MemoryPartition,
    simulation::leaks::TASKS_OF_NODE,
    store::CouponStore,
    wire::feed_message::{FeedMessage, Sender},
};

impl Stage {
    /// Everything that was published.
    fn messages(&self) -> Vec<FeedMessage> {
        let topic = self.engines().topic.lock();
        topic.published.iter().map(|it| it.message.clone()).collect()
    }

    /// The generation of the last message.
    fn generation(&self) -> u64 {
        self.messages().last().map_or(0, |message| message.sender.generation)
    }
}

#[test]
fn without_faults_every_decision_is_published() {
    play(calm(2, 4), async |mut stage: Stage| {
        stage.start().await;
        (0..4).for_each(|id| stage.define(id, 10));
        for user in 0..30 {
            (0..4).for_each(|id| stage.ask(id, user));
            stage.wait_ms(10).await;
        }
        stage.passed().await;
        let undecided: usize = (0..4).map(|id| stage.undecided(id)).sum();
        assert_eq!(undecided, 0);
        stage
    });
}

#[test]
fn a_finished_campaign_frees_its_memory() {
    let (over, open) = (0, 1);
    play(calm(1, 2), async move |mut stage: Stage| {
        stage.start().await;
        let (node, quota, limit) = (0, 10, 1);
        let closes_ms = Some(1_000);
        stage
            .act(Act::Define { node, campaign: over, quota, limit, opens_ms: None, closes_ms })
            .await;
        stage.define(open, 10);
        stage.until("defined", |stage| stage.state(over) == "live").await;
        stage.wait_ms(9 * 60_000).await;
        assert_eq!((stage.state(over), stage.state(open)), ("live", "live"));
        stage.wait_ms(2 * 60_000).await;
        assert_eq!((stage.state(over), stage.state(open)), ("stopped", "live"));
        stage.story.look_at_actors().await;
        stage.ask(over, 2);
        assert!(stage.answered(over).await <= 2 * ANSWERED_MS, "a request starts it again");
        stage
    });
}

#[test]
fn a_revoked_partition_runs_nothing() {
    play(calm(1, 40), async |mut stage: Stage| {
        stage.start().await;
        stage.wait_ms(500).await;
        for round in 0..40 {
            stage.define(round, 10);
            let us = u64::from(round) * 400;
            stage.story.pass(stage.story.world.now_us() + us).await;
            stage.revoke(0);
            stage.wait_ms(500).await;
            let actors = stage.node().core.supervisor.get_cell().get_children().len();
            let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
            assert_eq!((actors, tasks), (0, TASKS_OF_NODE + 1), "after {us} us");
            stage.assign(0);
            stage.passed().await;
        }
        stage
    });
}

#[test]
fn a_flapping_partition_is_decided() {
    play(calm(1, 5), async |mut stage: Stage| {
        stage.start().await;
        (0..5).for_each(|id| stage.define(id, 300));
        stage.passed().await;
        for user in 0..100 {
            (0..5).for_each(|id| stage.ask(id, user));
            let world = stage.story.world.clone();
            stage.story.pass(world.now_us() + world.below(9_000)).await;
            stage.revoke(0);
            stage.story.pass(world.now_us() + world.below(1_000)).await;
            stage.assign(0);
            stage.story.pass(world.now_us() + world.below(12_000)).await;
        }
        stage
    });
}

#[test]
fn draining_settles_what_was_read() {
    play(calm(2, 6), async |mut stage: Stage| {
        stage.start().await;
        (0..6).for_each(|id| stage.define(id, 100));
        stage.passed().await;
        for user in 0..5 {
            (0..6).for_each(|id| stage.ask(id, user));
            stage.crash(0).await;
            stage.wait_ms(20).await;
        }
        let supervisor = stage.node().core.supervisor.clone();
        let drained = supervisor.call(SupervisorMessage::Drain, None).await;
        assert!(drained.is_ok_and(|drained| drained.is_success()));
        assert!(stage.is_passed());
        (0..6).for_each(|id| stage.ask(id, 77));
        stage.wait_ms(1_000).await;
        assert_eq!(stage.undecided(0), 1, "a drained partition reads no more");
        stage.story.kill(0, 0).await;
        stage
    });
}

#[test]
fn a_halt_during_a_replay_ends_by_itself() {
    let (failing, other) = (0, 1);
    play(narrow(1, 2), async move |mut stage: Stage| {
        stage.start().await;
        stage.define(failing, 5_000);
        stage.define(other, 5_000);
        stage.passed().await;
        stage.curse(failing).await;
        (0..300).for_each(|user| stage.ask(failing, user));
        stage.until("on hold", |stage| stage.is_held(failing)).await;
        stage.passed().await;
        stage.engines().rows.lift_curses();
        stage.release(failing);
        stage.until("replaying", |stage| stage.state(failing) == "recovering").await;
        // The log seems to have lost its end.
        let end = std::mem::replace(&mut stage.engines().brokers.lock().partitions[0].high, 1);
        stage.until("halted", |stage| stage.state(failing) == "halted").await;
        stage.wait_ms(20_000).await;
        stage.engines().brokers.lock().partitions[0].high = end;
        stage.ask(other, 1);
        assert!(stage.answered(other).await <= 15_000);
        stage.answered(failing).await;
        stage
    });
}

/// An operator has added partitions to the topic.
#[test]
fn a_partition_beyond_the_layout_has_no_owner() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.engines().brokers.lock().partitions.push(MemoryPartition::starting_at(0));
        stage.start().await;
        stage.define(0, 10);
        stage.ask(0, 1);
        stage.answered(0).await;
        stage.wait_ms(1_000).await;
        assert_eq!(stage.node().core.directory.owned(), [0]);
        stage
    });
}

/// Stores a generation as an owner on another node does.
async fn claim_as_another(stage: &Stage, generation: u64) {
    let link = stage.engines().link(&stage.story.world, stage.node().address);
    let claimed = [Row::Register(0, Register::Generation, generation)];
    stage.engines().store(&link).write(&claimed).await.expect("it is stored");
}

/// Sends a message of an owner on another node, which has claimed this generation.
async fn publish_as_another(stage: &Stage, generation: u64) {
    claim_as_another(stage, generation).await;
    let link = stage.engines().link(&stage.story.world, stage.node().address);
    let mut other = stage.messages().pop().expect("the owner has said something");
    other.sender = Sender { generation, owner: ProcessName::of(1), number: 1 };
    stage.engines().feed(&link).publish(other).await.expect("it is published");
}

#[test]
fn each_owner_begins_a_generation() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 10);
        stage.passed().await;
        for generation in 1..5 {
            let last = stage.messages().pop().expect("the owner has said something");
            assert_eq!(last.sender.generation, generation);
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            stage.until("anew", |stage| stage.generation() > generation).await;
        }
        stage
    });
}

/// An owner that is about to be told that it has lost the partition may have claimed later. Nobody
/// would be heard once it is gone.
#[test]
fn an_owner_claims_again_above_another() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 10);
        stage.passed().await;
        publish_as_another(&stage, 50).await;
        let took = stage.until("claimed", |stage| stage.generation() == 51).await;
        assert!(took <= 2_100, "claimed after {took} ms");
        // So does one whose node hears nothing.
        claim_as_another(&stage, 70).await;
        let took = stage.until("claimed", |stage| stage.generation() == 71).await;
        assert!(took <= 2_100, "claimed after {took} ms");
        // So does one that is halted.
        let high = std::mem::replace(&mut stage.engines().brokers.lock().partitions[0].high, 0);
        stage.until("halted", |stage| stage.state(0) == "halted").await;
        for (generation, hears) in [(80, true), (90, false)] {
            match hears {
                true => publish_as_another(&stage, generation).await,
                false => claim_as_another(&stage, generation).await,
            }
            let is_claimed = |stage: &Stage| stage.generation() == generation + 1;
            let took = stage.until("claimed", is_claimed).await;
            assert!(took <= 1_100, "claimed after {took} ms");
            let said = stage.messages().pop().and_then(|message| message.halted);
            assert!(said.is_some(), "followers hear of the halt again");
        }
        stage.engines().brokers.lock().partitions[0].high = high;
        stage.ask(0, 1);
        stage.answered(0).await;
        stage
    });
}

/// One that cannot claim a generation publishes in that of the owner before.
#[test]
fn numbers_of_a_process_rise_over_its_owners() {
    play(calm(1, 1), async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 10);
        stage.passed().await;
        for _ in 0..3 {
            let generation = stage.generation();
            stage.act(Act::CrashConsumer { partition: 0 }).await;
            stage.until("anew", |stage| stage.generation() > generation).await;
        }
        let numbers: Vec<u64> = stage.messages().iter().map(|it| it.sender.number).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        stage
    });
}
