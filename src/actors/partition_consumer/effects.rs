//! How a partition consumer carries out the effects of its flow.

use std::{sync::Arc, time::Duration};

use ractor::{ActorId, ActorRef};
use tokio::sync::Semaphore;

use super::{PartitionState, Running};
use crate::{
    actors::{
        Environment,
        dead_letters::Letter,
        io, lookup,
        messages::{CouponStart, PartitionMessage, SupervisorMessage},
        replay::Replay,
        task::TaskGuard,
    },
    domain::{
        decision::Decision,
        ids::{CampaignId, Offset, Partition},
        rows::{Hold, HoldState},
    },
    partition::flow::{Effect, Event},
    telemetry::metrics,
    wire::write_order,
};

impl PartitionState {
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>, myself: &ActorRef<PartitionMessage>) {
        let mut counts: Vec<(Decision, u64)> = Vec::new();
        for effect in effects {
            match effect {
                Effect::Count(decision) => count(&mut counts, decision),
                Effect::HoldCountLost { expected } => {
                    let partition = self.partition();
                    tracing::warn!(
                        partition,
                        expected,
                        "number of holds vanishes after each write"
                    );
                }
                Effect::Publish(news) => self.publish(news, None, None),
                Effect::Start { campaign, incarnation, from, delay_ms } => {
                    self.start(campaign, incarnation, from, delay_ms, myself);
                }
                Effect::Stop { campaign } => self.stop(&campaign, myself.get_id()),
                other => self.carry_out_running(other, myself),
            }
        }
        for (decision, many) in counts {
            metrics::decisions(&decision, many);
        }
    }

    fn start(
        &mut self,
        campaign: CampaignId,
        incarnation: u64,
        from: Offset,
        delay_ms: u64,
        myself: &ActorRef<PartitionMessage>,
    ) {
        self.forget(&campaign);
        self.tell_directory(&campaign);
        let (partition, consumer) = (self.partition(), myself.clone());
        let start = CouponStart { campaign, incarnation, from, partition, consumer };
        let delay = Duration::from_millis(delay_ms);
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::Start { start, delay });
    }

    fn stop(&mut self, campaign: &CampaignId, consumer: ActorId) {
        self.forget(campaign);
        // Under a hold, what was gathered is derived again.
        if let Some(running) = &mut self.running {
            running.by_user.remove(campaign);
        }
        self.tell_directory(campaign);
        let campaign = campaign.clone();
        let _ended = self.arguments.supervisor.cast(SupervisorMessage::Stop { campaign, consumer });
    }

    fn forget(&mut self, campaign: &CampaignId) {
        if let Some(running) = &mut self.running {
            running.handles.remove(campaign);
        }
    }

    fn carry_out_running(&mut self, effect: Effect, myself: &ActorRef<PartitionMessage>) {
        let Some(running) = &mut self.running else { return };
        match effect {
            Effect::Send { campaign, incarnation, batch } => {
                if let Some(handle) = running.handles.get_mut(&campaign)
                    && handle.incarnation == incarnation
                {
                    handle.send(batch);
                }
            }
            Effect::Credit(records) => running.credit.add_permits(records),
            Effect::DeadLetter { of, record } => {
                let environment = &self.arguments.environment;
                let reason = environment.decode_step(self.arguments.partition).why_dead(&record);
                let _ended = running.letters.send(Letter { record, reason, of });
            }
            other => self.carry_out_aside(other, myself),
        }
    }

    /// Carries out what concerns records that are set aside, or read again.
    fn carry_out_aside(&mut self, effect: Effect, myself: &ActorRef<PartitionMessage>) {
        let (environment, partition) = (self.arguments.environment.clone(), self.partition());
        let Some(running) = &mut self.running else { return };
        match effect {
            Effect::LookUp { below, wanted } => running.write(myself, async move {
                let known = lookup::known(&environment, partition, wanted).await;
                Some(Event::LookedUp { below, known })
            }),
            Effect::BeginAgain { of, run, from } => {
                let chunks = Arc::new(Semaphore::new(1));
                let replay = Replay {
                    environment,
                    partition,
                    of,
                    run,
                    from,
                    passing: running.passing.clone(),
                    chunks: chunks.clone(),
                    consumer: myself.clone(),
                };
                let task = TaskGuard::spawn(myself, replay.run());
                running.again.insert(of, (chunks, task));
            }
            Effect::GoOnAgain { of } => {
                if let Some((chunks, _)) = running.again.get(&of) {
                    chunks.add_permits(1);
                }
            }
            Effect::EndAgain { of } => drop(running.again.remove(&of)),
            other => running.carry_out_write(other, (environment, partition), myself),
        }
    }
}

/// Reports progress to the log. Not retried: it serves lag tools and trimming, and is repeated every
/// second.
async fn report_progress(
    environment: Arc<Environment>,
    partition: Partition,
    next: Offset,
    keep_from: Option<Offset>,
) -> Option<Event> {
    if let Err(error) = environment.log.report_progress(partition, next, keep_from).await {
        tracing::debug!(partition, %error, "progress was not reported to the log");
    }
    None
}

/// Logs the next state of a hold.
fn log_hold(hold: &Hold) {
    let Hold { campaign, from, number, until, .. } = hold;
    match hold.state {
        HoldState::Open => {
            let (reason, detail) = hold.reason_parts();
            tracing::error!(%campaign, from, number, reason, detail, "campaign held");
        }
        HoldState::Released => tracing::info!(%campaign, from, number, "hold released"),
        HoldState::Closed => tracing::info!(%campaign, from, number, until, "hold closed"),
    }
}

impl Running {
    /// Carries out an effect that writes rows, or tells the log of progress.
    fn carry_out_write(
        &mut self,
        effect: Effect,
        (environment, partition): (Arc<Environment>, Partition),
        myself: &ActorRef<PartitionMessage>,
    ) {
        match effect {
            Effect::WriteHold { hold, mark } => {
                log_hold(&hold);
                self.write(myself, async move {
                    let groups = write_order::of_hold(hold.clone(), mark);
                    io::write(&environment, partition, &groups).await;
                    Some(Event::HoldWritten(hold))
                });
            }
            Effect::WriteMark { mark, version } => self.write(myself, async move {
                io::write(&environment, partition, &write_order::of_mark(mark)).await;
                Some(Event::Marked(version))
            }),
            Effect::WriteByUser { campaign, number, coupons } => {
                let of = campaign.clone();
                let write = spawn(myself, async move {
                    io::write(&environment, partition, &write_order::of_by_user(coupons)).await;
                    Some(Event::ByUserStored { campaign, number })
                });
                self.by_user.insert(of, write);
            }
            Effect::WriteMarks(marks) => {
                let told = myself.clone();
                self.write(myself, async move {
                    io::write_marks(&environment, partition, marks, |stored| {
                        let stored = PartitionMessage::Event(Event::MarksStored(stored));
                        let _ended = told.cast(stored);
                    })
                    .await;
                    None
                });
            }
            Effect::Persist { holds, holds_ever, progress } => {
                self.write(myself, async move {
                    let next = progress.next;
                    let groups = write_order::of_progress(holds, holds_ever, progress);
                    io::write(&environment, partition, &groups).await;
                    Some(Event::Persisted(next))
                });
            }
            Effect::ReportProgress { next, keep_from } => {
                let report = report_progress(environment, partition, next, keep_from);
                self.write(myself, report);
            }
            Effect::Count(_)
            | Effect::HoldCountLost { .. }
            | Effect::Publish(_)
            | Effect::Start { .. }
            | Effect::Stop { .. }
            | Effect::Send { .. }
            | Effect::Credit(_)
            | Effect::DeadLetter { .. }
            | Effect::LookUp { .. }
            | Effect::BeginAgain { .. }
            | Effect::GoOnAgain { .. }
            | Effect::EndAgain { .. } => {}
        }
    }

    /// Spawns a write that goes on whatever becomes of its campaign.
    fn write(
        &mut self,
        consumer: &ActorRef<PartitionMessage>,
        write: impl Future<Output = Option<Event>> + Send + 'static,
    ) {
        self.writes.push(spawn(consumer, write));
    }
}

/// Spawns a write, and sends its event to the consumer when it is done.
fn spawn(
    consumer: &ActorRef<PartitionMessage>,
    write: impl Future<Output = Option<Event>> + Send + 'static,
) -> TaskGuard {
    let told = consumer.clone();
    TaskGuard::spawn(consumer, async move {
        if let Some(event) = write.await {
            let _ended = told.cast(PartitionMessage::Event(event));
        }
    })
}

/// Adds a decision to the count of its status and reason, so that each metric is touched once.
fn count(counts: &mut Vec<(Decision, u64)>, decision: Decision) {
    let same = |known: &Decision| match (known, &decision) {
        (Decision::Rejected(one), Decision::Rejected(other)) => one == other,
        (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
    };
    match counts.iter_mut().find(|(known, _)| same(known)) {
        Some((_, many)) => *many += 1,
        None => counts.push((decision, 1)),
    }
}
