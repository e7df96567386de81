//! The request log of a world, and its coordinator, which says who owns which partition.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    act::LogDamage,
    appends::Appends,
    bounds::{Counters, Few},
    group,
    link::{Call, Failed, Link},
    reader::Reader,
    store::Rows,
    strange::Written,
    trouble::RETENTION_MS,
    unreadable::Unreadable,
    world::{Address, World},
};
use crate::{
    clock::ClockStep,
    domain::ids::{CampaignId, Offset, Partition, Timestamp},
    embedded::RecordClock,
    log::{
        AppendError, Appended, Bounds, Found, LocalLog, LogError, LogReader, Ownership, ReadError,
        RequestLog, memory::MemoryPartition, ownership::OwnedPartitions,
    },
    partition::expiry::{Expiring, expiring_before},
    wire::{LogRecord, NewRecord},
};

/// Changes of ownership that wait for a member: few partitions, rarely moved.
const CHANGES_MAX: usize = 1_024;

/// What a story shows of a record, in bytes.
const RECORD_CHARS_SAID: usize = 160;

/// A member of the group.
pub(super) struct Member {
    pub(super) address: Address,
    pub(super) changes: mpsc::Sender<Ownership>,
    pub(super) owned: OwnedPartitions,
    /// When it hears the last change so far: later ones come behind it.
    pub(super) told_us: u64,
}

/// What the brokers have.
#[derive(Default)]
pub(super) struct Brokers {
    pub(super) partitions: Vec<MemoryPartition>,
    /// Records that were trimmed after they were settled. The judge still has them.
    trimmed: BTreeMap<(Partition, Offset), LogRecord>,
    /// Progress that owners have reported: what they know to be durable.
    pub(super) reported: BTreeMap<Partition, Offset>,
    /// Readers that wait for a record.
    waiting: Vec<(Partition, Address, oneshot::Sender<()>)>,
    pub(super) members: BTreeMap<usize, Member>,
    pub(super) owners: BTreeMap<Partition, Address>,
    pub(super) dead_letters: BTreeMap<(Partition, Offset), String>,
    /// Requests that no node wrote, with their campaigns.
    pub(super) foreign: BTreeMap<(Partition, Offset), CampaignId>,
    /// Records that nobody may decide.
    pub(super) undecidable: BTreeSet<(Partition, Offset)>,
    /// Difference of record times, and until when.
    skew: (i64, u64),
    /// Of a node's own disk: no append lands until then.
    pub(super) full_until_us: u64,
    /// The first dead letter that is not its record, byte by byte.
    pub(super) wrong_letter: Option<String>,
    /// The first time that an owner let records be trimmed that are not settled.
    pub(super) wrong_trim: Option<String>,
    pub(super) counters: Counters,
    pub(super) appends: Appends,
    pub(super) unreadable: Unreadable,
    /// Readers that were opened.
    pub(super) opened: u64,
    /// When records landed that a node's own clock has timed.
    pub(super) timed_us: Vec<u64>,
    /// When the latest record landed.
    pub(super) appended_us: u64,
    /// Where a partition was cut off while nodes ran, and how many readers had been opened.
    cut: BTreeMap<Partition, (Offset, u64)>,
}

impl Brokers {
    pub(super) fn new(partitions: u32) -> Self {
        let partitions = (0..partitions).map(|_| MemoryPartition::starting_at(0)).collect();
        Self { partitions, ..Self::default() }
    }

    pub(super) fn end(&self, partition: Partition) -> Offset {
        self.partitions[partition as usize].high
    }

    /// Returns the time of the latest record.
    pub(super) fn last_time(&self) -> Option<Timestamp> {
        let last = |log: &MemoryPartition| log.records.values().next_back().map(|it| it.time);
        self.partitions.iter().filter_map(last).max()
    }

    /// Lets record times differ for a while.
    pub(super) fn skew(&mut self, ms: i64, until_us: u64) {
        self.skew = (ms, until_us);
    }

    pub(super) fn append(
        &mut self,
        world: &World,
        partition: Partition,
        written: Written,
    ) -> Appended {
        let skew = if world.now_us() < self.skew.1 { self.skew.0 } else { 0 };
        self.append_at(world, partition, written, Timestamp(world.now().0 + skew))
    }

    fn append_at(
        &mut self,
        world: &World,
        partition: Partition,
        written: Written,
        time: Timestamp,
    ) -> Appended {
        let now_us = world.now_us();
        let hole = u64::from(world.one_in(8));
        self.appended_us = now_us;
        let log = &mut self.partitions[partition as usize];
        let offset = log.high + hole;
        let Written { key, value, mac } = written;
        world.say(|| {
            let text = String::from_utf8_lossy(&value[..value.len().min(RECORD_CHARS_SAID)]);
            format!("record {offset} of partition {partition}: {text}")
        });
        log.high = offset + 1;
        log.records.insert(offset, LogRecord { offset, time, key, value, mac });
        for (of, reader, wake) in std::mem::take(&mut self.waiting) {
            match of == partition {
                true => world.after(100 + world.below(1_000), Some(reader), || {
                    let _gone = wake.send(());
                }),
                false => self.waiting.push((of, reader, wake)),
            }
        }
        Appended { offset, time }
    }

    pub(super) fn read(
        &mut self,
        partition: Partition,
        (reader, opened): (Address, u64),
        from: Offset,
        max: usize,
    ) -> Result<Next, ReadError> {
        // Brokers tell a reader that records which it had read are gone, whatever came after them.
        if let Some((end, before)) = self.cut.get(&partition)
            && opened <= *before
            && from > *end
        {
            let detail = format!("the log was cut off at {end}");
            return Err(ReadError::OutOfRange { wanted: from, detail });
        }
        let found = self.partitions[partition as usize].read(from, max)?;
        let found = self.unreadable.readable(partition, found)?;
        if !found.is_empty() {
            return Ok(Next::Records(found));
        }
        let (wake, woken) = oneshot::channel();
        self.waiting.push((partition, reader, wake));
        Ok(Next::Nothing(woken))
    }

    /// Forgets records below `end`, which the judge keeps.
    pub(super) fn trim(&mut self, partition: Partition, end: Offset) {
        let log = &mut self.partitions[partition as usize];
        let kept = log.records.split_off(&end);
        let trimmed = std::mem::replace(&mut log.records, kept);
        log.low = log.low.max(end);
        self.trimmed.extend(trimmed.into_iter().map(|(at, record)| ((partition, at), record)));
    }

    /// Returns the whole log, as if nothing had been trimmed.
    pub(super) fn whole(&self) -> Vec<MemoryPartition> {
        let mut partitions = self.partitions.clone();
        for ((partition, offset), record) in &self.trimmed {
            let log = &mut partitions[*partition as usize];
            log.low = 0;
            log.records.insert(*offset, record.clone());
        }
        partitions
    }

    /// Damages a partition whose records below `settled` are settled. Returns whether there were
    /// enough. Records of other kinds of damage are appended by the story.
    pub(super) fn damage(
        &mut self,
        damage: LogDamage,
        partition: Partition,
        settled: Offset,
    ) -> bool {
        let log = &mut self.partitions[partition as usize];
        let Some(last) = log.records.range(..settled).next_back().map(|(at, _)| *at) else {
            return false;
        };
        match damage {
            LogDamage::Truncated | LogDamage::CutOff => {
                log.records.split_off(&last);
                log.high = last;
                self.cut.insert(partition, (last, self.opened));
            }
            LogDamage::Recreated => *log = MemoryPartition::starting_at(0),
            LogDamage::Rewritten => {
                let value = log.records[&last].value.clone();
                let mut others = log.records.range(..last).map(|(_, record)| record);
                let Some(other) = others.rfind(|other| other.value != value).cloned() else {
                    return false;
                };
                log.records.insert(last, LogRecord { offset: last, ..other });
            }
            LogDamage::Trimmed => {
                let end = log.high.max(settled) + 1;
                (log.low, log.high) = (end, end);
                log.records.clear();
            }
            LogDamage::Newer | LogDamage::FarAhead => {}
        }
        true
    }

    fn join(&mut self, world: &World, address: Address) -> mpsc::Receiver<Ownership> {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        // What an earlier membership of the node was told is not known to this one.
        self.owners.retain(|_, owner| owner.node != address.node);
        let owned = OwnedPartitions::default();
        let member = Member { address, changes, owned, told_us: world.now_us() };
        self.members.insert(address.node, member);
        self.rebalance(world);
        receiver
    }
}

pub(super) enum Next {
    Records(Vec<LogRecord>),
    Nothing(oneshot::Receiver<()>),
}

/// The port to the log.
pub(super) struct WorldLog {
    pub(super) link: Link,
    pub(super) brokers: Arc<Mutex<Brokers>>,
    pub(super) rows: Arc<Rows>,
    /// Most records that an owner reads above durable progress: those that wait, its window and one
    /// batch.
    pub(super) window: usize,
    /// Nodes of this world may leave the group by themselves.
    pub(super) leaves: bool,
    /// Where log and store are on the node's own disk.
    pub(super) local: Option<Local>,
}

/// What a log on a node's own disk has beside its records.
#[derive(Clone)]
pub(super) struct Local {
    /// The rows that an append makes durable.
    pub(super) synced: Arc<Rows>,
    /// The clock by which records get their times.
    pub(super) clock: Arc<RecordClock>,
}

impl WorldLog {
    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        partition: Option<Partition>,
        land: impl Fn(&World, &mut Brokers) -> T + Send + Sync + 'static,
    ) -> Result<T, Failed> {
        let (brokers, world) = (self.brokers.clone(), self.link.world.clone());
        self.link.call(call, partition, move || land(&world, &mut brokers.lock())).await
    }

    fn check(&self, partition: Partition) -> Result<(), LogError> {
        match (partition as usize) < self.brokers.lock().partitions.len() {
            true => Ok(()),
            false => Err(LogError {
                operation: format!("accessing partition {partition}"),
                source: "the partition does not exist".into(),
            }),
        }
    }
}

pub(super) fn failed(operation: &str) -> impl FnOnce(Failed) -> LogError {
    let operation = operation.to_owned();
    move |failed| LogError { operation, source: failed.into() }
}

#[async_trait]
impl RequestLog for WorldLog {
    async fn append(
        &self,
        partition: Partition,
        record: NewRecord,
    ) -> Result<Appended, AppendError> {
        self.check(partition).map_err(|error| AppendError::Overloaded(error.to_string()))?;
        if self.link.world.now_us() < self.brokers.lock().full_until_us {
            return Err(AppendError::Overloaded("the disk is full".to_owned()));
        }
        let (written, local) = (Written::from(record), self.local.clone());
        let call = self.brokers.lock().appends.send();
        let append = move |world: &World, log: &mut Brokers| {
            let appended = match &local {
                None => log.append(world, partition, written.clone()),
                Some(Local { synced, clock }) => {
                    let time = clock.look()?;
                    synced.sync();
                    log.timed_us.push(world.now_us());
                    log.append_at(world, partition, written.clone(), time)
                }
            };
            log.appends.land(call, partition, appended.offset);
            Ok(appended)
        };
        let appended = self.call(Call::Append, Some(partition), append).await;
        let appended = appended.map_err(|failed| match failed {
            Failed::Refused => AppendError::Overloaded(failed.to_string()),
            Failed::NoAnswer => AppendError::Unknown(failed.to_string()),
        })?;
        appended.map_err(|step: ClockStep| AppendError::Unavailable(step.to_string()))
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let address = self.link.address;
        let joined = self.call(Call::Join, None, move |world, log| log.join(world, address)).await;
        if joined.is_ok() && self.leaves {
            group::watch(&self.brokers, &self.link.world, address);
        }
        joined.map_err(failed("joining"))
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.check(partition)?;
        let opened = self.call(Call::Open, Some(partition), |_, _| ()).await;
        opened.map_err(failed("opening"))?;
        let (link, brokers) = (self.link.clone(), self.brokers.clone());
        let (counters, opened) = {
            let mut brokers = brokers.lock();
            brokers.opened += 1;
            (brokers.counters.clone(), brokers.opened)
        };
        let _counted = counters.one_more(link.address, Few::Readers(partition));
        let (rows, window) = (self.rows.clone(), self.window);
        Ok(Box::new(Reader {
            link,
            brokers,
            rows,
            window,
            partition,
            opened,
            from,
            next: from,
            _counted,
        }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        self.check(partition)?;
        let bounds = self.call(Call::Bounds, Some(partition), move |_, log| {
            let MemoryPartition { low, high, .. } = log.partitions[partition as usize];
            Bounds { low, high }
        });
        bounds.await.map_err(failed("asking for the bounds"))
    }

    async fn report_progress(
        &self,
        partition: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        // INV-7: a log on the node's own disk may trim what lies below.
        let (end, settled) = (keep_from.unwrap_or(next).min(next), self.rows.settled(partition));
        let mut brokers = self.brokers.lock();
        let reported = brokers.reported.entry(partition).or_default();
        *reported = next.max(*reported);
        if self.local.is_some() && end > settled {
            let wrong = format!("partition {partition} may be trimmed to {end}, above {settled}");
            brokers.wrong_trim.get_or_insert(wrong);
        }
        drop(brokers);
        self.check(partition)
    }

    async fn expiring(
        &self,
        partition: Partition,
        now: Timestamp,
    ) -> Result<Option<Expiring>, LogError> {
        let before = expiring_before(now, Duration::from_millis(RETENTION_MS.unsigned_abs()));
        let below = self.call(Call::Bounds, Some(partition), move |_, log| {
            let log = &log.partitions[partition as usize];
            let young = log.records.values().find(|record| record.time >= before);
            young.map_or(log.high, |record| record.offset)
        });
        let below = below.await.map_err(failed("asking for records by time"))?;
        let remedy = "keep them for longer".to_owned();
        Ok(Some(Expiring { below, spares_waiting: self.local.is_some(), remedy }))
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let (key, reason) = ((partition, record.offset), reason.to_owned());
        let letter = record.clone();
        let keep = move |_: &World, log: &mut Brokers| {
            let record = log.partitions[partition as usize].records.get(&letter.offset);
            if record.is_some_and(|record| *record != letter) {
                let wrong = format!("the dead letter {letter:?} is {record:?}");
                log.wrong_letter.get_or_insert(wrong);
            }
            log.dead_letters.insert(key, reason.clone());
        };
        let kept = self.call(Call::DeadLetter, Some(partition), keep).await;
        kept.map_err(failed("writing a dead letter"))
    }
}

#[async_trait]
impl LocalLog for WorldLog {
    async fn refusal(&self) -> Option<String> {
        let is_full = self.link.world.now_us() < self.brokers.lock().full_until_us;
        let full = is_full.then(|| "the disk is full".to_owned());
        full.or_else(|| self.time().err().map(|step| step.to_string()))
    }

    fn time(&self) -> Result<Timestamp, ClockStep> {
        self.local.as_ref().map_or_else(|| Ok(self.link.world.now()), |local| local.clock.look())
    }

    async fn find(&self, partition: Partition, offset: Offset) -> Result<Found, LogError> {
        self.check(partition)?;
        let found = self.call(Call::Find, Some(partition), move |_, log| {
            let log = &log.partitions[partition as usize];
            match log.records.get(&offset) {
                Some(record) => Found::Record(record.clone()),
                None if offset < log.low => Found::Trimmed,
                None => Found::Nothing,
            }
        });
        found.await.map_err(failed("looking for a record"))
    }
}
