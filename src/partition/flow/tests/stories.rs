//! Short stories of one partition, whose effects are carried out immediately and in order.

use super::*;
use crate::{
    domain::{decision::Decision, ids::UserId, reason::Reason, record::Request},
    partition::{
        assignment,
        fold::{FoldedRecord, tests::told_of},
    },
};

pub(super) const SPRING: u64 = 0;
pub(super) const SUMMER: u64 = 1;

/// An owner with its log, whose actors reject every request.
pub(super) struct Story {
    pub(super) flow: Flow,
    pub(super) log: Vec<(At, Record)>,
    /// Replays find no record below.
    pub(super) low: Offset,
    pub(super) effects: Vec<Effect>,
    /// Offsets in the order of their decisions.
    pub(super) decided: Vec<Offset>,
    pub(super) holds: Vec<HoldState>,
    /// The holds as they are stored.
    pub(super) stored: BTreeMap<u32, Hold>,
    /// Credit given since the partition was taken over.
    pub(super) credit: usize,
    /// Campaigns that exist in the store.
    pub(super) known: Vec<CampaignId>,
    /// Why and from where records were read again.
    pub(super) again: Vec<(Again, Offset)>,
    /// The runs: their numbers and next offsets.
    runs: BTreeMap<Again, (u64, Offset)>,
    /// The number of records that were read again.
    pub(super) read_again: usize,
    /// Offsets of dead letters.
    pub(super) letters: Vec<Offset>,
}

/// Returns the credit that a reader pays for a record.
pub(super) fn cost(at: At, record: &Record) -> usize {
    credit(&read_of(at, record.clone()).raw)
}

fn request(of: u64) -> Record {
    let (campaign, user) = (campaign(of), UserId::parse("ada").unwrap());
    Record::Request(Request { campaign, user, idempotency_key: None })
}

impl Story {
    pub(super) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> Self {
        let (flow, effects) = Flow::new(PLACE, PartitionRows::default(), 0, 0, limits);
        Self {
            flow,
            log: Vec::new(),
            low: 0,
            effects,
            decided: Vec::new(),
            holds: Vec::new(),
            stored: BTreeMap::new(),
            credit: 0,
            known: Vec::new(),
            again: Vec::new(),
            runs: BTreeMap::new(),
            read_again: 0,
            letters: Vec::new(),
        }
    }

    /// Another owner takes over. It has read as far as this one, and all of that is settled.
    pub(super) fn moves(&mut self) {
        let holds = self.stored.values().cloned().collect();
        self.takes_over(self.flow.position(), holds);
    }

    /// Another owner takes over. Everything below `next` is settled, or held.
    pub(super) fn takes_over(&mut self, next: Offset, holds: Vec<Hold>) {
        let progress = Progress { partition: 0, log_epoch: 1, next, last: None };
        let holds_ever = holds.len() as u64;
        let rows = PartitionRows { progress: Some(progress), holds, holds_ever, skips: Vec::new() };
        (self.flow, self.effects) = Flow::new(PLACE, rows, next, 0, Limits::default());
    }

    /// The actor of a campaign finds another row at `from`.
    pub(super) fn contradicts(&mut self, of: u64, from: Offset) {
        let (campaign, incarnation) = (campaign(of), self.incarnation(of));
        self.step(Event::Contradicted { campaign, incarnation, contradiction: differs(from) });
        self.goes_on();
    }

    /// Returns the reasons of the stored holds, each with its start and state.
    pub(super) fn reasons(&self) -> Vec<(&str, Offset, HoldState)> {
        let holds = self.stored.values();
        holds.map(|hold| (hold.reason_parts().0, hold.from, hold.state)).collect()
    }

    pub(super) fn reads(&mut self, record: Record) {
        self.reads_as(record, true);
    }

    fn reads_as(&mut self, record: Record, can_be_decoded: bool) {
        let at = At { offset: self.flow.position(), time: Timestamp(0) };
        self.log.push((at, record.clone()));
        let digest = LastRecord { offset: at.offset, digest: [0; 16] };
        let content = can_be_decoded.then(|| read_of(at, record));
        self.step(Event::Read(vec![Incoming { record: digest, content }]));
    }

    pub(super) fn asks(&mut self, of: u64) {
        self.reads(request(of));
    }

    /// Reads a record that cannot be decoded.
    pub(super) fn reads_noise(&mut self) {
        self.reads_as(request(SPRING), false);
    }

    pub(super) fn releases(&mut self, of: u64) {
        let campaign = campaign(of);
        let of_it = self.stored.values().filter(|hold| hold.campaign == campaign);
        let change = Change::Released { holds: of_it.map(Hold::name).collect() };
        self.reads(Record::from(Control::once("token", campaign, None, change)));
    }

    pub(super) fn step(&mut self, event: Event) {
        self.flow.step(event, &mut self.effects);
        self.flow.flush(&mut self.effects);
    }

    /// Carries out every effect, and those that follow.
    pub(super) fn goes_on(&mut self) {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out(effect);
            }
        }
    }

    /// Carries out every effect, but writes no progress from the last record on. Returns the
    /// progress whose write is in flight.
    pub(super) fn goes_on_but_for_progress(&mut self) -> Offset {
        let mut in_flight = 0;
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Persist { progress, .. } if progress.next == self.flow.position() => {
                        in_flight = progress.next;
                    }
                    effect => self.carry_out(effect),
                }
            }
        }
        in_flight
    }

    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { campaign, incarnation, .. } => {
                self.step(Event::Started { campaign, incarnation, expects_until: None });
            }
            Effect::Send { campaign, incarnation, batch } => {
                let records = batch.records.iter().map(|(at, _)| self.rejects(*at)).collect();
                let (by_user, contradicted, over_from) = (Vec::new(), false, None);
                self.step(Event::Report(BatchReport {
                    campaign,
                    incarnation,
                    records,
                    by_user,
                    contradicted,
                    over_from,
                }));
            }
            Effect::LookUp { below, .. } => {
                let known = self.known.clone();
                self.step(Event::LookedUp { below, known });
            }
            Effect::BeginAgain { of: Again::Holds, run, from } if from < self.low => {
                let missing = assignment::not_replayed(from, self.low, "").unwrap();
                let assignment::Missing { below, detail } = missing;
                self.step(Event::NotReplayed { run, below, detail });
            }
            Effect::BeginAgain { of, run, from } => {
                self.again.push((of, from));
                self.runs.insert(of, (run, from));
                self.reads_again(of);
            }
            Effect::GoOnAgain { of } => self.reads_again(of),
            Effect::EndAgain { of } => drop(self.runs.remove(&of)),
            Effect::DeadLetter { of, record } => {
                self.letters.push(record.offset);
                self.step(Event::DeadLettered { offset: record.offset, of });
            }
            Effect::WriteHold { hold, .. } => {
                self.holds.push(hold.state);
                self.stored.insert(hold.number, hold.clone());
                self.step(Event::HoldWritten(hold));
            }
            Effect::WriteMark { version, .. } => self.step(Event::Marked(version)),
            Effect::WriteByUser { campaign, number, .. } => {
                self.step(Event::ByUserStored { campaign, number });
            }
            Effect::WriteMarks(marks) => {
                let stored = marks.into_iter().map(|mark| (mark.campaign, mark.offset)).collect();
                self.step(Event::MarksStored(stored));
            }
            Effect::Persist { progress, .. } => self.step(Event::Persisted(progress.next)),
            Effect::Credit(credit) => self.credit += credit,
            _ => {}
        }
    }

    /// Reads the next chunk of a run.
    fn reads_again(&mut self, of: Again) {
        let Some((run, next)) = self.runs.get_mut(&of) else { return };
        let first = self.log.partition_point(|(at, _)| at.offset < *next);
        let chunk = self.log[first..].iter().take(BATCH_RECORDS_MAX);
        let records: Vec<_> = chunk.map(|(at, record)| read_of(*at, record.clone())).collect();
        let Some(last) = records.last() else { return };
        let (run, read_to) = (*run, last.raw.offset + 1);
        *next = read_to;
        self.read_again += records.len();
        self.step(match of {
            Again::Campaigns => Event::ReadAgain { run, records, read_to },
            Again::Holds => Event::Replayed { run, records, read_to },
            Again::Letters => {
                let records = records.into_iter().map(|read| read.raw).collect();
                Event::LettersRead { run, records, read_to }
            }
        });
    }

    pub(super) fn rejects(&mut self, At { offset, .. }: At) -> FoldedRecord {
        self.decided.push(offset);
        let outcome = Some(told_of(offset, Decision::Rejected(Reason::SoldOut)));
        FoldedRecord { offset, counts: None, outcome }
    }

    pub(super) fn window(&self) -> usize {
        self.flow.limits.window_records
    }

    pub(super) fn incarnation(&self, of: u64) -> u64 {
        self.flow.campaigns[&campaign(of)].incarnation()
    }

    pub(super) fn state(&self, of: u64) -> &'static str {
        self.flow.view(&campaign(of)).map_or("stopped", |(state, _)| state)
    }
}

#[test]
fn one_campaign_is_held_and_the_others_go_on() {
    let mut story = Story::new();
    story.asks(SPRING);
    story.asks(SUMMER);
    let contradiction = differs(0);
    let (campaign, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
    story.step(Event::Contradicted { campaign, incarnation, contradiction });
    story.goes_on();
    assert_eq!((story.state(SPRING), story.state(SUMMER)), ("quarantined", "live"));
    story.asks(SPRING);
    story.asks(SUMMER);
    story.goes_on();
    assert_eq!((story.decided.clone(), story.flow.watermark()), (vec![1, 3], 4));

    story.releases(SPRING);
    story.goes_on();
    assert_eq!(story.state(SPRING), "live");
    assert_eq!(story.holds, [HoldState::Open, HoldState::Released, HoldState::Closed]);
    assert_eq!(story.decided, [1, 3, 0, 2, 4], "what passed under the hold is decided now");
}

#[test]
fn a_failed_campaign_is_decided_after_its_restart() {
    let mut story = Story::new();
    story.asks(SPRING);
    let (campaign, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
    story.effects.clear();
    story.step(Event::Failed { campaign, incarnation, reason: "it panicked".to_owned() });
    assert_eq!((story.state(SPRING), story.flow.watermark()), ("recovering", 0));
    story.goes_on();
    assert_eq!((story.state(SPRING), story.decided.clone()), ("live", vec![0]));
    assert_eq!(story.flow.watermark(), 1);
}

#[test]
fn a_campaign_that_keeps_failing_is_held() {
    let mut story = Story::new();
    story.asks(SPRING);
    for _ in 0..crate::partition::restart::FAILURES_MAX {
        let (campaign, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
        story.step(Event::Failed { campaign, incarnation, reason: "it panicked".to_owned() });
    }
    assert!(story.effects.iter().any(|effect| matches!(
        effect,
        Effect::WriteHold { hold, .. } if hold.kind == HoldKind::Failure && hold.from == 0
    )));
}

#[test]
fn a_restart_in_a_full_window_gives_its_credit_back() {
    let mut story = Story::new();
    story.goes_on();
    for _ in 0..WINDOW_RECORDS_MAX {
        story.asks(SPRING);
    }
    // Every record is decided. The campaign fails while the write of the last progress is in
    // flight.
    let persist = story.goes_on_but_for_progress();
    let (campaign, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
    story.step(Event::Failed { campaign, incarnation, reason: "it panicked".to_owned() });
    story.step(Event::Persisted(persist));
    story.goes_on();
    assert_eq!(story.flow.watermark(), story.flow.position());
    let paid: usize = story.log.iter().map(|(at, record)| cost(*at, record)).sum();
    assert_eq!(story.credit, WINDOW_RECORDS_MAX + paid, "each record gives its credit back");
}

const DIFFERS: &str = "row_not_derived";
const TRIMMED: &str = "records_trimmed";

#[test]
fn a_release_below_a_trimmed_log_holds_again() {
    let mut story = Story::new();
    story.asks(SPRING);
    story.asks(SUMMER);
    story.contradicts(SPRING, 0);
    story.low = 1;
    story.releases(SPRING);
    story.asks(SUMMER);
    story.goes_on();
    assert_eq!((story.state(SPRING), story.state(SUMMER)), ("quarantined", "live"));
    assert_eq!((story.decided.clone(), story.flow.watermark()), (vec![1, 3], 4));
    let (open, released) = (HoldState::Open, HoldState::Released);
    assert_eq!(story.reasons(), [(DIFFERS, 0, released), (TRIMMED, 0, open)]);

    // No time and no look at the store tries it again. Another release does, and opens no hold.
    story.holds.clear();
    story.step(Event::Holds(story.stored.values().cloned().collect()));
    story.step(Event::Tick { now_ms: 60_000, wall: Timestamp(60_000) });
    story.goes_on();
    assert_eq!(story.holds, []);
    story.releases(SPRING);
    story.goes_on();
    assert_eq!(story.reasons(), [(DIFFERS, 0, released), (TRIMMED, 0, released)]);
    assert_eq!((story.state(SPRING), story.flow.watermark()), ("quarantined", 5));

    // The records are back.
    story.low = 0;
    story.releases(SPRING);
    story.goes_on();
    assert_eq!((story.state(SPRING), story.flow.watermark()), ("live", 6));
    assert_eq!(story.decided, [1, 3, 0, 2, 4, 5]);
}

#[test]
fn a_failure_below_a_trimmed_log_is_held() {
    let mut story = Story::new();
    story.asks(SPRING);
    for _ in 0..crate::partition::restart::FAILURES_MAX {
        let (campaign, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
        story.step(Event::Failed { campaign, incarnation, reason: "it panicked".to_owned() });
    }
    story.effects.retain(|effect| matches!(effect, Effect::WriteHold { .. }));
    story.goes_on();
    // The next owner tries the failure again, and finds that it needs an operator.
    story.low = 1;
    story.moves();
    story.goes_on();
    let open = HoldState::Open;
    assert_eq!(story.reasons(), [("actor_failed", 0, open), (TRIMMED, 0, open)]);
    assert_eq!(story.state(SPRING), "quarantined");
    story.moves();
    let starts = |effect: &Effect| matches!(effect, Effect::Start { .. });
    assert!(!story.effects.iter().any(starts), "{:?}", story.effects);
}

#[test]
fn an_ended_hold_that_was_trimmed_opens_at_its_end() {
    let mut story = Story::new();
    for _ in 0..3 {
        story.asks(SPRING);
    }
    story.contradicts(SPRING, 0);
    story.asks(SPRING);
    story.goes_on();
    // Another owner has closed the hold and is gone. What passed here above its end is undecided.
    let closed = |hold: &mut Hold| (hold.state, hold.until) = (HoldState::Closed, 2);
    story.stored.values_mut().for_each(closed);
    story.low = 3;
    story.moves();
    story.goes_on();
    let (closed, open) = (HoldState::Closed, HoldState::Open);
    assert_eq!(story.reasons(), [(DIFFERS, 0, closed), (TRIMMED, 2, open)]);
}

#[test]
fn of_two_replays_only_the_trimmed_one_is_held() {
    let mut story = Story::new();
    story.asks(SPRING);
    story.asks(SUMMER);
    story.contradicts(SPRING, 0);
    story.contradicts(SUMMER, 1);
    story.low = 1;
    story.decided.clear();
    story.releases(SPRING);
    story.releases(SUMMER);
    story.goes_on();
    assert_eq!((story.state(SPRING), story.state(SUMMER)), ("quarantined", "live"));
    assert_eq!((story.decided.clone(), story.flow.watermark()), (vec![1, 3], 4));
}
