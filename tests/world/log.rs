//! A request log in memory, whose reads fail, hang and panic on demand.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use coupond::{
    domain::{
        ids::{Offset, Partition, Timestamp},
        record::{Record, Request},
    },
    log::{
        AppendError, Appended, Bounds, LogError, LogReader, Ownership, READERS_MAX, ReadError,
        RequestLog,
    },
    wire::{LogRecord, NewRecord, codec::Codec},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::{
    faults::{Faults, Injected},
    judge::{Expected, Truth},
    model::Verdict,
};

pub(crate) struct FakeLog {
    truth: Arc<Truth>,
    faults: Arc<Faults>,
    codec: Codec,
    /// Notified when a partition has more to read.
    moved: Vec<watch::Sender<()>>,
    /// Free readers of each partition. Opening a reader waits for a free one.
    readers: Vec<Arc<Semaphore>>,
    opened: AtomicU64,
}

fn failed(injected: Injected) -> LogError {
    LogError { operation: injected.0.to_owned(), source: Box::new(injected) }
}

impl FakeLog {
    pub(crate) fn new(truth: Arc<Truth>, faults: Arc<Faults>, codec: Codec) -> Self {
        let partitions = truth.facts().parts.len();
        let moved = (0..partitions).map(|_| watch::channel(()).0).collect();
        let readers = (0..partitions).map(|_| Arc::new(Semaphore::new(READERS_MAX))).collect();
        Self { truth, faults, codec, moved, readers, opened: AtomicU64::new(0) }
    }

    /// Counts the readers that were opened so far.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Appends `record` at `time`, after a gap of `hole` offsets, with its expected outcome.
    pub(crate) fn append_record(
        &self,
        record: &Record,
        time: Timestamp,
        hole: u64,
    ) -> (Partition, Offset) {
        let (_, NewRecord { value, mac, .. }) = self.codec.encode(record);
        self.append_bytes(record, (value, Some(mac)), time, hole)
    }

    /// Appends a request as a foreign producer may write it: padded with `bytes` spaces, without a
    /// MAC.
    pub(crate) fn append_foreign(&self, request: Request, bytes: usize, time: Timestamp) {
        let Request { campaign, user, .. } = &request;
        let value = format!(
            r#"{{"type": "request", "v": 1, "user_id": "{user}", "campaign_id": "{campaign}"{}}}"#,
            " ".repeat(bytes)
        );
        self.append_bytes(&Record::Request(request), (value.into_bytes(), None), time, 0);
    }

    fn append_bytes(
        &self,
        record: &Record,
        (value, mac): (Vec<u8>, Option<Vec<u8>>),
        time: Timestamp,
        hole: u64,
    ) -> (Partition, Offset) {
        let campaign = record.campaign();
        let partition = self.codec.partition_of(campaign);
        let mut facts = self.truth.facts();
        let offset = facts.parts[partition as usize].end() + hole;
        let verdict = facts.model.judge(offset, time, record);
        let user = match record {
            Record::Request(request) => Some(request.user.clone()),
            Record::Control(_) => None,
        };
        let expected = Expected { campaign: Some(campaign.clone()), user, verdict };
        let key = campaign.as_str().as_bytes().to_vec();
        let record = LogRecord { offset, time, key, value, mac };
        let part = &mut facts.parts[partition as usize];
        part.expected.insert(offset, expected);
        part.records.push(record);
        drop(facts);
        self.moved[partition as usize].send_replace(());
        (partition, offset)
    }

    /// Appends a record that cannot be decoded.
    pub(crate) fn append_undecodable(&self, partition: Partition, time: Timestamp) {
        let mut facts = self.truth.facts();
        let part = &mut facts.parts[partition as usize];
        let offset = part.end();
        let (key, value) = (b"spring".to_vec(), b"{".to_vec());
        part.records.push(LogRecord { offset, time, key, value, mac: None });
        let expected = Expected { campaign: None, user: None, verdict: Verdict::DeadLetter };
        part.expected.insert(offset, expected);
        drop(facts);
        self.moved[partition as usize].send_replace(());
    }

    /// Makes a partition report `end` as its end, or the real end again.
    pub(crate) fn cut(&self, partition: Partition, end: Option<Offset>) {
        self.truth.facts().parts[partition as usize].cut_at = end;
    }
}

#[async_trait]
impl RequestLog for FakeLog {
    async fn append(&self, _: Partition, _: NewRecord) -> Result<Appended, AppendError> {
        Err(AppendError::Overloaded("actors append nothing".to_owned()))
    }

    async fn join(&self) -> Result<mpsc::Receiver<Ownership>, LogError> {
        Ok(mpsc::channel(1).1)
    }

    async fn open(
        &self,
        partition: Partition,
        from: Offset,
    ) -> Result<Box<dyn LogReader>, LogError> {
        self.faults.point("log", "open", None).await.map_err(failed)?;
        let place = self.readers[partition as usize].clone().acquire_owned().await;
        self.opened.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(FakeReader {
            _place: place.expect("it is never closed"),
            truth: self.truth.clone(),
            faults: self.faults.clone(),
            moved: self.moved[partition as usize].subscribe(),
            partition,
            position: from,
        }))
    }

    async fn bounds(&self, partition: Partition) -> Result<Bounds, LogError> {
        self.faults.point("log", "bounds", None).await.map_err(failed)?;
        let high = {
            let facts = self.truth.facts();
            let part = &facts.parts[partition as usize];
            part.cut_at.unwrap_or(part.end())
        };
        self.faults.point("log", "bounds read", None).await.map_err(failed)?;
        Ok(Bounds { low: 0, high })
    }

    async fn report_progress(
        &self,
        _: Partition,
        _: Offset,
        _: Option<Offset>,
    ) -> Result<(), LogError> {
        self.faults.point("log", "settled", None).await.map_err(failed)
    }

    async fn dead_letter(
        &self,
        partition: Partition,
        record: &LogRecord,
        _: &str,
    ) -> Result<(), LogError> {
        self.faults.point("log", "dead letter", None).await.map_err(failed)?;
        {
            let mut facts = self.truth.facts();
            let part = &mut facts.parts[partition as usize];
            part.dead_letters.insert(record.offset);
            if !part.records.contains(record) {
                facts.violation(format!("the dead letter of {} has other bytes", record.offset));
            }
        }
        self.faults.point("log", "dead letter kept", None).await.map_err(failed)
    }
}

struct FakeReader {
    _place: OwnedSemaphorePermit,
    truth: Arc<Truth>,
    faults: Arc<Faults>,
    moved: watch::Receiver<()>,
    partition: Partition,
    position: Offset,
}

#[async_trait]
impl LogReader for FakeReader {
    async fn read(&mut self, max: usize) -> Result<Vec<LogRecord>, ReadError> {
        self.faults.point("log", "read", None).await.map_err(failed)?;
        let records = loop {
            self.moved.mark_unchanged();
            let records: Vec<_> = {
                let facts = self.truth.facts();
                let records = &facts.parts[self.partition as usize].records;
                let first = records.partition_point(|record| record.offset < self.position);
                records[first..].iter().take(max).cloned().collect()
            };
            if !records.is_empty() {
                break records;
            }
            // The log outlives its readers.
            let _ = self.moved.changed().await;
        };
        self.faults.point("log", "records read", None).await.map_err(failed)?;
        let position = records.last().map_or(self.position, |last| last.offset + 1);
        self.position = position;
        self.truth.facts().read_up_to(self.partition, position);
        Ok(records)
    }
}
