//! The request log of a world, and its coordinator, which says who owns which partition.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::{
    link::{Failed, Link},
    world::{Address, BEGIN_MS, Engine, World, heard},
};
use crate::{
    domain::ids::{Offset, Partition, Timestamp},
    log::{
        AppendError, Appended, Bounds, LogError, LogReader, Ownership, ReadError, RequestLog,
        memory::MemoryPartition,
    },
    wire::{LogRecord, NewRecord},
};

/// Changes of ownership that wait for a member: few partitions, rarely moved.
const CHANGES_MAX: usize = 1_024;

/// Time until the owner of a partition hears that it has changed, in microseconds.
const TOLD_AFTER_US: u64 = 200_000;

/// A member of the group.
struct Member {
    address: Address,
    changes: mpsc::Sender<Ownership>,
    /// When it hears the last change so far: later ones come behind it.
    told_us: u64,
}

/// What the brokers have.
#[derive(Default)]
pub(super) struct Brokers {
    pub(super) partitions: Vec<MemoryPartition>,
    /// Readers that wait for a record.
    waiting: Vec<(Partition, Address, oneshot::Sender<()>)>,
    members: BTreeMap<usize, Member>,
    owners: BTreeMap<Partition, Address>,
    pub(super) dead_letters: BTreeMap<(Partition, Offset), String>,
}

impl Brokers {
    pub(super) fn new(partitions: u32) -> Arc<Mutex<Self>> {
        let partitions = (0..partitions).map(|_| MemoryPartition::starting_at(0)).collect();
        Arc::new(Mutex::new(Self { partitions, ..Self::default() }))
    }

    pub(super) fn end(&self, partition: Partition) -> Offset {
        self.partitions[partition as usize].high
    }

    fn append(&mut self, world: &World, partition: Partition, record: NewRecord) -> Appended {
        let log = &mut self.partitions[partition as usize];
        let time = Timestamp(BEGIN_MS + (world.now_us() / 1_000) as i64);
        let hole = u64::from(world.one_in(8));
        let appended = log.append(log.high + hole, time, record);
        for (of, reader, wake) in std::mem::take(&mut self.waiting) {
            match of == partition {
                true => world.after(100 + world.below(1_000), Some(reader), || {
                    let _gone = wake.send(());
                }),
                false => self.waiting.push((of, reader, wake)),
            }
        }
        appended
    }

    fn read(&mut self, reader: &Reader, max: usize) -> Result<Found, ReadError> {
        let found = self.partitions[reader.partition as usize].read(reader.next, max)?;
        if !found.is_empty() {
            return Ok(Found::Records(found));
        }
        let (wake, woken) = oneshot::channel();
        self.waiting.push((reader.partition, reader.link.address, wake));
        Ok(Found::Nothing(woken))
    }

    fn join(&mut self, world: &World, address: Address) -> mpsc::Receiver<Ownership> {
        let (changes, receiver) = mpsc::channel(CHANGES_MAX);
        // What an earlier membership of the node was told is not known to this one.
        self.owners.retain(|_, owner| owner.node != address.node);
        let member = Member { address, changes, told_us: world.now_us() };
        self.members.insert(address.node, member);
        self.rebalance(world);
        receiver
    }

    /// Removes a member that is dead, or that was not heard of for too long.
    pub(super) fn leave(&mut self, world: &World, address: Address) {
        if self.members.get(&address.node).is_some_and(|member| member.address == address) {
            let member = self.members.remove(&address.node);
            // Closes the receiver of a live node. A dead node ignores it.
            world.after(TOLD_AFTER_US, Some(address), move || drop(member));
            self.rebalance(world);
        }
    }

    /// Gives each partition to a member, in turn.
    fn rebalance(&mut self, world: &World) {
        let members: Vec<_> = self.members.values().map(|member| member.address).collect();
        if members.is_empty() {
            self.owners.clear();
            return;
        }
        for partition in 0..self.partitions.len() as Partition {
            let owner = members[partition as usize % members.len()];
            self.give(world, partition, owner);
        }
    }

    /// Moves a partition to another member, if there is one.
    pub(super) fn move_partition(&mut self, world: &World, partition: Partition) {
        let others = self.members.values().map(|member| member.address);
        let owner = self.owners.get(&partition).copied();
        let others: Vec<_> = others.filter(|other| Some(*other) != owner).collect();
        if !others.is_empty() {
            self.give(world, partition, others[world.below(others.len() as u64) as usize]);
        }
    }

    fn give(&mut self, world: &World, partition: Partition, owner: Address) {
        let before = self.owners.insert(partition, owner);
        if before == Some(owner) {
            return;
        }
        // Each hears of it for itself: for a while both own the partition, or neither does.
        for (address, change) in before
            .map(|before| (before, Ownership::Revoked(partition)))
            .into_iter()
            .chain([(owner, Ownership::Assigned(partition))])
        {
            let Some(member) = self.members.get_mut(&address.node) else { continue };
            if member.address == address {
                let (changes, now) = (member.changes.clone(), world.now_us());
                member.told_us = member.told_us.max(now + world.below(TOLD_AFTER_US));
                world.at(member.told_us, Some(address), move || {
                    let _gone = changes.try_send(change);
                });
            }
        }
    }
}

enum Found {
    Records(Vec<LogRecord>),
    Nothing(oneshot::Receiver<()>),
}

/// The port to the log.
pub(super) struct WorldLog {
    pub(super) link: Link,
    pub(super) brokers: Arc<Mutex<Brokers>>,
}

impl WorldLog {
    async fn call<T: Send + 'static>(
        &self,
        name: &'static str,
        land: impl FnOnce(&World, &mut Brokers) -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let (brokers, world) = (self.brokers.clone(), self.link.world.clone());
        self.link.call(Engine::Log, name, move || land(&world, &mut brokers.lock())).await
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

fn failed(operation: &str) -> impl FnOnce(Failed) -> LogError {
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
        let appended =
            self.call("append", move |world, log| log.append(world, partition, record)).await;
        appended.map_err(|failed| match failed {
            Failed::Refused => AppendError::Overloaded(failed.to_string()),
            Failed::NoAnswer => AppendError::Unknown(failed.to_string()),
        })
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        let address = self.link.address;
        let joined = self.call("join", move |world, log| log.join(world, address)).await;
        joined.map_err(failed("joining"))
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.check(partition)?;
        self.call("open", |_, _| ()).await.map_err(failed("opening"))?;
        let (link, brokers) = (self.link.clone(), self.brokers.clone());
        Ok(Box::new(Reader { link, brokers, partition, next: from }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        self.check(partition)?;
        let bounds = self.call("bounds", move |_, log| {
            let MemoryPartition { low, high, .. } = log.partitions[partition as usize];
            Bounds { low, high }
        });
        bounds.await.map_err(failed("asking for the bounds"))
    }

    async fn report_progress(
        &self,
        partition: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        self.check(partition)
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        reason: &str,
    ) -> Result<(), LogError> {
        let (key, reason) = ((partition, record.offset), reason.to_owned());
        let kept = self.call("dead_letter", move |_, log| log.dead_letters.insert(key, reason));
        kept.await.map(drop).map_err(failed("writing a dead letter"))
    }
}

#[derive(Clone)]
struct Reader {
    link: Link,
    brokers: Arc<Mutex<Brokers>>,
    partition: Partition,
    next: Offset,
}

#[async_trait]
impl LogReader for Reader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        loop {
            let reader = self.clone();
            let read = move || {
                let brokers = reader.brokers.clone();
                let mut brokers = brokers.lock();
                brokers.read(&reader, max)
            };
            let found = self.link.call(Engine::Log, "read", read).await;
            match found.map_err(failed("reading"))?? {
                Found::Records(records) => {
                    self.next = records.last().map_or(self.next, |last| last.offset + 1);
                    return Ok(records);
                }
                Found::Nothing(woken) => heard(woken).await,
            }
        }
    }
}
