//! Checks of the port's promises. Every adapter runs them.
//!
//! An adapter calls `decision_feed_contract!(fresh)`, or loops over [`checks`]. `fresh` is an async
//! function that returns a feed of at least [`PARTITIONS`] partitions and a guard, which is dropped
//! after the check. Each check publishes under its own log epoch and ignores the others, so checks
//! may share a feed. They must not run concurrently: the check of the slow follower causes gaps for
//! all.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::{sync::mpsc, time::timeout};

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedEvent, MESSAGE_DECISIONS_MAX};
use crate::{
    domain::{
        decision::{Decision, Held, Refusal},
        ids::{Offset, Partition, ProcessName, Timestamp},
        reason::Reason,
    },
    wire::feed_message::{CampaignNews, FeedDecision, FeedMessage, Sender, Tally},
};

/// One check of the contract.
pub type Check = for<'a> fn(&'a dyn DecisionFeed) -> BoxFuture<'a, ()>;

/// Partitions that the feed must have.
pub const PARTITIONS: Partition = 4;

/// Limit for an event that must happen. Far above the delays of an engine on a busy machine, so
/// that only a broken promise reaches it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists the checks by name, and defines the macro that makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Returns every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|feed| Box::pin($name(feed))) as Check)),+]
        }

        /// Makes a test of every check. `fresh` returns a feed and its guard.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! decision_feed_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (feed, _guard) = $fresh().await;
                        $crate::feed::contract::$name(&*feed).await;
                    }
                )+
            };
        }
        #[allow(unused_imports, reason = "adapters may run the list instead")]
        pub(crate) use decision_feed_contract;
    };
}

checks!(
    every_message_arrives_unchanged,
    messages_of_a_partition_arrive_in_order,
    every_follower_receives_every_message,
    publishing_needs_no_follower,
    a_follower_can_leave,
    a_slow_follower_gets_a_gap,
);

fn message(epoch: u32, partition: Partition, from: Offset, to: Offset) -> FeedMessage {
    FeedMessage {
        log_epoch: epoch,
        partition,
        sender: Sender { generation: 1, owner: ProcessName::of(7), number: to },
        from,
        to,
        end: to + 3,
        waiting: 0,
        condition: None,
        halted: None,
        unread: None,
        decisions: Vec::new(),
        campaigns: Vec::new(),
    }
}

async fn publish(feed: &dyn DecisionFeed, message: FeedMessage) {
    let published = timeout(PATIENCE, feed.publish(message)).await;
    published.expect("publishing is answered").expect("a message is published");
}

async fn follow(feed: &dyn DecisionFeed) -> mpsc::Receiver<FeedEvent> {
    let following = timeout(PATIENCE, feed.follow()).await;
    following.expect("following is answered").expect("a follower is added")
}

/// Returns the next event that is a gap or belongs to this epoch.
async fn event(follower: &mut mpsc::Receiver<FeedEvent>, epoch: u32) -> FeedEvent {
    loop {
        let event = timeout(PATIENCE, follower.recv()).await.expect("an event arrives");
        match event.expect("the feed goes on") {
            FeedEvent::Message(message) if message.log_epoch != epoch => {}
            event => return event,
        }
    }
}

async fn next_message(follower: &mut mpsc::Receiver<FeedEvent>, epoch: u32) -> FeedMessage {
    match event(follower, epoch).await {
        FeedEvent::Message(message) => (*message).clone(),
        FeedEvent::Gap => panic!("a follower that keeps up got a gap"),
    }
}

fn decision(offset: Offset, decision: Decision) -> FeedDecision {
    FeedDecision { offset, decision, holds: false, check: u32::MAX - 7 }
}

/// Covers every decision, a halt, and a message of the largest size.
pub async fn every_message_arrives_unchanged(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 101;
    let held = Held { sequence: u32::MAX, issued_at: Timestamp(1_760_000_000_123) };
    let mut decisions = vec![
        decision(0, Decision::Issued(held)),
        decision(1, Decision::AlreadyIssued(held)),
        decision(2, Decision::Accepted),
    ];
    for reason in Reason::ALL {
        let rejected = decision(3, Decision::Rejected(reason));
        decisions.extend([rejected, FeedDecision { holds: true, ..rejected }]);
    }
    let refusals = [
        Refusal::StaleVersion,
        Refusal::QuotaBelowIssued { issued: 7 },
        Refusal::Closed,
        Refusal::Invalid,
    ];
    for refusal in refusals {
        decisions.push(decision(u64::MAX, Decision::Refused(refusal)));
    }
    let (highest, version) = (Some(0), Some(3));
    let news =
        |campaign| CampaignNews { campaign, tally: Tally([7; Tally::LEN]), highest, version };
    let many = vec![decision(9, Decision::Issued(held)); MESSAGE_DECISIONS_MAX];
    let of_each = (0..).map(news).take(many.len()).collect();
    let messages = [
        FeedMessage { decisions, campaigns: vec![news(u64::MAX)], ..message(EPOCH, 0, 0, 5) },
        FeedMessage { halted: Some("the tail\nis \"gone\"".into()), ..message(EPOCH, 0, 5, 5) },
        FeedMessage { decisions: many, campaigns: of_each, ..message(EPOCH, 0, 5, 5_000) },
    ];
    let mut follower = follow(feed).await;
    for message in messages {
        publish(feed, message.clone()).await;
        assert_eq!(next_message(&mut follower, EPOCH).await, message);
    }
}

/// Publishers of other partitions run concurrently.
pub async fn messages_of_a_partition_arrive_in_order(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 102;
    const MESSAGES: Offset = 300;
    let mut follower = follow(feed).await;
    let owners = (0..PARTITIONS).map(async |partition| {
        for offset in 0..MESSAGES {
            publish(feed, message(EPOCH, partition, offset, offset + 1)).await;
        }
    });
    join_all(owners).await;
    let mut seen = vec![0; PARTITIONS as usize];
    for _ in 0..MESSAGES * Offset::from(PARTITIONS) {
        let message = next_message(&mut follower, EPOCH).await;
        let next = &mut seen[message.partition as usize];
        assert_eq!((message.from, message.to), (*next, *next + 1));
        *next = message.to;
    }
    assert!(seen.iter().all(|next| *next == MESSAGES), "{seen:?}");
}

/// A follower receives the messages that are published after it was added.
pub async fn every_follower_receives_every_message(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 103;
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(follow(feed).await);
    }
    for offset in 0..20 {
        publish(feed, message(EPOCH, 1, offset, offset + 1)).await;
    }
    let mut late = follow(feed).await;
    publish(feed, message(EPOCH, 1, 20, 21)).await;
    for follower in &mut followers {
        for offset in 0..=20 {
            assert_eq!(next_message(follower, EPOCH).await.from, offset);
        }
    }
    while next_message(&mut late, EPOCH).await.from != 20 {}
}

/// A message without followers is lost. Publishing it succeeds.
pub async fn publishing_needs_no_follower(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 104;
    publish(feed, message(EPOCH, 0, 0, 1)).await;
    let mut follower = follow(feed).await;
    publish(feed, message(EPOCH, 0, 1, 2)).await;
    while next_message(&mut follower, EPOCH).await.from != 1 {}
}

/// Neither the publisher nor other followers notice that a follower has left.
pub async fn a_follower_can_leave(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 105;
    let leaver = follow(feed).await;
    let mut follower = follow(feed).await;
    publish(feed, message(EPOCH, 0, 0, 1)).await;
    drop(leaver);
    for offset in 1..10 {
        publish(feed, message(EPOCH, 0, offset, offset + 1)).await;
    }
    for offset in 0..10 {
        assert_eq!(next_message(&mut follower, EPOCH).await.from, offset);
    }
}

/// At most [`FOLLOWER_MESSAGES_MAX`] messages wait for a slow follower. Then it gets a gap, and
/// then later messages. Neither the publisher nor other followers wait for it.
pub async fn a_slow_follower_gets_a_gap(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 106;
    // On Kafka the slow follower may begin to read before its messages have arrived. Such a round
    // loses none of them.
    const ROUNDS: usize = 20;
    let mut slow = follow(feed).await;
    let mut quick = follow(feed).await;
    let mut published = 0;
    let mut expected = 0;
    let mut gap = false;
    for _ in 0..ROUNDS {
        for _ in 0..FOLLOWER_MESSAGES_MAX + 500 {
            publish(feed, message(EPOCH, 2, published, published + 1)).await;
            assert_eq!(next_message(&mut quick, EPOCH).await.from, published);
            published += 1;
        }
        assert!(slow.len() <= FOLLOWER_MESSAGES_MAX + 1, "{} events wait", slow.len());
        while !gap && expected < published {
            match event(&mut slow, EPOCH).await {
                FeedEvent::Message(message) => {
                    assert_eq!(message.from, expected, "a message is lost without a gap");
                    expected += 1;
                }
                FeedEvent::Gap => gap = true,
            }
        }
        if gap {
            break;
        }
    }
    assert!(gap, "no gap after {published} messages");
    // The follower keeps up from here on, so it receives the next message.
    publish(feed, message(EPOCH, 2, published, published + 1)).await;
    loop {
        if let FeedEvent::Message(message) = event(&mut slow, EPOCH).await
            && message.from == published
        {
            break;
        }
    }
}
