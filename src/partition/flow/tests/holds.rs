//! Closed holds that the owner extends, and dead letters that passed under a hold.

use super::*;
use crate::{
    domain::{
        decision::{Decision, Held},
        ids::UserId,
        reason::Reason,
        record::Request,
        rows::HoldKind,
    },
    partition::fold::{
        FoldedRecord,
        tests::{counts, told_of},
    },
};

fn hold(number: u32, state: HoldState, until: Offset) -> Hold {
    Hold {
        campaign: campaign(0),
        partition: 0,
        from: 3,
        number,
        kind: HoldKind::Failure,
        reason: "it panicked".to_owned(),
        state,
        until,
    }
}

pub(super) fn owner(holds: Vec<Hold>) -> Flow {
    let progress = Progress { partition: 0, log_epoch: 1, next: 10, last: None };
    let rows = PartitionRows { progress: Some(progress), holds, ..PartitionRows::default() };
    Flow::new(PLACE, rows, 10, 0, Limits::default()).0
}

pub(super) fn request() -> Record {
    let user = UserId::parse("u1").unwrap();
    Record::Request(Request { campaign: campaign(0), user, idempotency_key: None })
}

pub(super) fn folded(offset: Offset, decision: Option<Decision>) -> FoldedRecord {
    FoldedRecord { offset, counts: None, outcome: decision.map(|it| told_of(offset, it)) }
}

fn report(offset: Offset, decision: Option<Decision>) -> Event {
    let (campaign, records) = (campaign(0), vec![folded(offset, decision)]);
    let (incarnation, by_user, contradicted, over_from) = (1, Vec::new(), false, None);
    Event::Report(BatchReport { campaign, incarnation, records, by_user, contradicted, over_from })
}

/// Decides and settles the record at 10. Returns the last effects.
fn settle_one(flow: &mut Flow) -> Vec<Effect> {
    let mut effects = Vec::new();
    let record = LastRecord { offset: 10, digest: [0; 16] };
    let content = read_of(At { offset: 10, time: Timestamp(0) }, request());
    let incoming = Incoming { record, content: Some(content) };
    flow.step(Event::Read(vec![incoming]), &mut effects);
    let (campaign, expects_until) = (campaign(0), None);
    flow.step(Event::Started { campaign, incarnation: 1, expects_until }, &mut effects);
    flow.flush(&mut effects);
    flow.step(report(10, Some(Decision::Rejected(Reason::SoldOut))), &mut effects);
    flow.step(Event::Tick { now_ms: 200, wall: Timestamp(0) }, &mut effects);
    flow.flush(&mut effects);
    effects
}

fn extended_to(effects: &[Effect]) -> Option<Offset> {
    effects.iter().find_map(|effect| match effect {
        Effect::Persist { holds, .. } => holds.first().map(|hold| hold.until),
        _ => None,
    })
}

#[test]
fn a_new_owner_extends_closed_holds() {
    let mut flow = owner(vec![hold(1, HoldState::Closed, 10)]);
    assert_eq!(extended_to(&settle_one(&mut flow)), Some(11));
}

#[test]
fn a_foreign_close_is_extended_when_idle() {
    let mut flow = owner(Vec::new());
    settle_one(&mut flow);
    let mut effects = Vec::new();
    flow.step(Event::Persisted(11), &mut effects);
    flow.step(Event::Holds(vec![hold(1, HoldState::Closed, 9)]), &mut effects);
    flow.step(Event::Tick { now_ms: 400, wall: Timestamp(0) }, &mut effects);
    flow.flush(&mut effects);
    assert_eq!(extended_to(&effects), Some(11));
}

#[test]
fn undefined_records_under_a_hold_are_kept() {
    let mut flow = owner(vec![hold(1, HoldState::Open, 0)]);
    let mut effects = Vec::new();
    let (id, expects_until) = (campaign(0), None);
    flow.step(Event::Started { campaign: id, incarnation: 1, expects_until }, &mut effects);
    flow.flush(&mut effects);
    let read = read_of(At { offset: 3, time: Timestamp(0) }, request());
    let (records, read_to) = (vec![read.clone()], 10);
    flow.step(Event::Replayed { run: 1, records, read_to }, &mut effects);
    flow.flush(&mut effects);
    flow.step(report(3, None), &mut effects);
    let letter = effects.iter().find_map(|effect| match effect {
        Effect::DeadLetter { record, .. } => Some(record),
        _ => None,
    });
    assert_eq!(letter, Some(&read.raw), "{effects:?}");
}

/// Returns the flow of a campaign whose actor was sent the records at 10 and 11.
fn two_sent() -> Flow {
    let (mut flow, mut effects) = (owner(Vec::new()), Vec::new());
    let incoming = |offset| Incoming {
        record: LastRecord { offset, digest: [0; 16] },
        content: Some(read_of(At { offset, time: Timestamp(0) }, request())),
    };
    flow.step(Event::Read(vec![incoming(10), incoming(11)]), &mut effects);
    let (campaign, expects_until) = (campaign(0), None);
    flow.step(Event::Started { campaign, incarnation: 1, expects_until }, &mut effects);
    flow.flush(&mut effects);
    flow
}

#[test]
fn a_hold_covers_what_no_mark_counts() {
    let (mut flow, mut effects) = (two_sent(), Vec::new());
    let held = Held { sequence: 7, issued_at: Timestamp(0) };
    let Event::Report(mut stored) = report(10, Some(Decision::Issued(held))) else { return };
    stored.records[0].counts = Some(counts(7));
    flow.step(Event::Report(stored), &mut effects);
    let (contradiction, campaign) = (differs(11), campaign(0));
    effects.clear();
    flow.step(Event::Contradicted { campaign, incarnation: 1, contradiction }, &mut effects);
    let opened = effects.iter().find_map(|effect| match effect {
        Effect::WriteHold { hold, .. } => Some(hold.clone()),
        _ => None,
    });
    let opened = opened.expect("a hold is opened");
    assert_eq!(opened.from, 10, "the coupon is stored, but no mark counts it");
    flow.step(Event::HoldWritten(opened), &mut effects);
    flow.step(Event::Tick { now_ms: 200, wall: Timestamp(0) }, &mut effects);
    flow.flush(&mut effects);
    let marks = effects.iter().find(|effect| matches!(effect, Effect::WriteMarks(_)));
    assert_eq!(marks, None, "it is derived again");
    let progress = effects.iter().find_map(|effect| match effect {
        Effect::Persist { progress, .. } => Some(progress.next),
        _ => None,
    });
    assert_eq!(progress, Some(12));
}

#[test]
fn a_hold_covers_dead_letters_that_are_not_durable() {
    let (mut flow, mut effects) = (two_sent(), Vec::new());
    let Event::Report(mut stored) = report(10, None) else { return };
    stored.records.push(folded(11, Some(Decision::Rejected(Reason::SoldOut))));
    flow.step(Event::Report(stored), &mut effects);
    let (contradiction, campaign) = (differs(12), campaign(0));
    flow.step(Event::Contradicted { campaign, incarnation: 1, contradiction }, &mut effects);
    let opened = effects.iter().find_map(|effect| match effect {
        Effect::WriteHold { hold, .. } => Some(hold.from),
        _ => None,
    });
    assert_eq!(opened, Some(10), "the next owner lets pass what lies below the hold");
}

#[test]
fn an_idle_campaigns_hold_is_extended() {
    let mut flow = owner(vec![hold(1, HoldState::Closed, 10)]);
    let mut effects = Vec::new();
    let record = LastRecord { offset: 10, digest: [0; 16] };
    // A record of no campaign advances progress.
    let incoming = Incoming { record, content: None };
    flow.step(Event::Read(vec![incoming]), &mut effects);
    flow.flush(&mut effects);
    let record = read_of(At { offset: 10, time: Timestamp(0) }, request()).raw;
    flow.step(Event::LettersRead { run: 1, records: vec![record], read_to: 11 }, &mut effects);
    flow.step(Event::DeadLettered { offset: 10, of: LetterOf::SetAside }, &mut effects);
    flow.step(Event::Tick { now_ms: 10_000, wall: Timestamp(0) }, &mut effects);
    effects.clear();
    flow.flush(&mut effects);
    let kept = effects.iter().find_map(|effect| match effect {
        Effect::ReportProgress { keep_from, .. } => *keep_from,
        _ => None,
    });
    assert_eq!((extended_to(&effects), kept), (Some(11), Some(10)), "it is not durable yet");
}
