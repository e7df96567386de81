//! Ends of holds. A release record passes only after its hold is marked released. A campaign whose
//! hold an earlier owner has closed is replayed from the end of that hold.

use super::{
    holds::{folded, owner, request},
    *,
};
use crate::{
    domain::{
        decision::{Decision, Held},
        rows::HoldKind,
    },
    partition::fold::{FoldedRecord, tests::counts},
};

const FROM: Offset = 10;

fn held(state: HoldState) -> Hold {
    Hold {
        campaign: campaign(0),
        partition: 0,
        from: FROM,
        number: 1,
        kind: HoldKind::Contradiction,
        reason: "another row".to_owned(),
        state,
        until: 0,
    }
}

fn read(offset: Offset, content: Record) -> Event {
    let record = LastRecord { offset, digest: [0; 16] };
    let at = At { offset, time: Timestamp(0) };
    Event::Read(vec![Incoming { record, content: Some(read_of(at, content)) }])
}

fn release() -> Record {
    let holds = vec![held(HoldState::Open).name()];
    let (campaign, change) = (campaign(0), Change::Released { holds });
    Record::from(Control::once("token", campaign, None, change))
}

fn ready(incarnation: u64) -> Event {
    Event::Started { campaign: campaign(0), incarnation, expects_until: None }
}

fn replayed(run: u64, records: Vec<(At, Record)>, read_to: Offset) -> Event {
    let records = records.into_iter().map(|(at, record)| read_of(at, record)).collect();
    Event::Replayed { run, records, read_to }
}

fn report(incarnation: u64, records: Vec<FoldedRecord>) -> Event {
    let (campaign, contradicted, over_from) = (campaign(0), false, None);
    let by_user = Vec::new();
    Event::Report(BatchReport { campaign, incarnation, records, by_user, contradicted, over_from })
}

/// Returns the effects of `events`.
fn steps(flow: &mut Flow, events: Vec<Event>) -> Vec<Effect> {
    let mut effects = Vec::new();
    for event in events {
        flow.step(event, &mut effects);
        flow.flush(&mut effects);
    }
    effects
}

fn writes_hold(effects: &[Effect], state: HoldState) -> bool {
    let writes =
        |effect: &Effect| matches!(effect, Effect::WriteHold { hold, .. } if hold.state == state);
    effects.iter().any(writes)
}

#[test]
fn a_release_passes_on_its_own_write() {
    let mut flow = owner(vec![held(HoldState::Open)]);
    let effects = steps(&mut flow, vec![read(FROM, release())]);
    assert!(writes_hold(&effects, HoldState::Released));
    assert_eq!(flow.watermark(), FROM, "it waits for its hold to be marked");
    let released = held(HoldState::Released);
    let effects = steps(&mut flow, vec![Event::Holds(vec![released.clone()])]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Start { .. })), "{effects:?}");
    steps(&mut flow, vec![Event::HoldWritten(released)]);
    assert_eq!(flow.watermark(), FROM + 1);
}

#[test]
fn an_early_release_waits_for_its_hold() {
    let mut flow = owner(Vec::new());
    steps(&mut flow, vec![read(FROM, request()), ready(1)]);
    let found = differs(FROM);
    let (id, contradiction) = (campaign(0), found);
    let contradicted = Event::Contradicted { campaign: id, incarnation: 1, contradiction };
    let effects = steps(&mut flow, vec![contradicted, read(FROM + 1, release())]);
    assert!(writes_hold(&effects, HoldState::Open));
    let open = held(HoldState::Open);
    let effects = steps(&mut flow, vec![Event::HoldWritten(open)]);
    assert!(writes_hold(&effects, HoldState::Released));
    assert_eq!(flow.watermark(), FROM + 1, "the request passes, its release does not yet");
    let released = held(HoldState::Released);
    steps(&mut flow, vec![Event::HoldWritten(released)]);
    assert_eq!(flow.watermark(), FROM + 2);
}

#[test]
fn a_late_release_reopens_nothing() {
    let mut flow = owner(vec![held(HoldState::Open)]);
    steps(&mut flow, vec![read(FROM, release())]);
    let released = held(HoldState::Released);
    let effects = steps(&mut flow, vec![Event::Holds(vec![released.clone()])]);
    let incarnation = effects.iter().find_map(|effect| match effect {
        Effect::Start { incarnation, .. } => Some(*incarnation),
        _ => None,
    });
    let incarnation = incarnation.expect("it starts");
    let effects = steps(&mut flow, vec![ready(incarnation), replayed(1, Vec::new(), FROM + 1)]);
    assert!(writes_hold(&effects, HoldState::Closed), "{effects:?}");
    steps(&mut flow, vec![Event::HoldWritten(released)]);
    assert_eq!(flow.watermark(), FROM + 1);
    assert_eq!(flow.view(&campaign(0)).map(|(state, _)| state), Some("live"));
    // After a failure the campaign starts from progress, because it is no longer on hold.
    let (id, reason) = (campaign(0), "it panicked".to_owned());
    let failed = Event::Failed { campaign: id, incarnation, reason };
    let effects = steps(&mut flow, vec![failed]);
    let again = effects.iter().any(|effect| matches!(effect, Effect::BeginAgain { .. }));
    assert!(!again && flow.view(&campaign(0)).map(|(state, _)| state) == Some("recovering"));
    let starts =
        |effect: &Effect| matches!(effect, Effect::Start { from, .. } if *from == FROM + 1);
    assert!(effects.iter().any(starts), "{effects:?}");
}

fn start_from(effects: &[Effect]) -> Option<Offset> {
    effects.iter().find_map(|effect| match effect {
        Effect::Start { from, .. } => Some(*from),
        _ => None,
    })
}

#[test]
fn a_zombies_close_is_caught_up() {
    let mut flow = owner(vec![held(HoldState::Open)]);
    steps(&mut flow, vec![read(FROM, request()), read(FROM + 1, request())]);
    assert_eq!(flow.watermark(), FROM + 2, "both pass undecided");
    let closed = Hold { until: FROM + 1, ..held(HoldState::Closed) };
    let effects = steps(&mut flow, vec![Event::Holds(vec![closed.clone()])]);
    assert_eq!(start_from(&effects), Some(FROM + 1));
    let effects = steps(&mut flow, vec![Event::Holds(vec![closed])]);
    assert_eq!(start_from(&effects), None, "once is enough");
}

#[test]
fn a_zombie_that_read_further_is_followed() {
    let mut flow = owner(vec![held(HoldState::Open)]);
    steps(&mut flow, vec![read(FROM, request())]);
    let closed = Hold { until: FROM + 9, ..held(HoldState::Closed) };
    let effects = steps(&mut flow, vec![Event::Holds(vec![closed])]);
    assert_eq!(start_from(&effects), Some(FROM + 1));
}

#[test]
fn a_failed_replay_leaves_no_mark() {
    let mut flow = owner(vec![Hold { from: 3, kind: HoldKind::Failure, ..held(HoldState::Open) }]);
    let records = vec![(At { offset: 3, time: Timestamp(0) }, request())];
    let issued = Decision::Issued(Held { sequence: 7, issued_at: Timestamp(0) });
    let stored = vec![FoldedRecord { counts: Some(counts(7)), ..folded(3, Some(issued)) }];
    let chunk = vec![ready(1), replayed(1, records, 4), report(1, stored)];
    steps(&mut flow, chunk);
    let reason = "it panicked".to_owned();
    let failed = Event::Failed { campaign: campaign(0), incarnation: 1, reason };
    let effects = steps(&mut flow, vec![failed]);
    assert_eq!(start_from(&effects), Some(3));
    let chunk = vec![ready(2), replayed(2, Vec::new(), FROM)];
    let effects = steps(&mut flow, chunk);
    let mark = effects.iter().find_map(|effect| match effect {
        Effect::WriteHold { hold, mark } if hold.state == HoldState::Closed => Some(mark),
        _ => None,
    });
    assert_eq!(mark, Some(&None), "{effects:?}");
}

#[test]
fn a_close_is_written_before_extensions() {
    let mut flow = owner(vec![Hold { from: 3, kind: HoldKind::Failure, ..held(HoldState::Open) }]);
    let chunk = vec![ready(1), replayed(1, Vec::new(), FROM)];
    let effects = steps(&mut flow, chunk);
    let closed = effects.into_iter().find_map(|effect| match effect {
        Effect::WriteHold { hold, .. } => Some(hold),
        _ => None,
    });
    let closed = closed.expect("it is closed");
    let decided = Decision::Issued(Held { sequence: 1, issued_at: Timestamp(0) });
    let stored =
        |offset| vec![FoldedRecord { counts: Some(counts(1)), ..folded(offset, Some(decided)) }];
    let extends = |effects: &[Effect]| {
        effects.iter().any(|it| matches!(it, Effect::Persist { holds, .. } if !holds.is_empty()))
    };
    let tick = |now_ms| Event::Tick { now_ms, wall: Timestamp(0) };
    steps(&mut flow, vec![read(FROM, request())]);
    let marked = |offset| Event::MarksStored(vec![(campaign(0), offset)]);
    steps(&mut flow, vec![report(1, stored(FROM)), tick(200)]);
    let effects = steps(&mut flow, vec![marked(FROM + 1)]);
    assert!(!extends(&effects), "its closing is on its way: {effects:?}");
    steps(&mut flow, vec![Event::Persisted(FROM + 1), Event::HoldWritten(closed)]);
    steps(&mut flow, vec![read(FROM + 1, request())]);
    steps(&mut flow, vec![report(1, stored(FROM + 1)), tick(400)]);
    let effects = steps(&mut flow, vec![marked(FROM + 2)]);
    assert!(extends(&effects), "{effects:?}");
}

#[test]
fn an_earlier_owners_hold_ends_too() {
    let failure = |number, until| Hold {
        from: 3,
        number,
        kind: HoldKind::Failure,
        until,
        ..held(HoldState::Closed)
    };
    // The first hold ends below progress, so records may have passed under it. The second does not.
    let mut flow = owner(vec![failure(1, FROM - 2), failure(2, FROM)]);
    let chunk = vec![ready(1), replayed(1, Vec::new(), FROM)];
    let effects = steps(&mut flow, chunk);
    let mut closed: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::WriteHold { hold, .. } => Some(hold.number),
            _ => None,
        })
        .collect();
    closed.sort_unstable();
    assert_eq!(closed, [1, 2], "{effects:?}");
}
