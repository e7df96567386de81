//! Lets acts happen: what clients and operators do at a node, and what goes wrong.

use super::{
    act::{Act, LogDamage},
    client::{campaign_id, user_id},
    damage::RowDamage,
    evidence::Damaged,
    half_dead::HalfDead,
    link::{Armed, Engine},
    node::Engines,
    probe::ArmedPanic,
    story::Story,
    strange,
    unreachable::Whose,
};
use crate::{
    actors::messages::SupervisorMessage,
    domain::ids::{Offset, Partition},
    partition::actor_view::Crashed,
};

/// How long the log keeps records, in milliseconds: longer than any write is on its way, as retention
/// is everywhere.
pub(super) const RETENTION_MS: i64 = 8_000;

/// How long a clock that was set is not believed at least, in milliseconds.
const DISBELIEVED_MS: u64 = 10_000;

impl Story {
    /// Lets an act happen.
    pub(super) async fn perform(&mut self, act: Act) {
        if act.is_daily() {
            let (Act::Ask { node, .. }
            | Act::Retry { node, .. }
            | Act::Find { node, .. }
            | Act::View { node, .. }
            | Act::List { node, .. }
            | Act::Browse { node }
            | Act::Define { node, .. }
            | Act::Amend { node, .. }
            | Act::Control { node, .. }) = act
            else {
                return;
            };
            self.world.say(|| act.to_string());
            self.world.count(act.kind());
            let clients = self.clients.clone();
            if let Some(node) = self.alive(node) {
                clients.act(node, &act);
            }
            return;
        }
        let kind = act.kind();
        let text = act.to_string();
        self.world.say(|| text);
        if self.trouble(act).await {
            self.world.count(kind);
        }
    }

    /// Lets something go wrong. Returns whether it struck: what waits for a call or a message is
    /// counted when it does.
    async fn trouble(&mut self, act: Act) -> bool {
        let world = self.world.clone();
        match act {
            Act::Strike { call, fate, node } => {
                world.arm(Armed { node, call, fate });
                return false;
            }
            Act::Message { node, delivery } => {
                world.arm_delivery(node, delivery);
                return false;
            }
            Act::Crash { node, down_ms } => {
                let is_up = self.nodes[node].is_some();
                self.kill(node, down_ms * 1_000).await;
                return is_up;
            }
            Act::Stop { node, down_ms } => {
                let is_up = self.nodes[node].is_some();
                self.stop(node, down_ms * 1_000).await;
                return is_up;
            }
            Act::Pause { node, ms, expelled } => return self.pause(node, ms * 1_000, expelled),
            Act::Move { partition, told_ms } => {
                let mut brokers = self.engines.brokers.lock();
                return brokers.move_partition(&world, partition, told_ms * 1_000);
            }
            Act::Cut { node, engine, partition, ms } => {
                self.cut(node, engine, partition, ms * 1_000);
            }
            Act::PanicAt { actor, after, node } => {
                world.arm_panic(ArmedPanic { node, actor, after });
                return false;
            }
            Act::CrashActor { campaign } => {
                let campaign = campaign_id(campaign);
                let crashed = Crashed::Coupon(campaign);
                self.tell_supervisors(|| SupervisorMessage::Crash(crashed.clone(), None));
            }
            Act::CrashConsumer { partition } => {
                let crashed = Crashed::Consumer(partition);
                self.tell_supervisors(|| SupervisorMessage::Crash(crashed.clone(), None));
            }
            Act::HalfDead { node, engine, partition } => {
                self.half_dead = Some(HalfDead { node, engine, partition });
                // It is counted when it is.
                return false;
            }
            Act::Unreachable { campaign, bucket, why, ms } => {
                let campaign = campaign_id(campaign);
                let whose = match bucket {
                    Some(bucket) => Whose::ByUser(campaign, bucket),
                    None => Whose::Campaign(campaign),
                };
                let rows = self.engines.rows.clone();
                rows.unreachable.set(whose.clone(), why);
                world.after(ms * 1_000, None, move || rows.unreachable.end(&whose));
            }
            Act::Curse { campaign, times } => self.engines.rows.curse(campaign_id(campaign), times),
            Act::Jump { node, ms } => {
                self.clients.evidence.lock().clock_changes(world.now_us());
                world.set_skew(node, ms);
            }
            Act::SetClock { ms, for_ms } => self.set_clock(ms, for_ms),
            other => return self.trouble_with_data(other).await,
        }
        true
    }

    /// Lets something go wrong with records and rows.
    async fn trouble_with_data(&mut self, act: Act) -> bool {
        let (world, now_us) = (self.world.clone(), self.world.now_us());
        let Engines { rows, brokers, codec, .. } = self.engines.clone();
        match act {
            Act::RecordTimes { skew_ms, ms } => {
                brokers.lock().skew(skew_ms, now_us + ms * 1_000);
                self.clients.evidence.lock().clocks_lie = true;
            }
            Act::Foreign { kind, campaign, user } => {
                let (campaign, user) = (campaign_id(campaign), user_id(user));
                return strange::append(&self.engines, &world, kind, &campaign, &user);
            }
            Act::Trim {} => return self.trim(),
            Act::Unreadable { partition, back, records, lasting, ms } => {
                self.spoil(partition, (back, records), lasting, ms);
            }
            Act::Lose { partition, records, why } => {
                brokers.lock().spoil(partition, (0, records), true);
                self.lost.insert(partition, why);
                // It is counted when they are given up.
                return false;
            }
            Act::Skip { partition, wrong } => return self.skip_now(partition, wrong),
            Act::SetBack { ms } => {
                let kept = rows.landed_before(now_us.saturating_sub(ms * 1_000));
                self.stop_all().await;
                rows.set_back(kept);
            }
            Act::PowerCut { torn } => {
                self.stop_all().await;
                let unsynced = rows.unsynced() as u64;
                let lost = if torn { world.below(unsynced + 1) } else { unsynced };
                rows.set_back(rows.landed() - lost as usize);
            }
            Act::DiskFull { ms } => brokers.lock().full_until_us = now_us + ms * 1_000,
            Act::DamageRows { damage, campaign, which } => {
                let campaign = campaign_id(campaign);
                let partition = codec.partition_of(&campaign);
                let done = rows.damage(damage, &campaign, partition, which);
                if done {
                    // A vanished hold of any campaign halts its whole partition.
                    let damaged = match damage {
                        RowDamage::HoldMissing => Some(Damaged::Partition(partition)),
                        RowDamage::HoldCountMissing => None,
                        _ => Some(Damaged::Campaign(campaign)),
                    };
                    self.clients.evidence.lock().damaged = damaged;
                }
                return done;
            }
            Act::DamageLog { damage, partition } => {
                return self.damage_log(damage, partition).await;
            }
            _ => return false,
        }
        true
    }

    /// Sets the clock of the only node, and sets it right after a while.
    fn set_clock(&mut self, ms: i64, for_ms: Option<u64>) {
        let (world, before) = (self.world.clone(), self.world.skew(0));
        world.set_skew(0, before + ms);
        let wrong_for_ms = for_ms.unwrap_or(u64::MAX).min(DISBELIEVED_MS);
        let from_us = world.now_us();
        self.clients.evidence.lock().clock_is_set(from_us, from_us + wrong_for_ms * 1_000);
        if let Some(for_ms) = for_ms {
            self.clock_right_us = self.clock_right_us.max(from_us + for_ms * 1_000);
            self.world.after(for_ms * 1_000, None, move || world.set_skew(0, before));
        }
    }

    /// Stops a node for a while. If it is long, the group may go on without it.
    fn pause(&self, number: usize, us: u64, expelled: bool) -> bool {
        let Some(node) = &self.nodes[number] else { return false };
        let (address, world) = (node.address, self.world.clone());
        world.pause(number);
        self.engines.rows.disturb(Some(number), world.now_us(), world.now_us() + us);
        if expelled {
            let (world, brokers) = (world.clone(), self.engines.brokers.clone());
            self.world.after(us / 2, None, move || brokers.lock().leave(&world, address));
        }
        self.world.after(us, None, move || world.go_on(number));
        true
    }

    fn cut(&self, node: Option<usize>, engine: Engine, partition: Option<Partition>, us: u64) {
        let nodes = node.map_or(0..self.nodes.len(), |node| node..node + 1);
        if engine == Engine::Feed {
            let now_us = self.world.now_us();
            self.engines.rows.disturb(None, now_us, now_us + us);
        }
        for node in nodes {
            let world = self.world.clone();
            world.cut(node, engine, partition);
            self.world.after(us, None, move || world.mend(node, engine, partition));
        }
    }

    pub(super) fn tell_supervisors(&self, message: impl Fn() -> SupervisorMessage) {
        for node in self.nodes.iter().flatten() {
            let (supervisor, message) = (node.core.supervisor.clone(), message());
            self.world.after(0, Some(node.address), move || drop(supervisor.cast(message)));
        }
    }

    /// The log forgets what is settled, as its owner knows, and older than any write that is still on its
    /// way. A retention of days is longer than an answer about progress takes.
    fn trim(&self) -> bool {
        let mut brokers = self.engines.brokers.lock();
        let mut done = false;
        // What a trimmed log goes by is durable, and no backup is older.
        self.engines.rows.sync();
        let damaged = self.clients.evidence.lock().damaged.clone();
        for partition in 0..self.engines.setup.partitions {
            if damaged == Some(Damaged::Partition(partition)) {
                continue;
            }
            let kept_from = self.world.now().0 - RETENTION_MS;
            let log = &brokers.partitions[partition as usize];
            let young = log.records.values().find(|record| record.time.0 > kept_from);
            let known = brokers.reported.get(&partition).copied().unwrap_or_default();
            let settled = self.engines.rows.settled(partition).min(known);
            let end = settled.min(young.map_or(Offset::MAX, |it| it.offset));
            done |= log.low < end;
            brokers.trim(partition, end);
        }
        done
    }

    async fn damage_log(&mut self, damage: LogDamage, partition: Partition) -> bool {
        if damage != LogDamage::CutOff {
            self.stop_all().await;
            // What is still on its way never lands: a later progress would hide the damage.
            self.engines.rows.set_back(usize::MAX);
        }
        let rows = self.engines.rows.store.rows.lock().progress.get(&partition).cloned();
        let next = rows.map_or(0, |progress| progress.next);
        let done = self.engines.brokers.lock().damage(damage, partition, next);
        if done {
            self.log_damage = Some(damage);
            strange::damage(&self.engines, &self.world, damage, partition);
            self.clients.evidence.lock().damaged = Some(Damaged::Partition(partition));
        }
        done
    }
}
