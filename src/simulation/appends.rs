//! Appends: to Kafka, where they may land without anybody hearing of it, or to the embedded log,
//! where they land with the next sync.

use super::{
    act::Act,
    asking::Wanted,
    faults::Fault,
    log::Fresh,
    model::Meant,
    store::Undo,
    world::{EPOCH_MS, Ms, World},
};
use crate::domain::{
    ids::{Offset, Partition},
    record::Record,
};

/// When an append without an answer is given up.
const TIMEOUT_MS: Ms = 400;

/// Who waits for an append.
#[derive(Debug, Clone)]
pub(super) enum For {
    Ask(usize),
    Errand(usize),
    Nobody,
}

/// An append on its way.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) partition: Partition,
    pub(super) fresh: Fresh,
    node: usize,
    life: u32,
    whose: For,
    /// Watermark that was known when it was sent.
    known: Option<Offset>,
    is_heard: bool,
}

/// An append that landed, on its way back.
#[derive(Debug, Clone)]
pub(super) struct Confirmed {
    pub(super) node: usize,
    pub(super) life: u32,
    pub(super) whose: For,
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) time: i64,
    pub(super) known: Option<Offset>,
}

/// An embedded append that waits for the sync.
pub(super) type Unsynced = Confirmed;

impl World {
    /// The record as its producer encodes it.
    pub(super) fn fresh(&self, record: &Record, meant: Meant) -> (Partition, Fresh) {
        let (partition, new) = self.shared.codec.encode(record);
        let key = new.campaign.as_str().as_bytes().to_vec();
        (partition, Fresh { key, value: new.value, mac: Some(new.mac), meant })
    }

    /// A node appends. False when the log refuses it at once.
    pub(super) fn send_append(
        &mut self,
        node: usize,
        whose: For,
        (partition, fresh): (Partition, Fresh),
    ) -> bool {
        if self.now < self.trouble.disk_full_until {
            return false;
        }
        if self.hit(Fault::CrashBeforeAppend) {
            self.crash(node);
            return true;
        }
        let life = self.nodes[node].life;
        let known = self.nodes[node].api.follower.watermark(partition);
        let mut pending = Pending { partition, fresh, node, life, whose, known, is_heard: true };
        let away = self.now < self.trouble.log_away_until;
        if away || self.hit(Fault::AppendLost) {
            let confirmed = pending.confirmed(0, 0);
            self.after(TIMEOUT_MS, Act::AppendUnknown(Box::new(confirmed)));
            return true;
        }
        if self.hit(Fault::AppendLanded) {
            pending.is_heard = false;
            let confirmed = pending.confirmed(0, 0);
            self.after(TIMEOUT_MS, Act::AppendUnknown(Box::new(confirmed)));
        }
        let mut delay = self.network_ms();
        if self.hit(Fault::AppendSlow) {
            delay += self.random.between(50, TIMEOUT_MS);
        }
        if self.hit(Fault::AppendDuplicated) {
            let again = Pending { is_heard: false, ..pending.clone() };
            let later = delay + self.random.below(100);
            self.after(later, Act::Append(Box::new(again)));
        }
        self.after(delay, Act::Append(Box::new(pending)));
        true
    }

    /// A record arrives at the log.
    pub(super) fn append(&mut self, pending: Pending) {
        // Embedded, the log dies with the process that appends.
        if self.is_embedded && self.nodes[pending.node].life != pending.life {
            return;
        }
        let time = self.record_time(pending.node);
        let hole = if self.hit(Fault::OffsetHoles) { self.random.between(1, 3) } else { 0 };
        let partition = pending.partition;
        let (offset, time) = self.log.append(partition, time, hole, pending.fresh.clone());
        self.note(|| format!("record {partition}/{offset} is {:?}", pending.fresh.meant));
        let confirmed = pending.confirmed(offset, time);
        if let Some(journal) = &mut self.journal {
            journal.push(Undo::Append(partition));
            if self.unsynced.is_empty() {
                self.after(2, Act::Sync);
            }
            let heard = pending.is_heard;
            let whose = if heard { confirmed.whose.clone() } else { For::Nobody };
            self.unsynced.push_back(Unsynced { whose, ..confirmed });
            return;
        }
        self.wake_readers(partition);
        if pending.is_heard {
            if self.hit(Fault::CrashAfterAppend) {
                return self.crash(pending.node);
            }
            let delay = self.network_ms();
            self.after(delay, Act::Appended(Box::new(confirmed)));
        }
    }

    /// The embedded log syncs: what was appended is durable, and everything stored before it.
    pub(super) fn sync(&mut self) {
        if self.hit(Fault::FsyncFailed) {
            return self.crash(0);
        }
        if let Some(journal) = &mut self.journal {
            journal.clear();
        }
        self.log.sync();
        if self.hit(Fault::CrashAfterAppend) {
            return self.crash(0);
        }
        while let Some(confirmed) = self.unsynced.pop_front() {
            self.after(0, Act::Appended(Box::new(confirmed)));
        }
        for partition in 0..super::world::PARTITIONS {
            self.wake_readers(partition);
        }
    }

    pub(super) fn wake_readers(&mut self, partition: Partition) {
        for number in 0..self.owners.len() {
            if self.owners[number].as_ref().is_some_and(|owner| owner.partition == partition) {
                self.read_soon(number);
            }
        }
    }

    /// The node hears that its append is durable.
    pub(super) fn appended(&mut self, confirmed: Confirmed) {
        let Confirmed { node, life, partition, offset, known, .. } = confirmed;
        if self.nodes[node].life != life || !self.nodes[node].is_up {
            return;
        }
        let follower = &mut self.nodes[node].api.follower;
        let acknowledged = follower.acknowledged(partition, offset, known);
        if acknowledged.is_err() && !self.log.shelf(partition).is_damaged {
            return self.broken("INV-12", format!("an append at {partition}/{offset} was refused"));
        }
        match confirmed.whose {
            For::Ask(ask) => self.request_appended(ask, &confirmed, acknowledged.is_err()),
            For::Errand(errand) => self.change_appended(errand, &confirmed),
            For::Nobody => {}
        }
    }

    pub(super) fn append_unknown(&mut self, confirmed: &Confirmed) {
        if self.nodes[confirmed.node].life != confirmed.life {
            return;
        }
        if let For::Ask(ask) = confirmed.whose {
            self.reply(ask, super::client::Reply::Unknown);
        }
    }

    /// When the log says that it took a record now.
    fn record_time(&mut self, node: usize) -> i64 {
        let (skew, until) = self.trouble.time_skew;
        let skew = if self.now < until { skew } else { 0 };
        let clock = if self.is_embedded { self.wall(node) } else { EPOCH_MS + self.now as i64 };
        clock + skew
    }

    /// A record that no node wrote arrives at the log.
    pub(super) fn append_foreign(&mut self, partition: Partition, fresh: Fresh) {
        let pending = Pending {
            partition,
            fresh,
            node: 0,
            life: self.nodes[0].life,
            whose: For::Nobody,
            known: None,
            is_heard: false,
        };
        self.append(pending);
    }

    /// What an answer about this position must be of.
    pub(super) fn wanted_of(&self, ask: usize, confirmed: &Confirmed) -> Wanted {
        use crate::{
            answer::request_id::RequestContent,
            domain::ids::{Position, Timestamp},
        };
        let ask = &self.asks[ask];
        let user = self.shared.users[usize::from(ask.user)].clone();
        let key_digest =
            ask.idempotency_key().map(|key| self.shared.keys.key_digest(&user, &key).to_le_bytes());
        let content = RequestContent {
            position: Position {
                log_epoch: super::world::LOG_EPOCH,
                partition: confirmed.partition,
                offset: confirmed.offset,
            },
            time: Timestamp(confirmed.time),
            campaign: self.id(ask.campaign),
            user,
            key_digest,
        };
        Wanted::Request(std::rc::Rc::new(content))
    }
}

impl Pending {
    fn confirmed(&self, offset: Offset, time: i64) -> Confirmed {
        Confirmed {
            node: self.node,
            life: self.life,
            whose: self.whose.clone(),
            partition: self.partition,
            offset,
            time,
            known: self.known,
        }
    }
}
