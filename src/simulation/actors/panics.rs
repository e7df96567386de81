//! One panic at every message of every actor, and one panic or failure at every call of a port.

use super::*;
use crate::simulation::{
    act::Verb,
    course::{Course, Timed},
    link::{Call, Fate},
    probe::ActorKind,
    run,
};

/// A short course in which nearly every message and call occurs.
fn course() -> Course {
    let (node, quota, limit) = (0, 8, 1);
    let (opens_ms, closes_ms) = (None, None);
    let define = |campaign| Act::Define { node, campaign, quota, limit, opens_ms, closes_ms };
    let foreign = |kind, campaign, user| Act::Foreign { kind, campaign, user };
    let control = |campaign, verb| Act::Control { node, campaign, verb };
    let mut client = 0;
    let mut ask = |campaign, user| {
        client += 1;
        Act::Ask { client, node, campaign, user, key: None, wait_ms: Some(500) }
    };
    // By then the partition has its owner.
    let mut acts = vec![
        (400, define(0)),
        (420, foreign(Foreign::Undefined, 1, 1)),
        (430, foreign(Foreign::Malformed, 0, 1)),
    ];
    acts.extend((0..6).map(|user| (600 + u64::from(user), ask(0, user))));
    acts.extend([(610, define(1)), (620, Act::CrashActor { campaign: 0 })]);
    acts.extend((0..4).map(|user| (800, ask(1, user))));
    acts.push((830, control(0, Verb::Pause)));
    // Repeated failures put the campaign on hold: five, or more calls where two batches fail at once.
    // It is released and replayed.
    acts.push((860, Act::Curse { campaign: 1, times: 11 }));
    acts.extend((4..6).map(|user| (870, ask(1, user))));
    acts.push((880, control(0, Verb::Resume)));
    acts.extend([(1_400, ask(1, 7)), (1_450, control(1, Verb::Release)), (1_500, ask(0, 7))]);
    acts.push((1_700, Act::Move { partition: 0, told_ms: 0 }));
    acts.push((1_750, ask(0, 8)));
    let mut setup = narrow(1, 2);
    setup.nodes = 2;
    let acts = acts.into_iter().map(|(at, act)| Timed { at, act }).collect();
    Course { setup, acts }
}

/// Plays the course with these acts before all others. Returns how often each kind struck.
fn struck(first: Vec<Act>, what: &str) -> std::collections::BTreeMap<String, u64> {
    let mut course = course();
    course.acts.splice(0..0, first.into_iter().map(|act| Timed { at: 0, act }));
    let outcome = run(&course, false);
    assert_eq!(outcome.violations, [], "{what}");
    outcome.struck
}

#[test]
fn a_panic_at_any_message_changes_no_answer() {
    for actor in ActorKind::ALL {
        let mut after = 0;
        loop {
            let panic = Act::PanicAt { actor, after, node: None };
            if !struck(vec![panic.clone()], &panic.to_string()).contains_key(&panic.kind()) {
                break;
            }
            after += 1;
        }
        assert!(after > 10, "{actor:?} has handled {after} messages");
    }
}

/// Plays the course with this fate of each call once.
fn at_each_call(fate: Fate) {
    // Clients append and find, a node joins before it has actors, and operators make skips. By-user
    // rows are looked at once the course is over. Nobody probes.
    let of_course = |call: &Call| {
        use Call::{Append, Find, Join, ReadByUser, ReadListing, WriteSkip};
        use Call::{ForgetNode, ReadNodes, WriteNode};
        !matches!(call, Append | Find | Join | ReadListing | ReadByUser | WriteSkip)
            && !matches!(call, WriteNode | ReadNodes | ForgetNode)
    };
    for &call in Call::ALL.iter().filter(|call| of_course(call)) {
        let strike = |fate| Act::Strike { call, fate, node: None };
        let mut before = 0;
        loop {
            let mut acts = vec![strike(Fate::Slow { ms: 0 }); before];
            acts.push(strike(fate));
            let what = format!("{} calls, then {}", before, acts[before]);
            if !struck(acts, &what).contains_key(&strike(fate).kind()) {
                break;
            }
            before += 1;
        }
        assert!(before > 0, "{call:?} was not called");
    }
}

#[test]
fn a_panic_at_any_call_changes_no_answer() {
    at_each_call(Fate::Panics);
}

#[test]
fn a_failure_of_any_call_changes_no_answer() {
    at_each_call(Fate::Refused);
}
