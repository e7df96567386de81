//! Records of the log that cannot be read, for a while or until all faults end.

use super::{log::Brokers, story::Story};
use crate::{
    domain::ids::{Offset, Partition},
    log::{LogError, ReadError},
    wire::LogRecord,
};

/// Time in which a partition that cannot be read halts once nothing else is wrong, in microseconds.
const HALTED_WITHIN_US: u64 = 60_000_000;

/// How often it is looked whether it has halted, in microseconds.
const LOOK_US: u64 = 200_000;

/// Offsets of a partition that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    partition: Partition,
    from: Offset,
    to: Offset,
    /// Readers are told that waiting does not help.
    lasting: bool,
    /// It was spoiled before anybody could read it. Only that may be skipped: what was read may be
    /// decided and told, although nothing durable shows it.
    is_fresh: bool,
}

/// What cannot be read now.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    ranges: Vec<Range>,
    /// All ranges that there ever were.
    ever: Vec<Range>,
}

impl Unreadable {
    /// Returns the records in front of the first one that cannot be read.
    ///
    /// # Errors
    /// There is none in front of it.
    pub(super) fn readable(
        &self,
        partition: Partition,
        mut found: Vec<LogRecord>,
    ) -> Result<Vec<LogRecord>, ReadError> {
        let bad = |at: Offset| {
            let within = |range: &&Range| (range.from..range.to).contains(&at);
            self.ranges.iter().filter(|range| range.partition == partition).find(within)
        };
        let first = found.iter().enumerate().find_map(|(at, it)| Some((at, bad(it.offset)?)));
        let Some((at, range)) = first else { return Ok(found) };
        let wanted = found[at].offset;
        found.truncate(at);
        match (at, range.lasting) {
            (0, true) => {
                let detail = "no such codec".to_owned();
                Err(ReadError::Unreadable { wanted, detail, other_build: false })
            }
            (0, false) => {
                let operation = format!("reading {wanted}");
                Err(LogError { operation, source: "a bad disk".into() }.into())
            }
            _ => Ok(found),
        }
    }

    /// Whether nobody has read any of the records of the partition that cannot be read.
    pub(super) fn is_fresh(&self, partition: Partition) -> bool {
        let mut its = self.ranges.iter().filter(|range| range.partition == partition);
        its.all(|range| range.is_fresh)
    }

    /// Whether records of the partition could not be read at some time.
    pub(super) fn was_of(&self, partition: Partition) -> bool {
        self.ever.iter().any(|range| range.partition == partition)
    }

    /// Whether the record at a position could not be read at some time.
    pub(super) fn was_at(&self, partition: Partition, offset: Offset) -> bool {
        let is_at = |range: &Range| {
            range.partition == partition && (range.from..range.to).contains(&offset)
        };
        self.ever.iter().any(is_at)
    }
}

impl Brokers {
    /// Lets so many offsets be unreadable, from so many below the end on, for a while or until all
    /// faults end.
    pub(super) fn spoil(
        &mut self,
        partition: Partition,
        (back, records): (u64, u64),
        lasting: bool,
    ) {
        let from = self.end(partition).saturating_sub(back);
        let range = Range { partition, from, to: from + records, lasting, is_fresh: back == 0 };
        self.unreadable.ever.push(range.clone());
        self.unreadable.ranges.push(range);
    }

    /// Lets everything of a partition be readable again.
    pub(super) fn unspoil(&mut self, partition: Partition) {
        self.unreadable.ranges.retain(|range| range.partition != partition);
    }

    /// Returns the end of the first range at or above `from` that cannot be read; `from` if there is
    /// none.
    pub(super) fn end_of_unreadable(&self, partition: Partition, from: Offset) -> Offset {
        let Some(bad) = self.first_unreadable(partition, from) else { return from };
        let mut its = self.unreadable.ranges.iter().filter(|range| range.partition == partition);
        let range = its.find(|range| (range.from..range.to).contains(&bad));
        range.map_or(from, |range| range.to.min(self.end(partition)))
    }

    /// Whether an owner can know that it is a range that cannot be read, and not the partition as a whole:
    /// its reader is told so, or some other record can be read.
    pub(super) fn is_a_range(&self, partition: Partition) -> bool {
        let mut its = self.unreadable.ranges.iter().filter(|range| range.partition == partition);
        let is_bad = |at: &Offset| {
            let mut its = self.unreadable.ranges.iter().filter(|it| it.partition == partition);
            its.any(|range| (range.from..range.to).contains(at))
        };
        let records = &self.partitions[partition as usize].records;
        its.all(|range| range.lasting) || records.keys().any(|at| !is_bad(at))
    }

    /// Returns the first record at or above `from` that cannot be read.
    pub(super) fn first_unreadable(&self, partition: Partition, from: Offset) -> Option<Offset> {
        let log = &self.partitions[partition as usize];
        let bad = |at: &Offset| {
            let of = self.unreadable.ranges.iter().filter(|range| range.partition == partition);
            of.clone().any(|range| (range.from..range.to).contains(at))
        };
        log.records.range(from..).map(|(at, _)| *at).find(bad)
    }
}

impl Story {
    /// Makes a range of the log unreadable.
    pub(super) fn spoil(
        &self,
        partition: Partition,
        range: (u64, u64),
        lasting: bool,
        ms: Option<u64>,
    ) {
        self.engines.brokers.lock().spoil(partition, range, lasting);
        let brokers = self.engines.brokers.clone();
        if let Some(ms) = ms {
            self.world.after(ms * 1_000, None, move || brokers.lock().unspoil(partition));
        }
    }

    /// Waits until every partition that cannot be read has decided what is below, and says that it
    /// is halted. Then everything can be read again.
    pub(super) async fn heal_the_log(&mut self) {
        let until = self.world.now_us() + HALTED_WITHIN_US;
        while let Some(stalled) = self.stalled() {
            if self.world.now_us() > until {
                self.clients.evidence.lock().broken("INV-12", stalled);
                break;
            }
            self.pass(self.world.now_us() + LOOK_US).await;
        }
        self.give_up_what_is_lost().await;
        self.world.say(|| "the log can be read again".to_owned());
        for partition in 0..self.engines.setup.partitions {
            self.engines.brokers.lock().unspoil(partition);
        }
    }

    /// Says which partition cannot be read, and does not say so.
    fn stalled(&self) -> Option<String> {
        (0..self.engines.setup.partitions).find_map(|partition| {
            if self.clients.evidence.lock().is_damaged(partition) {
                return None;
            }
            let rows = self.engines.rows.store.rows.lock().progress.get(&partition).cloned();
            let next = rows.map_or(0, |progress| progress.next);
            let brokers = self.engines.brokers.lock();
            let bad = brokers.first_unreadable(partition, next)?;
            if self.is_skipped(partition, bad) {
                return None;
            }
            let below = brokers.partitions[partition as usize].records.range(next..bad).next();
            let is_said = below.is_none() && self.is_halted(partition);
            (!is_said).then(|| {
                format!("partition {partition} is at {next}, cannot be read at {bad}, and goes on")
            })
        })
    }
}
