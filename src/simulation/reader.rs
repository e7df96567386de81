//! Reads the request log of a world.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    bounds::Counted,
    link::{Call, Link},
    log::{Brokers, Next, failed},
    store::Rows,
    world::heard,
};
use crate::{
    domain::ids::{Offset, Partition},
    log::{LogReader, ReadError},
    wire::LogRecord,
};

/// A reader of one life of a node.
pub(super) struct Reader {
    pub(super) link: Link,
    pub(super) brokers: Arc<Mutex<Brokers>>,
    pub(super) rows: Arc<Rows>,
    /// See [`super::log::WorldLog::window`].
    pub(super) window: usize,
    pub(super) partition: Partition,
    /// Number of readers that had been opened with it.
    pub(super) opened: u64,
    /// Where it was opened.
    pub(super) from: Offset,
    pub(super) next: Offset,
    pub(super) _counted: Counted,
}

impl Reader {
    /// INV-9: an owner keeps at least an entry of what it has read above durable progress.
    fn check_window(&self) {
        let brokers = self.brokers.lock();
        let log = &brokers.partitions[self.partition as usize];
        let kept = {
            let rows = self.rows.store.rows.lock();
            let progress = rows.progress.get(&self.partition);
            // A search for the end of what cannot be read keeps nothing below its start.
            let from = progress.map_or(0, |progress| progress.next).max(self.from).min(self.next);
            log.records.range(from..self.next).count()
        };
        if kept > self.window {
            let (node, partition) = (self.link.address.node, self.partition);
            brokers.counters.exceed(format!(
                "node {node} keeps {kept} records of partition {partition}, not {}",
                self.window
            ));
        }
    }
}

#[async_trait]
impl LogReader for Reader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        loop {
            let (brokers, reader) = (self.brokers.clone(), (self.link.address, self.opened));
            let (partition, next) = (self.partition, self.next);
            let read = move || brokers.lock().read(partition, reader, next, max);
            let found = self.link.call(Call::Read, Some(self.partition), read).await;
            match found.map_err(failed("reading"))?? {
                Next::Records(records) => {
                    self.next = records.last().map_or(self.next, |last| last.offset + 1);
                    self.check_window();
                    return Ok(records);
                }
                Next::Nothing(woken) => heard(woken).await,
            }
        }
    }
}
