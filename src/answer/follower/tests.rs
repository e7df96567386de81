//! A follower answers every waiter, even if it loses messages.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::{domain::ids::ProcessName, wire::feed_message::Sender};

type Tested = Follower<&'static str, char>;

const LIMITS: Limits = Limits { decisions: 100, waiters: 10 };
const NOW: Moment = Duration::from_secs(9);

/// Returns the first message of an owner that nobody has heard.
fn sender() -> Sender {
    static OWNERS: AtomicU64 = AtomicU64::new(100);
    let owner = ProcessName::of(OWNERS.fetch_add(1, Ordering::Relaxed));
    Sender { generation: 1, owner, number: 1 }
}

fn message(
    partition: Partition,
    to: Offset,
    decisions: &[(Offset, &'static str)],
) -> Event<&'static str> {
    Event::Message(Message { decisions: decisions.to_vec(), ..quiet(partition, to) })
}

/// Returns a message that tells the watermark alone.
fn quiet<D>(partition: Partition, to: Offset) -> Message<D> {
    let (sender, waiting, condition) = (sender(), 0, None);
    let (halted, unread, decisions, campaigns) = (None, None, Vec::new(), Vec::new());
    let end = to;
    Message { partition, sender, to, end, waiting, condition, halted, unread, decisions, campaigns }
}

fn halted(partition: Partition, reason: &str) -> Event<&'static str> {
    Event::Message(Message { halted: Some(reason.to_owned()), ..quiet(partition, 0) })
}

#[track_caller]
fn wait(follower: &mut Tested, partition: Partition, offset: Offset, waiter: char) -> Place {
    match follower.register(partition, offset, waiter, Some(1)) {
        Registered::Waiting { place, ask_store: false } => place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn waiters_get_their_decision() {
    let mut follower = Tested::new(2, LIMITS);
    wait(&mut follower, 1, 5, 'a');
    wait(&mut follower, 1, 5, 'b');
    wait(&mut follower, 0, 5, 'c');
    let effects = follower.step(NOW, message(1, 3, &[(5, "issued")]));
    assert_eq!(effects, [Effect::Tell('a', "issued"), Effect::Tell('b', "issued")]);
    assert_eq!(follower.waiters(), 1);
    assert_eq!(follower.register(1, 5, 'd', Some(1)), Registered::Known("issued"));
}

#[test]
fn a_passed_waiter_asks_the_store_once() {
    let mut follower = Tested::new(1, LIMITS);
    let place = wait(&mut follower, 0, 5, 'a');
    wait(&mut follower, 0, 6, 'b');
    assert_eq!(follower.step(NOW, message(0, 5, &[])), []);
    assert_eq!(follower.step(NOW, message(0, 6, &[])), [Effect::AskStore('a')]);
    assert_eq!(follower.step(NOW, message(0, 6, &[])), []);
    assert_eq!(follower.waiters(), 2);
    let told = follower.step(NOW, message(0, 6, &[(5, "sold out")]));
    assert_eq!(told, [Effect::Tell('a', "sold out")]);
    follower.leave(place);
    assert_eq!(follower.waiters(), 1);
}

#[test]
fn a_decision_in_the_passing_message_is_no_gap() {
    let mut follower = Tested::new(1, LIMITS);
    wait(&mut follower, 0, 5, 'a');
    let effects = follower.step(NOW, message(0, 9, &[(5, "issued")]));
    assert_eq!(effects, [Effect::Tell('a', "issued")]);
}

#[test]
fn a_gap_sends_all_waiters_to_the_store() {
    let mut follower = Tested::new(2, LIMITS);
    wait(&mut follower, 0, 5, 'a');
    wait(&mut follower, 1, 7, 'b');
    let effects = follower.step(NOW, Event::Gap);
    assert_eq!(effects, [Effect::AskStore('a'), Effect::AskStore('b')]);
    assert_eq!(follower.step(NOW, Event::Gap), []);
}

/// Returns a message of an owner with its number.
fn numbered(
    (generation, owner, number): (u64, u64, u64),
    event: Event<&'static str>,
) -> Event<&'static str> {
    let Event::Message(message) = event else { return event };
    let sender = Sender { generation, owner: ProcessName::of(owner), number };
    Event::Message(Message { sender, ..message })
}

#[test]
fn a_lost_message_makes_all_waiters_ask() {
    let from = |owner, number, to| numbered((2, owner, number), message(0, to, &[]));
    let mut follower = Tested::new(2, LIMITS);
    wait(&mut follower, 0, 9, 'a');
    wait(&mut follower, 1, 9, 'b');
    assert_eq!(follower.step(NOW, from(1, 3, 3)), [], "the first message is no gap");
    assert_eq!(follower.step(NOW, from(1, 4, 5)), []);
    assert_eq!(follower.step(NOW, from(1, 5, 5)), []);
    // The sixth message is lost, and the decision at 9 with it, although the watermark stands still.
    assert_eq!(follower.step(NOW, from(1, 7, 5)), [Effect::AskStore('a')]);
    // Another owner begins anew, and an earlier one is not yet aware of it.
    wait(&mut follower, 0, 8, 'c');
    assert_eq!(follower.step(NOW, from(2, 1, 0)), []);
    assert_eq!(follower.step(NOW, from(1, 8, 7)), []);
    assert_eq!(follower.step(NOW, from(2, 3, 7)), [Effect::AskStore('c')]);
}

/// A message of an old owner was recorded, and somebody who can write to the feed sends it again.
#[test]
fn an_old_message_that_is_sent_again_has_no_effect() {
    let mut follower = Tested::new(1, LIMITS);
    let old = numbered((1, 1, 4), halted(0, "unreadable: at 30"));
    follower.step(NOW, old.clone());
    assert!(follower.halted(NOW, 0).is_some());
    follower.step(NOW, numbered((1, 1, 5), message(0, 40, &[])));
    assert_eq!(follower.halted(NOW, 0), None);
    assert_eq!(follower.step(NOW, old), [Effect::Ignored(Ignored::Repeated)]);
    assert_eq!(follower.halted(NOW, 0), None, "its owner says something else now");
    let waiter = wait(&mut follower, 0, 70, 'a');
    follower.step(NOW, numbered((2, 2, 1), message(0, 50, &[])));
    let later = NOW + OWNER_SILENT_AFTER * 2;
    for replayed in [
        numbered((1, 1, 6), halted(0, "unreadable: at 60")),
        numbered((1, 1, 7), message(0, 80, &[(70, "issued"), (71, "issued")])),
    ] {
        assert_eq!(follower.step(later, replayed), [Effect::Ignored(Ignored::Older)]);
    }
    assert_eq!((follower.watermark(0), follower.lag(0)), (Some(50), 0));
    assert_eq!((follower.halted(later, 0), follower.decision(0, 71)), (None, None));
    assert!(follower.tells_nothing(later, 0), "an old message is no sign of life");
    follower.leave(waiter);
    assert_eq!(follower.waiters(), 0, "it was not told");
}

#[test]
fn a_waiter_below_watermark_asks_at_once() {
    let mut follower = Tested::new(1, LIMITS);
    follower.step(NOW, message(0, 6, &[]));
    let registered = follower.register(0, 5, 'a', Some(1));
    assert!(matches!(registered, Registered::Waiting { ask_store: true, .. }), "{registered:?}");
    let effects = follower.step(NOW, message(0, 6, &[(5, "late")]));
    assert_eq!(effects, [Effect::Tell('a', "late")]);
}

#[test]
fn places_are_bounded_and_come_back() {
    let mut follower = Tested::new(1, Limits { waiters: 2, ..LIMITS });
    let place = wait(&mut follower, 0, 1, 'a');
    wait(&mut follower, 0, 1, 'b');
    assert_eq!(follower.register(0, 2, 'c', Some(1)), Registered::Full);
    let reserved = follower.register(0, 2, 'd', None);
    let Registered::Waiting { place: reserved, .. } = reserved else { panic!("{reserved:?}") };
    follower.leave(reserved);
    follower.leave(place);
    follower.leave(place);
    assert_eq!(follower.waiters(), 1);
    wait(&mut follower, 0, 2, 'e');
}

#[test]
fn a_newcomer_takes_the_place_of_a_hog() {
    let mut follower = Tested::new(2, Limits { waiters: 10, ..LIMITS });
    assert_eq!(follower.make_room(0, 1, 2), None, "there is room");
    for waiter in 'a'..='j' {
        wait(&mut follower, 0, 5, waiter);
    }
    assert_eq!(follower.make_room(0, 5, 1), None, "it is the hog");
    assert_eq!(follower.make_room(0, 6, 2), Some('a'));
    let registered = follower.register(0, 6, 'k', Some(2));
    assert!(matches!(registered, Registered::Waiting { .. }), "{registered:?}");
    assert_eq!(follower.waiters(), 10);
    assert_eq!(follower.make_room(1, 1, 3), Some('b'), "also where it waits elsewhere");
    let registered = follower.register(1, 1, 'l', Some(3));
    assert!(matches!(registered, Registered::Waiting { .. }), "{registered:?}");
    let reserved = follower.register(0, 7, 'm', None);
    assert!(matches!(reserved, Registered::Waiting { .. }), "{reserved:?}");
    // Eight of the hog, one more in its partition, one in the other, and one that is reserved.
    assert_eq!(follower.make_room(1, 1, 4), Some('c'), "no partition has more than its share");
    let registered = follower.register(1, 1, 'n', Some(4));
    assert!(matches!(registered, Registered::Waiting { .. }), "the reserved place is no client's");
    assert_eq!(follower.waiters(), 11);
}

#[test]
fn only_the_latest_decisions_are_remembered() {
    let mut follower = Tested::new(2, Limits { decisions: 3, ..LIMITS });
    follower.step(NOW, message(0, 0, &[(1, "a"), (2, "b")]));
    follower.step(NOW, message(1, 0, &[(1, "c"), (9, "d")]));
    let known = |partition, offset| follower.decision(partition, offset).copied();
    assert_eq!(
        [known(0, 1), known(0, 2), known(1, 1), known(1, 9)],
        [None, Some("b"), Some("c"), Some("d")]
    );
}

#[test]
fn a_differing_decision_is_a_contradiction() {
    let mut follower = Tested::new(1, LIMITS);
    follower.step(NOW, message(0, 6, &[(5, "issued")]));
    assert_eq!(follower.step(NOW, message(0, 6, &[(5, "issued")])), []);
    let effects = follower.step(NOW, message(0, 6, &[(5, "sold out")]));
    assert_eq!(effects, [Effect::Contradiction { partition: 0, offset: 5 }]);
    assert_eq!(follower.decision(0, 5), Some(&"issued"));
}

#[test]
fn a_late_owner_does_not_move_the_watermark_back() {
    let mut follower = Tested::new(1, LIMITS);
    follower.step(NOW, message(0, 60, &[]));
    follower.step(NOW, message(0, 50, &[]));
    assert_eq!(follower.watermark(0), Some(60));
}

#[test]
fn lag_counts_records_that_wait() {
    let mut follower = Tested::new(1, LIMITS);
    assert_eq!(follower.lag(0), 0);
    assert_eq!(follower.acknowledged(0, 1_000, None), Ok(()));
    assert_eq!(follower.acknowledged(0, 1_009, None), Ok(()));
    assert_eq!(follower.lag(0), 10);
    follower.step(NOW, Event::Message(Message { end: 950, waiting: 50, ..quiet(0, 900) }));
    assert_eq!(follower.lag(0), 50 + 60, "this node's appends lie above the owner's end");
    follower.step(NOW, Event::Message(Message { end: 2_000, waiting: 1, ..quiet(0, 900) }));
    assert_eq!(follower.lag(0), 1, "what is stored above the watermark does not wait");
    follower.step(NOW, message(0, 2_000, &[]));
    assert_eq!(follower.lag(0), 0);
}

#[test]
fn a_condition_holds_until_its_owner_says_more_or_nothing() {
    let mut follower = Tested::new(1, LIMITS);
    let condition = Some(Condition { age_s: 17, ..Condition::default() });
    let told = Message { condition: condition.clone(), ..quiet(0, 5) };
    follower.step(NOW, Event::Message(told));
    follower.step(NOW, message(0, 5, &[(4, "issued")]));
    assert_eq!(follower.condition(NOW, 0), condition.as_ref(), "not every message tells it");
    let silent = NOW + OWNER_SILENT_AFTER + Duration::from_millis(1);
    assert_eq!(follower.condition(silent, 0), None);
    follower.step(NOW, halted(0, "out of range"));
    assert_eq!(follower.condition(NOW, 0), None, "the halt says it");
    let better = Message { condition: Some(Condition::default()), ..quiet(0, 6) };
    follower.step(NOW, Event::Message(better));
    assert_eq!(follower.condition(NOW, 0), Some(&Condition::default()));
}

#[test]
fn an_append_below_the_watermark_halts() {
    let mut follower = Tested::new(2, LIMITS);
    follower.step(NOW, message(0, 50, &[]));
    assert_eq!(follower.acknowledged(0, 50, Some(50)), Ok(()));
    assert_eq!(follower.halted(NOW, 0), None);
    // It was sent before the watermark was known, so it may be below the watermark.
    assert_eq!(follower.acknowledged(0, 40, Some(40)), Ok(()));
    assert!(follower.acknowledged(0, 49, Some(50)).is_err());
    assert!(follower.halted(NOW, 0).is_some_and(|reason| reason.contains("offset 49")));
    assert_eq!(follower.halted(NOW, 1), None);
}

#[test]
fn a_truncation_ends_when_its_owner_goes_on() {
    let mut follower = Tested::new(1, LIMITS);
    follower.step(NOW, message(0, 50, &[]));
    assert!(follower.acknowledged(0, 49, Some(50)).is_err());
    follower.step(NOW, message(0, 51, &[]));
    assert!(follower.halted(NOW, 0).is_some(), "an owner that has not noticed proves nothing");
    follower.step(NOW, halted(0, "the log ends at 49"));
    assert!(follower.halted(NOW, 0).is_some());
    follower.step(NOW, message(0, 51, &[]));
    assert_eq!(follower.halted(NOW, 0), None);
}

#[test]
fn a_halt_holds_as_long_as_its_owner_is_heard_of() {
    let mut follower = Tested::new(2, LIMITS);
    assert!(follower.tells_nothing(NOW, 0));
    follower.step(NOW, message(0, 1, &[]));
    assert!(!follower.tells_nothing(NOW, 0));
    follower.step(NOW, halted(0, "out of range"));
    assert_eq!(follower.halted(NOW, 0), Some("out of range"));
    assert_eq!(follower.halted(NOW, 1), None);
    let later = NOW + OWNER_SILENT_AFTER;
    assert!(follower.tells_nothing(later, 0) && follower.halted(later, 0).is_some());
    let silent = later + Duration::from_millis(1);
    assert!(follower.tells_nothing(silent, 0) && follower.halted(silent, 0).is_none());
    follower.step(silent, message(0, 1, &[]));
    assert_eq!(follower.halted(silent, 0), None);
}

#[test]
fn an_unknown_partition_has_no_owner() {
    let mut follower = Tested::new(1, LIMITS);
    assert_eq!(follower.step(NOW, message(1, 5, &[(3, "x")])), []);
    assert_eq!(follower.register(1, 3, 'a', None), Registered::Full);
}

#[test]
fn a_request_is_measured_once() {
    let mut follower = Tested::new(1, LIMITS);
    let received = NOW - Duration::from_secs(1);
    assert_eq!(follower.measure(NOW, 0, 5, received), None);
    assert_eq!(follower.measure(NOW, 0, 6, received), None);
    let took = follower.step(NOW, message(0, 6, &[(5, "issued")]));
    assert_eq!(took, [Effect::Took(Duration::from_secs(1))]);
    assert_eq!(follower.measure(NOW, 0, 5, received), Some(Duration::from_secs(1)));
    follower.step(NOW, message(0, 7, &[]));
    assert_eq!(follower.step(NOW, message(0, 7, &[(6, "late")])), []);
    assert_eq!(follower.measured, 0);
    for offset in 0..2 * MEASURED_MAX as Offset {
        follower.measure(NOW, 0, 100 + offset, received);
    }
    assert_eq!(follower.measured, MEASURED_MAX);
}

#[derive(Debug, Clone)]
enum Act {
    Wait(Offset),
    Leave(usize),
    Decide(Vec<Offset>, bool),
    Gap,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..40_u64).prop_map(Act::Wait),
        (0..40_usize).prop_map(Act::Leave),
        (prop::collection::vec(0..40_u64, 0..6), any::<bool>())
            .prop_map(|(offsets, lost)| Act::Decide(offsets, lost)),
        Just(Act::Gap),
    ]
}

proptest! {
    #[test]
    fn no_waiter_is_left_below_the_watermark(
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut follower: Follower<Offset, u64> =
            Follower::new(1, Limits { decisions: 8, waiters: 6 });
        let mut alive: Vec<(Offset, u64, Place, bool)> = Vec::new();
        let (mut names, mut watermark) = (0, 0);
        for act in acts {
            let effects = match act {
                Act::Wait(offset) => {
                    names += 1;
                    match follower.register(0, offset, names, Some(1)) {
                        Registered::Known(decision) => prop_assert_eq!(decision, offset),
                        Registered::Full => prop_assert_eq!(alive.len(), 6),
                        Registered::Waiting { place, ask_store } => {
                            alive.push((offset, names, place, ask_store));
                        }
                    }
                    Vec::new()
                }
                Act::Leave(at) => {
                    if at < alive.len() {
                        follower.leave(alive.remove(at).2);
                    }
                    Vec::new()
                }
                Act::Decide(offsets, lost) => {
                    watermark += offsets.len() as u64;
                    let decisions = match lost {
                        true => Vec::new(),
                        false => offsets.iter().map(|offset| (*offset, *offset)).collect(),
                    };
                    let message = Message { end: 0, decisions, ..quiet(0, watermark) };
                    follower.step(NOW, Event::Message(message))
                }
                Act::Gap => follower.step(NOW, Event::Gap),
            };
            for effect in effects {
                match effect {
                    Effect::Tell(name, decision) => {
                        let at = alive.iter().position(|waiter| waiter.1 == name);
                        prop_assert_eq!(at.map(|at| alive.remove(at).0), Some(decision));
                    }
                    Effect::AskStore(name) => {
                        let waiter = alive.iter_mut().find(|waiter| waiter.1 == name).unwrap();
                        prop_assert!(!waiter.3, "sent to the store twice");
                        waiter.3 = true;
                    }
                    Effect::Took(_) | Effect::Ignored(_) | Effect::Contradiction { .. } => {
                        prop_assert!(false, "nothing was measured and nothing contradicted");
                    }
                }
            }
            prop_assert!(alive.iter().all(|(offset, _, _, asked)| *asked || *offset >= watermark));
            prop_assert_eq!(follower.waiters(), alive.len());
            prop_assert!(follower.order.len() <= 8);
            prop_assert_eq!(follower.order.len(), follower.partitions[0].decisions.len());
        }
    }
}
