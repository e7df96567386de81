//! Power cuts. Writes covered by an fsync are on disk. Of later writes, any subset of sectors may
//! have reached it, and `high_water` may be any earlier version.

use std::{path::PathBuf, time::Instant};

use coupond::random::Random;

use super::{
    how_many,
    image::{Image, folder, judge_all, print_header},
    journal::{Batch, batches, high_water},
    judge::{Contents, Fate, read},
    origin::{Files, PARTITIONS, in_one_journal, with_tables},
    runtime,
};

/// Size of a sector, which a disk writes as a whole.
const SECTOR: usize = 512;

/// Zeros appended to a journal, which is preallocated.
const LAID_OUT_BYTES: usize = 8_192;

const JOURNAL: &str = "database/0.jnl";

/// A node's first folder with its parsed journal.
pub(crate) struct Run {
    pub(crate) files: Files,
    pub(crate) truth: Contents,
    journal: Vec<u8>,
    batches: Vec<Batch>,
    /// Indexes in `batches` of those that waited for fsync.
    durable: Vec<usize>,
}

impl Run {
    pub(crate) fn new(requests: usize) -> Self {
        let origin = folder();
        let files = runtime().block_on(in_one_journal(origin.path(), requests));
        let truth = read(origin.path(), None).unwrap();
        let journal = files[&PathBuf::from(JOURNAL)].clone();
        let batches = batches(&journal, PARTITIONS as usize);
        assert_eq!(batches.last().unwrap().end, journal.len(), "the journal is read whole");
        let ends: Vec<_> = truth.records.iter().map(|records| records.len() as u64).collect();
        assert_eq!(batches.last().unwrap().ends, ends, "every record is in the journal");
        let durable = (0..batches.len()).filter(|place| batches[*place].durable).collect();
        Self { files, truth, journal, batches, durable }
    }

    /// Returns the bytes that the power cut may lose: from the end of a batch on disk to the end of
    /// the next batch that waits for fsync.
    fn tail(&self, cut: usize) -> std::ops::Range<usize> {
        let end =
            self.durable.get(cut + 1).map_or(self.journal.len(), |next| self.batches[*next].end);
        self.batches[self.durable[cut]].end..end
    }

    fn image(&self, name: String, cut: usize, journal: Vec<u8>, draw: &mut Random) -> Image {
        // The current version, an earlier one, or one with a torn slot.
        let said = if draw.one_in(2) { cut } else { draw.index(cut + 1) };
        let mut high_water = high_water(&self.batches[self.durable[said]]);
        if draw.one_in(4) {
            let slot = draw.index(2) * 4_096;
            high_water[slot..slot + SECTOR].fill(0);
        }
        let changed =
            vec![(JOURNAL.into(), Some(journal)), ("high_water".into(), Some(high_water))];
        let acknowledged = self.batches[self.durable[cut]].ends.clone();
        Image { name, changed, acknowledged }
    }

    /// Cuts the tail at a byte, with or without the zeros of the preallocated journal behind it.
    fn cut(&self, cut: usize, at: usize) -> Image {
        let mut draw = Random((cut * 1_000_003 + at) as u64);
        let mut bytes = self.journal[..at].to_vec();
        let laid_out = draw.one_in(2);
        if laid_out {
            bytes.resize(at + LAID_OUT_BYTES, 0);
        }
        self.image(format!("cut {cut} at {at}, laid out: {laid_out}"), cut, bytes, &mut draw)
    }

    /// Replaces random sectors of the tail by zeros.
    pub(crate) fn torn(&self, number: usize) -> Image {
        let cut = Random(!(number as u64)).index(self.durable.len());
        let mut draw = Random(number as u64);
        let tail = self.tail(cut);
        let mut bytes = self.journal[..tail.end].to_vec();
        let kind = draw.index(4);
        let sectors = tail.start / SECTOR..tail.end.div_ceil(SECTOR);
        let lonely = sectors.start + draw.index(sectors.len());
        for sector in sectors {
            let arrived = match kind {
                0 => draw.one_in(2),
                1 => sector != lonely,
                2 => sector == lonely,
                _ => sector > lonely,
            };
            let lost = (sector * SECTOR).max(tail.start)..((sector + 1) * SECTOR).min(tail.end);
            if !arrived && draw.one_in(8) {
                bytes[lost].iter_mut().for_each(|byte| *byte = draw.next() as u8);
            } else if !arrived {
                bytes[lost].fill(0);
            }
        }
        bytes.resize(tail.end + LAID_OUT_BYTES, 0);
        self.image(format!("torn {number}, kind {kind}, cut {cut}"), cut, bytes, &mut draw)
    }

    /// As [`Self::torn`], with the start of the journal in one that was closed before.
    fn torn_after_another(&self, number: usize) -> Image {
        let cut = Random(!(number as u64)).index(self.durable.len());
        let mut draw = Random(number as u64 ^ 0x5555);
        let mut image = self.torn(number);
        let bytes = image.changed[0].1.take().unwrap();
        let split = self.batches[self.durable[draw.index(cut + 1)]].end;
        let mut closed = bytes[..split].to_vec();
        if draw.one_in(2) {
            closed.resize(split + LAID_OUT_BYTES, 0);
        }
        image.changed[0].1 = Some(closed);
        image.changed.push(("database/1.jnl".into(), Some(bytes[split..].to_vec())));
        image
    }
}

#[test]
fn a_power_cut_loses_no_acknowledged_record() {
    let run = Run::new(15);
    let cuts: Vec<_> =
        (0..run.durable.len()).flat_map(|cut| run.tail(cut).map(move |at| (cut, at))).collect();
    let count = how_many(300, cuts.len());
    print_header();
    let started = Instant::now();
    let tally = judge_all(&run.files, &run.truth, count, |number| {
        let (cut, at) = cuts[number * cuts.len() / count];
        run.cut(cut, at)
    });
    tally.print("journal cut at every byte", started);
    assert_eq!(tally.count(Fate::Shorter) + tally.count(Fate::Whole), count, "one did not start");
    let run = Run::new(how_many(60, 300));
    for (what, make, all) in [
        ("sectors torn and reordered", Run::torn as fn(&Run, usize) -> Image, 15_000),
        ("the same behind a closed journal", Run::torn_after_another, 5_000),
    ] {
        let count = how_many(150, all);
        let started = Instant::now();
        let tally = judge_all(&run.files, &run.truth, count, |number| make(&run, number));
        tally.print(what, started);
        let opened = tally.count(Fate::Shorter) + tally.count(Fate::Whole);
        assert_eq!(opened, count, "one did not start");
    }
}

/// The database writes a table, then the manifest that lists the table, then the name of that
/// manifest. Each is on disk before the next. The journal keeps everything until all three are
/// there.
#[test]
fn a_power_cut_during_a_flush_loses_nothing() {
    let origin = folder();
    let [before, after, _] = runtime().block_on(with_tables(origin.path(), how_many(40, 200)));
    let folder = folder();
    let as_it_is = |files: &Files| {
        let none = Image { name: String::new(), changed: Vec::new(), acknowledged: Vec::new() };
        super::image::lay_out(folder.path(), files, &none);
        read(folder.path(), None).unwrap()
    };
    let truth = as_it_is(&before);
    let acknowledged: Vec<_> = truth.records.iter().map(|records| records.len() as u64).collect();
    let new: Vec<_> = after
        .iter()
        .filter(|(path, _)| path.starts_with("database/keyspaces") && !before.contains_key(*path))
        .collect();
    assert!(new.len() >= 4, "two tables and two manifests, not {}", new.len());
    let count = how_many(60, 2_000);
    let started = Instant::now();
    let tally = judge_all(&before, &truth, count, |number| {
        let mut draw = Random(number as u64);
        let mut changed = Vec::new();
        for (path, bytes) in &new {
            let content = match draw.index(4) {
                0 => None,
                1 => Some(bytes[..draw.index(bytes.len())].to_vec()),
                2 => Some(vec![0; draw.index(bytes.len())]),
                _ => Some((*bytes).clone()),
            };
            changed.push(((*path).clone(), content));
        }
        Image { name: format!("flush {number}"), changed, acknowledged: acknowledged.clone() }
    });
    print_header();
    tally.print("tables half written", started);
    assert_eq!(tally.count(Fate::Whole), count, "one did not start");
}
