//! Under which generation a partition consumer publishes.

use ractor::ActorRef;

use super::PartitionState;
use crate::{
    actors::{Environment, io, messages::PartitionMessage},
    domain::{
        halt::{Halt, Unread},
        ids::Partition,
    },
    partition::flow::News,
    wire::feed_message::{Condition, FeedMessage, QUARANTINED_NAMED_MAX, STUCK_AFTER_S, Sender},
};

impl PartitionState {
    /// Notes that a generation is claimed. Followers hear at once of a halt that they may have missed.
    pub(super) fn claimed(&mut self, generation: u64) {
        if self.generation < generation {
            self.generation = generation;
            self.publish_halted();
        }
    }

    pub(super) fn publish_halted(&mut self) {
        if let Some(halt) = &self.halted {
            let (halted, unread) = (Some(halt.to_string()), halt.unread);
            let (from, to, end, waiting, is_heartbeat) = (0, 0, 0, 0, false);
            let (decisions, campaigns) = (Vec::new(), Vec::new());
            let news = News { from, to, end, waiting, is_heartbeat, decisions, campaigns };
            self.publish(news, halted, unread);
        }
    }

    pub(super) fn publish(&mut self, news: News, halted: Option<String>, unread: Option<Unread>) {
        let (environment, partition) = (&self.arguments.environment, self.partition());
        let number = environment.shared.next_number(partition);
        let generation = match self.generation {
            // It halts because its register cannot be decoded. Others must hear of that.
            0 => environment.generations.highest(partition).max(1),
            claimed => claimed,
        };
        let sender = Sender { generation, owner: environment.process.clone(), number };
        let News { from, to, end, waiting, is_heartbeat, decisions, mut campaigns } = news;
        self.tallies.sum(generation, &mut campaigns);
        let message = FeedMessage {
            log_epoch: environment.log_epoch,
            partition,
            sender,
            from,
            to,
            end,
            waiting,
            condition: is_heartbeat.then(|| self.condition()).flatten(),
            halted,
            unread,
            decisions,
            campaigns,
        };
        if self.feed.try_send(message).is_err() {
            tracing::debug!(partition, "feed message dropped");
        }
    }

    /// Returns what operators must know of a partition that is not halted.
    fn condition(&self) -> Option<Condition> {
        let flow = &self.running.as_ref()?.flow;
        let age_s = self.watermark_age.ms(self.arguments.environment.now_ms()) / 1_000;
        let (quarantined, named) = flow.quarantined(QUARANTINED_NAMED_MAX);
        let waits_for = (age_s >= STUCK_AFTER_S).then(|| flow.waits_for());
        Some(Condition { age_s, waits_for, quarantined, named })
    }
}

/// Claims a generation if `own` is not the highest, and tells the consumer of it. Every look does so,
/// also while the partition is halted. If the other owner is the late one, and is soon told that it
/// owns nothing, nobody else would be heard.
///
/// # Errors
/// The register cannot be decoded.
pub(super) async fn claim(
    environment: &Environment,
    partition: Partition,
    own: u64,
    told: &ActorRef<PartitionMessage>,
) -> Result<(), Halt> {
    if let Some(generation) = io::claim(environment, partition, own).await? {
        let _ended = told.cast(PartitionMessage::Claimed(generation));
    }
    Ok(())
}
