//! What every decision feed promises, as checks that every adapter runs.
//!
//! An adapter runs them with `decision_feed_contract!(fresh)`, where `fresh` is an async function
//! that gives a feed of at least [`PARTITIONS`] partitions and whatever must live as long as it is
//! used (a topic); or loops over [`checks`]. Each check publishes under a log epoch of its own and
//! looks at nothing else, so they may share one feed, but not run at once: the one that fills a
//! follower makes gaps for all.

use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::{sync::mpsc, time::timeout};

use super::{DecisionFeed, FOLLOWER_MESSAGES_MAX, FeedEvent, MESSAGE_DECISIONS_MAX};
use crate::{
    domain::{
        answer::{Answer, CouponFace},
        decision::{Reason, Refusal},
        ids::{CampaignId, Offset, Partition, Timestamp, UserId},
    },
    wire::feed_message::{FeedDecision, FeedMessage},
};

/// One check of the contract.
pub type Check = for<'a> fn(&'a dyn DecisionFeed) -> BoxFuture<'a, ()>;

/// Partitions that the feed must have.
pub const PARTITIONS: Partition = 4;

/// How long a check waits for what must happen: far beyond any hiccup of an engine on a busy
/// machine, so that only a promise broken lets it pass.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lists the checks by name, and makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|feed| Box::pin($name(feed))) as Check)),+]
        }

        /// Makes a test of every check; `fresh` gives a feed and what it lives on.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! decision_feed_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (feed, _lives_on) = $fresh().await;
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
    every_kind_of_message_arrives_whole,
    messages_of_a_partition_arrive_in_order,
    every_follower_receives_every_message,
    publishing_needs_no_follower,
    a_follower_that_left_disturbs_nobody,
    a_slow_follower_is_bounded_and_told_of_the_gap,
);

fn message(epoch: u32, partition: Partition, from: Offset, to: Offset) -> FeedMessage {
    FeedMessage {
        log_epoch: epoch,
        partition,
        from,
        to,
        end: to + 3,
        halted: None,
        decisions: Vec::new(),
    }
}

async fn publish(feed: &dyn DecisionFeed, message: FeedMessage) {
    let published = timeout(PATIENCE, feed.publish(message)).await;
    published.expect("publishing is answered").expect("a message is published");
}

async fn follow(feed: &dyn DecisionFeed) -> mpsc::Receiver<FeedEvent> {
    let following = timeout(PATIENCE, feed.follow()).await;
    following.expect("following is answered").expect("one follows")
}

/// The next event that is a gap or of this epoch.
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
        FeedEvent::Gap => panic!("a follower that keeps up is told of a gap"),
    }
}

fn settled(offset: Offset, user: Option<&str>, answer: Answer) -> FeedDecision {
    FeedDecision {
        offset,
        campaign_id: CampaignId::parse("contract").expect("a valid id"),
        user_id: user.map(|user| UserId::parse(user).expect("a valid id")),
        answer,
    }
}

/// Every answer, a halt, and a message as large as one may be.
pub async fn every_kind_of_message_arrives_whole(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 101;
    let coupon = CouponFace {
        sequence: u32::MAX,
        code: "CODE-\"1\"".into(),
        issued_at: Timestamp(1_760_000_000_123),
    };
    let mut decisions = vec![
        settled(0, Some("u"), Answer::Issued { coupon: coupon.clone() }),
        settled(1, Some("u"), Answer::AlreadyIssued { coupon: coupon.clone() }),
        settled(2, None, Answer::Accepted),
    ];
    for reason in [Reason::Closed, Reason::Paused, Reason::NotOpenYet, Reason::SoldOut] {
        decisions.push(settled(3, Some("u"), Answer::Rejected { reason }));
    }
    let refusals = [
        Refusal::StaleVersion,
        Refusal::QuotaBelowIssued { issued: 7 },
        Refusal::Closed,
        Refusal::Invalid,
    ];
    for refusal in refusals {
        decisions.push(settled(u64::MAX, None, Answer::Refused { refusal }));
    }
    let many = settled(9, Some(&"u".repeat(64)), Answer::Issued { coupon });
    let messages = [
        FeedMessage { decisions, ..message(EPOCH, 0, 0, 5) },
        FeedMessage { halted: Some("the tail\nis \"gone\"".into()), ..message(EPOCH, 0, 5, 5) },
        FeedMessage { decisions: vec![many; MESSAGE_DECISIONS_MAX], ..message(EPOCH, 0, 5, 5_000) },
    ];
    let mut follower = follow(feed).await;
    for message in messages {
        publish(feed, message.clone()).await;
        assert_eq!(next_message(&mut follower, EPOCH).await, message);
    }
}

/// Whatever other partitions do.
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

/// From the moment on when it followed.
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

/// Messages that nobody follows are lost, and that is all.
pub async fn publishing_needs_no_follower(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 104;
    publish(feed, message(EPOCH, 0, 0, 1)).await;
    let mut follower = follow(feed).await;
    publish(feed, message(EPOCH, 0, 1, 2)).await;
    while next_message(&mut follower, EPOCH).await.from != 1 {}
}

/// Neither the publisher nor other followers.
pub async fn a_follower_that_left_disturbs_nobody(feed: &dyn DecisionFeed) {
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

/// At most [`FOLLOWER_MESSAGES_MAX`] messages wait for it; then comes the gap, then what is
/// published later. Neither the publisher nor other followers ever wait for it.
pub async fn a_slow_follower_is_bounded_and_told_of_the_gap(feed: &dyn DecisionFeed) {
    const EPOCH: u32 = 106;
    // Its messages may be on their way while it begins to read: then nothing is lost in a round.
    const ROUNDS: usize = 20;
    let mut slow = follow(feed).await;
    let mut quick = follow(feed).await;
    let mut published = 0;
    let mut expected = 0;
    let mut told = false;
    for _ in 0..ROUNDS {
        for _ in 0..FOLLOWER_MESSAGES_MAX + 500 {
            publish(feed, message(EPOCH, 2, published, published + 1)).await;
            assert_eq!(next_message(&mut quick, EPOCH).await.from, published);
            published += 1;
        }
        assert!(slow.len() <= FOLLOWER_MESSAGES_MAX + 1, "{} events wait", slow.len());
        while !told && expected < published {
            match event(&mut slow, EPOCH).await {
                FeedEvent::Message(message) => {
                    assert_eq!(message.from, expected, "a message is lost and no gap is told");
                    expected += 1;
                }
                FeedEvent::Gap => told = true,
            }
        }
        if told {
            break;
        }
    }
    assert!(told, "{published} messages waited for it");
    // It keeps up from here on, so what is published now arrives.
    publish(feed, message(EPOCH, 2, published, published + 1)).await;
    loop {
        if let FeedEvent::Message(message) = event(&mut slow, EPOCH).await
            && message.from == published
        {
            break;
        }
    }
}
