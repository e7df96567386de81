//! A log that cannot be read at some position.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::{
    domain::ids::{Offset, Partition},
    log::{
        AppendError, Appended, Bounds, LogError, LogReader, Ownership, ReadError, RequestLog,
        memory::MemoryLog,
    },
    wire::{LogRecord, NewRecord},
};

/// A log of which no record from an offset on can be read.
struct Spoiled {
    log: Arc<MemoryLog>,
    from: Offset,
    lasting: bool,
}

#[async_trait]
impl RequestLog for Spoiled {
    async fn append(&self, to: Partition, record: NewRecord) -> Result<Appended, AppendError> {
        self.log.append(to, record).await
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        self.log.join().await
    }

    async fn open(&self, of: Partition, from: Offset) -> Result<Box<dyn LogReader>, LogError> {
        let reader = self.log.open(of, from).await?;
        Ok(Box::new(SpoiledReader { reader, next: from, from: self.from, lasting: self.lasting }))
    }

    async fn bounds(&self, of: Partition) -> Result<Bounds, LogError> {
        self.log.bounds(of).await
    }

    async fn report_progress(
        &self,
        of: Partition,
        next: Offset,
        keep_from: Option<Offset>,
    ) -> Result<(), LogError> {
        self.log.report_progress(of, next, keep_from).await
    }

    async fn dead_letter(&self, of: Partition, it: &LogRecord, why: &str) -> Result<(), LogError> {
        self.log.dead_letter(of, it, why).await
    }
}

struct SpoiledReader {
    reader: Box<dyn LogReader>,
    next: Offset,
    from: Offset,
    lasting: bool,
}

#[async_trait]
impl LogReader for SpoiledReader {
    async fn read(&mut self, _: usize) -> Result<Vec<LogRecord>, ReadError> {
        if self.next < self.from {
            let records = self.reader.read(1).await?;
            self.next = records.last().map_or(self.next, |last| last.offset + 1);
            return Ok(records);
        }
        let (wanted, detail) = (self.next, "no such codec".to_owned());
        Err(match self.lasting {
            true => ReadError::Unreadable { wanted, detail, other_build: false },
            false => LogError { operation: "reading".to_owned(), source: detail.into() }.into(),
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_audited_and_named() {
    for lasting in [true, false] {
        let world = Good::Settled.make();
        let (log, store) = world.ports();
        let audited = Audited {
            log: Arc::new(Spoiled { log, from: 40, lasting }),
            store,
            layout: world.layout,
            keys: world.keys,
        };
        let report = audit(audited, None, Arc::new(Meter::default())).await.unwrap();
        assert_eq!(report.findings, []);
        let mut unread = report.unread;
        unread.sort();
        assert!(unread[0].starts_with("partition 0 from 40 on: "), "{unread:?}");
        assert!(unread.iter().all(|it| it.contains("no such codec")), "{unread:?}");
        let note = report.partitions[0].note.clone().unwrap_or_default();
        assert!(note.ends_with("which cannot be read"), "{note}");
        assert_eq!(report.partitions[0].end, 40, "the rest is left out");
    }
}
