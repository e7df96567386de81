//! Stories of a node that probes, beside others.

use super::*;

/// A node, its time, and the others that it sees.
struct Stage {
    node: Liveness,
    now_ms: u64,
    stored: BTreeMap<Partition, u64>,
    /// The others: their rows, and whether they still say anything.
    others: Vec<(NodeRow, bool)>,
}

/// What a probe finds.
#[derive(Clone, Copy)]
struct Found {
    store: bool,
    reader: bool,
    worker: bool,
    /// How long it takes.
    took_ms: u64,
}

const GOOD: Found = Found { store: true, reader: true, worker: true, took_ms: 20 };
const NO_STORE: Found = Found { store: false, took_ms: PROBE_MAX_MS, ..GOOD };
const NO_READER: Found = Found { reader: false, took_ms: PROBE_MAX_MS, ..GOOD };
const NO_WORKER: Found = Found { worker: false, took_ms: PROBE_MAX_MS, ..GOOD };
const NOTHING: Found = Found { store: false, reader: false, ..NO_WORKER };

/// Where the node's reader and worker are.
const HERE: Hang = Hang { partition: 3, from: 40, to: 50 };

fn row(name: u64, is_member: bool, can_decide: bool) -> NodeRow {
    let (name, number) = (ProcessName::of(name), 100);
    NodeRow { name, number, is_member, can_decide, hangs: Vec::new() }
}

impl Stage {
    fn new(others: impl IntoIterator<Item = NodeRow>) -> Self {
        let node = Liveness::new(ProcessName::of(1));
        let others = others.into_iter().map(|row| (row, true)).collect();
        let mut stage = Self { node, now_ms: 1_000, stored: BTreeMap::new(), others };
        for _ in 0..3 {
            assert_eq!(stage.probe(GOOD), Verdict::Stay);
        }
        stage
    }

    /// A member beside a sound one.
    fn beside_one() -> Self {
        Self::new([row(2, true, true)])
    }

    /// The others say what they say, over the feed and in their rows.
    fn others_say(&mut self, is_read: bool) {
        for (row, goes_on) in &mut self.others {
            row.number += u64::from(*goes_on);
            self.node.step(self.now_ms, Event::Said(row.clone()));
        }
        if is_read {
            let rows = self.others.iter().map(|(row, _)| row.clone());
            let rows = rows.chain([self.node.next_row()]).collect();
            assert_eq!(self.node.step(self.now_ms, Event::Rows(rows)), Verdict::Stay);
        }
    }

    fn probe(&mut self, found: Found) -> Verdict {
        self.probe_at(found, HERE)
    }

    fn probe_at(&mut self, found: Found, place: Hang) -> Verdict {
        let (began_ms, stored, store) = (self.now_ms, self.stored.clone(), found.store);
        self.now_ms += found.took_ms;
        self.others_say(store);
        let tried = |part, answered| Tried { part, place: Some(place), answered };
        let tried = vec![tried(Part::Reader, found.reader), tried(Part::Worker, found.worker)];
        let probed = Probed { began_ms, store, tried, stored };
        let verdict = self.node.step(self.now_ms, Event::Probed(probed));
        self.now_ms = self.now_ms.max(began_ms + PROBE_EVERY_MS);
        verdict
    }

    /// Probes until the verdict is another than to stay. Returns it, and how long that took.
    fn until(&mut self, found: Found, most_ms: u64) -> Option<(Verdict, u64)> {
        let began_ms = self.now_ms;
        while self.now_ms - began_ms <= most_ms {
            match self.probe(found) {
                Verdict::Stay => {}
                verdict => return Some((verdict, self.now_ms - began_ms)),
            }
        }
        None
    }

    fn other_decides() -> Verdict {
        Verdict::Leave(Why::AnotherDecides(ProcessName::of(2)))
    }
}

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_node_without_its_store_leaves_to_another() {
    for found in [NO_STORE, NO_READER, NO_WORKER] {
        let mut stage = Stage::beside_one();
        let (verdict, took_ms) = stage.until(found, HOUR_MS).unwrap();
        assert_eq!(verdict, Stage::other_decides());
        assert_eq!(took_ms, FAILING_MS, "five probes of 3 s");
        assert!(!stage.node.next_row().is_member && !stage.node.next_row().can_decide);
    }
}

#[test]
fn failures_that_are_quick_take_as_long() {
    let mut stage = Stage::beside_one();
    let quick = Found { took_ms: 5, ..NO_STORE };
    let (verdict, took_ms) = stage.until(quick, HOUR_MS).unwrap();
    assert_eq!((verdict, took_ms), (Stage::other_decides(), 18_000));
}

#[test]
fn five_failed_probes_running_are_needed() {
    let mut stage = Stage::beside_one();
    for _ in 0..100 {
        for _ in 1..FAILED_PROBES_MIN {
            assert_eq!(stage.probe(NO_STORE), Verdict::Stay);
        }
        assert_eq!(stage.probe(GOOD), Verdict::Stay);
    }
    // A process that was paused.
    let paused = Found { took_ms: HOUR_MS, ..NO_STORE };
    assert_eq!(stage.probe(paused), Verdict::Stay);
}

#[test]
fn a_node_that_stores_does_not_leave() {
    let mut stage = Stage::beside_one();
    for number in 0..400 {
        *stage.stored.entry(HERE.partition).or_default() += u64::from(number % 4 == 0);
        assert_eq!(stage.probe(NO_READER), Verdict::Stay);
    }
    assert_eq!(stage.node.standing(stage.now_ms), Standing::Failing, "and is not ready");
}

/// Cut off from one broker, a node stores what it reads from the others.
#[test]
fn others_do_not_hide_a_partition_that_hangs() {
    for found in [NO_READER, NO_WORKER] {
        let mut stage = Stage::beside_one();
        let mut verdict = Verdict::Stay;
        while verdict == Verdict::Stay && stage.now_ms < HOUR_MS {
            *stage.stored.entry(HERE.partition + 1).or_default() += 1_u64;
            verdict = stage.probe(found);
        }
        assert_eq!(verdict, Stage::other_decides());
    }
}

#[test]
fn nobody_leaves_while_the_store_is_away_for_all() {
    let mut stage = Stage::beside_one();
    stage.others[0].0.can_decide = false;
    assert_eq!(stage.until(NO_STORE, HOUR_MS), None);
    assert_eq!(stage.node.standing(stage.now_ms), Standing::FailingLikeAll);
    // Back at the other first: what was under way here fails all the same.
    stage.others[0].0.can_decide = true;
    assert_eq!(stage.probe(NO_STORE), Verdict::Stay);
    assert_eq!(stage.probe(GOOD), Verdict::Stay);
}

#[test]
fn a_node_without_store_and_reader_leaves_to_nobody() {
    let mut stage = Stage::new([]);
    let nothing = Verdict::Leave(Why::NothingAnswers);
    assert_eq!(stage.until(NOTHING, HOUR_MS), Some((nothing, FAILING_MS)));
    // One of them alone is no reason.
    assert_eq!(Stage::new([]).until(NO_STORE, HOUR_MS), None);
    assert_eq!(Stage::new([]).until(NO_READER, HOUR_MS), None);
    // Nor is one after the other.
    let mut stage = Stage::new([]);
    for _ in 0..100 {
        for found in [NO_STORE, NO_READER, NOTHING, NOTHING, NOTHING, NOTHING] {
            assert_eq!(stage.probe(found), Verdict::Stay);
        }
    }
}

#[test]
fn another_that_is_no_member_is_no_reason_to_leave() {
    let mut stage = Stage::new([row(2, false, true), row(3, true, false)]);
    assert_eq!(stage.until(NO_STORE, HOUR_MS), None);
    stage.others[0].0.is_member = true;
    assert_eq!(stage.until(NO_STORE, HOUR_MS).unwrap().0, Stage::other_decides());
}

#[test]
fn rows_that_do_not_rise_are_no_reason_to_leave() {
    // Of a process that is dead, of one that never was, of the future.
    let mut dead = vec![row(2, true, true), row(u64::MAX, true, true), row(4, true, true)];
    dead[2].number = u64::MAX - 1;
    let mut stage = Stage::new([]);
    stage.others = dead.into_iter().map(|row| (row, false)).collect();
    for found in [NO_READER, NO_STORE] {
        assert_eq!(stage.until(found, HOUR_MS), None);
    }
    // One late write, or one message that is sent again, is no sign of life.
    stage.others[0].1 = true;
    stage.others_say(true);
    stage.others[0].1 = false;
    for found in [NO_READER, NO_STORE] {
        assert_eq!(stage.until(found, HOUR_MS), None);
    }
}

#[test]
fn a_number_that_rose_long_ago_is_no_reason_to_leave() {
    let mut stage = Stage::beside_one();
    stage.others[0].1 = false;
    assert_eq!(stage.until(NO_STORE, HOUR_MS), None);
    // An old message, which comes again and again.
    stage.others[0].0.number -= 1;
    assert_eq!(stage.until(NO_STORE, HOUR_MS), None);
    stage.others[0].1 = true;
    assert_eq!(stage.until(NO_STORE, HOUR_MS).unwrap().0, Stage::other_decides());
}

#[test]
fn rows_count_and_the_feed_only_without_them() {
    let mut stage = Stage::beside_one();
    // The feed says that the other decides. Its row stands still.
    stage.others[0].1 = false;
    let mut number = stage.others[0].0.number;
    let mut say_and_probe = |found| {
        number += 1;
        let row = NodeRow { number, ..row(2, true, true) };
        stage.node.step(stage.now_ms, Event::Said(row));
        stage.probe(found)
    };
    for _ in 0..100 {
        assert_eq!(say_and_probe(Found { took_ms: 20, ..NO_READER }), Verdict::Stay);
    }
    assert_eq!(say_and_probe(NO_STORE), Stage::other_decides());
}

#[test]
fn a_node_comes_back_at_once_where_nobody_decides() {
    let mut stage = Stage::new([]);
    stage.until(NOTHING, HOUR_MS).unwrap();
    assert_eq!(stage.until(NOTHING, HOUR_MS), None, "not before its probes are good");
    assert_eq!(stage.until(GOOD, HOUR_MS), Some((Verdict::Join, 3 * PROBE_EVERY_MS)));
    assert!(stage.node.next_row().is_member);
    // The other has stopped deciding meanwhile.
    let mut stage = Stage::beside_one();
    stage.until(NO_STORE, HOUR_MS).unwrap();
    stage.others[0].0.can_decide = false;
    assert_eq!(stage.probe(GOOD), Verdict::Stay);
    assert_eq!(stage.probe(NO_READER), Verdict::Stay);
    assert_eq!(stage.until(GOOD, HOUR_MS), Some((Verdict::Join, 3 * PROBE_EVERY_MS)));
}

#[test]
fn each_way_back_takes_twice_as_long() {
    let mut stage = Stage::beside_one();
    for expected_ms in [60_000, 120_000, 240_000, 480_000, 600_000, 600_000] {
        stage.until(NO_STORE, HOUR_MS).unwrap();
        let (verdict, took_ms) = stage.until(GOOD, HOUR_MS).unwrap();
        assert_eq!(verdict, Verdict::Join);
        assert!((expected_ms..=expected_ms + PROBE_EVERY_MS).contains(&took_ms), "{took_ms}");
    }
    assert_eq!(stage.until(GOOD, HOUR_MS), None);
    stage.until(NO_STORE, HOUR_MS).unwrap();
    let (_, took_ms) = stage.until(GOOD, HOUR_MS).unwrap();
    assert!(took_ms <= AWAY_FIRST_MS + PROBE_EVERY_MS, "{took_ms}: an hour was without");
}

#[test]
fn good_probes_must_follow_each_other() {
    let mut stage = Stage::beside_one();
    stage.until(NO_STORE, HOUR_MS).unwrap();
    stage.now_ms += AWAY_FIRST_MS;
    for _ in 0..100 {
        for found in [GOOD, GOOD, NO_READER] {
            assert_eq!(stage.probe(found), Verdict::Stay);
        }
    }
}

#[test]
fn a_poisoned_record_moves_nobody_twice() {
    let hung = Hang { partition: 3, from: 38, to: 45 };
    for found in [NO_READER, NO_WORKER] {
        let mut stage = Stage::new([NodeRow { hangs: vec![hung], ..row(2, true, true) }]);
        stage.node = Liveness::new(ProcessName::of(1));
        assert_eq!(stage.until(found, HOUR_MS), None);
        assert!(stage.node.can_decide(), "others may leave to it");
        // Behind it, or in another partition, it is another record.
        for place in [Hang { from: 46, ..HERE }, Hang { partition: 4, ..HERE }] {
            let mut left = 0;
            for _ in 0..FAILED_PROBES_MIN {
                left += u32::from(stage.probe_at(found, place) != Verdict::Stay);
            }
            assert_eq!(left, 1, "{place:?}");
            stage.node = Liveness::new(ProcessName::of(1));
            assert_eq!(stage.until(found, HOUR_MS), None);
        }
        // The store is another matter.
        let both = Found { store: false, ..found };
        assert_eq!(stage.until(both, HOUR_MS).unwrap().0, Stage::other_decides());
    }
}

#[test]
fn a_node_says_where_it_hung() {
    let mut stage = Stage::beside_one();
    stage.until(NO_READER, HOUR_MS).unwrap();
    assert_eq!(stage.node.next_row().hangs, [HERE]);
    // The record is back at this node: it stays.
    assert_eq!(stage.until(GOOD, HOUR_MS).unwrap().0, Verdict::Join);
    assert_eq!(stage.until(NO_READER, HOUR_MS), None);
}

#[test]
fn a_place_that_was_sound_here_is_not_poisoned() {
    let mut stage = Stage::new([NodeRow { hangs: vec![HERE], ..row(2, true, true) }]);
    // The readers of this node were sound at this very place before its link failed.
    assert_eq!(stage.until(NO_READER, HOUR_MS).unwrap().0, Stage::other_decides());
}

#[test]
fn a_node_says_only_the_latest_hangs() {
    let mut stage = Stage::beside_one();
    for number in 0..20 {
        let place = Hang { partition: number, ..HERE };
        while stage.probe_at(NO_READER, place) == Verdict::Stay {}
        assert_eq!(stage.until(GOOD, HOUR_MS).unwrap().0, Verdict::Join);
    }
    let hangs = stage.node.next_row().hangs;
    let partitions: Vec<_> = hangs.iter().map(|hang| hang.partition).collect();
    assert_eq!(partitions, (12..20).collect::<Vec<_>>());
}

#[test]
fn rows_of_the_dead_are_deleted_after_an_hour() {
    let mut stage = Stage::new([row(2, true, true), row(3, true, true)]);
    stage.others[1].1 = false;
    let began_ms = stage.now_ms;
    while stage.node.stale_row(stage.now_ms).is_none() {
        stage.probe(GOOD);
    }
    assert!(stage.now_ms - began_ms >= HOUR_MS - 10_000, "{}", stage.now_ms - began_ms);
    let number = stage.others[1].0.number;
    assert_eq!(stage.node.stale_row(stage.now_ms), Some((ProcessName::of(3), number)));
    stage.others.pop();
    stage.probe(GOOD);
    assert_eq!(stage.node.stale_row(stage.now_ms), None);
}

#[test]
fn names_without_end_are_not_remembered() {
    let mut node = Liveness::new(ProcessName::of(1));
    for name in 2..3 * NODES_MAX as u64 {
        node.step(name, Event::Said(row(name, true, true)));
    }
    assert_eq!(node.by_feed.len(), NODES_MAX);
    // Those that say nothing any more make room.
    node.step(FRESH_MS * 2 + 3 * NODES_MAX as u64, Event::Said(row(0, true, true)));
    assert_eq!(node.by_feed.len(), 1);
}

#[test]
fn one_failed_probe_is_no_standing() {
    let mut stage = Stage::beside_one();
    assert_eq!(stage.probe(NO_STORE), Verdict::Stay);
    assert_eq!(stage.node.standing(stage.now_ms), Standing::Sound);
    stage.probe(NO_STORE);
    assert_eq!(stage.node.standing(stage.now_ms), Standing::Failing);
    stage.probe(GOOD);
    assert_eq!(stage.node.standing(stage.now_ms), Standing::Sound);
}

#[test]
fn numbers_rise_with_each_saying() {
    let mut node = Liveness::new(ProcessName::of(7));
    let numbers: Vec<_> = (0..3).map(|_| node.next_row().number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}
