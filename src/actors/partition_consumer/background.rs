//! What a partition consumer does beside its flow: looks at the age of records and at by-user rows.

use ractor::ActorRef;

use super::PartitionState;
use crate::{
    actors::{io, messages::PartitionMessage, scrub::Look, task::TaskGuard},
    telemetry::Chain,
};

impl PartitionState {
    /// Tells operators of undecided records that the log is about to remove, also of a halted partition.
    pub(super) fn look_at_age(&mut self, myself: &ActorRef<PartitionMessage>) {
        if self.age.as_ref().is_some_and(|age| !age.is_finished()) {
            return;
        }
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let told = myself.clone();
        self.age = Some(TaskGuard::spawn(myself, async move {
            match io::expiring(&environment, partition).await {
                Ok(warning) => drop(told.cast(PartitionMessage::Expiring(warning))),
                Err(error) => tracing::debug!(partition, error = %Chain(&*error), "age not known"),
            }
        }));
    }

    /// Looks at the by-user rows of one campaign at a time.
    pub(super) fn scrub(&mut self, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let Some(running) = &mut self.running else { return };
        if self.draining || running.scrub.as_ref().is_some_and(|scrub| !scrub.is_finished()) {
            return;
        }
        running.scrub = None;
        let Some((campaign, incarnation)) = running.flow.next_to_scrub() else { return };
        let Some(handle) = running.handles.get(&campaign) else { return };
        let consumer = myself.clone();
        let look = Look { environment, partition, campaign, incarnation, consumer };
        running.scrub = Some(handle.spawn(look.run()));
    }
}
