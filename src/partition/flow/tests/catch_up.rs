//! Campaigns that catch up with their holds share one run over the log.

use super::{
    stories::{SPRING, SUMMER, Story},
    *,
};
use crate::domain::{ids::UserId, record::Request};

fn tick(now_ms: u64) -> Event {
    Event::Tick { now_ms, wall: Timestamp(0) }
}

/// Returns an owner that has just taken a partition over: each of `campaigns` has a hold from 0 on, and
/// a record at every `step`-th offset below `end`.
fn takeover(campaigns: u64, end: Offset, step: usize) -> Story {
    let mut story = Story::new();
    let request = |of| {
        let user = UserId::parse("ada").unwrap();
        Record::Request(Request { campaign: campaign(of), user, idempotency_key: None })
    };
    let offsets = (0..end).step_by(step);
    let at = |offset| At { offset, time: Timestamp(0) };
    let records =
        offsets.enumerate().map(|(nth, offset)| (at(offset), request(nth as u64 % campaigns)));
    story.log = records.collect();
    let holds = (0..campaigns).map(|of| hold(of, 0));
    story.takes_over(end, holds.collect());
    story
}

fn hold(of: u64, from: Offset) -> Hold {
    Hold {
        campaign: campaign(of),
        partition: 0,
        from,
        number: 1,
        kind: HoldKind::Failure,
        reason: "not_stored: its store was away".to_owned(),
        state: HoldState::Open,
        until: 0,
    }
}

fn starts(effect: &Effect) -> bool {
    matches!(effect, Effect::Start { .. })
}

fn are_live(story: &Story, campaigns: u64) -> bool {
    (0..campaigns).all(|of| story.state(of) == "live")
}

#[test]
fn eight_hundred_holds_end_with_one_scan() {
    let (campaigns, records) = (800, 20_000);
    let mut story = takeover(campaigns, records, 1);
    story.goes_on();
    assert!(are_live(&story, campaigns) && story.holds.len() == 800, "{:?}", story.holds);
    assert_eq!(story.decided.len() as u64, records, "each record is decided once");
    assert_eq!(story.read_again as u64, records);
}

#[test]
fn late_loads_cost_no_scan_each() {
    let (campaigns, records) = (800, 20_000);
    let mut story = takeover(campaigns, records, 1);
    // A load ends with every chunk of a run; the first ones more than a second before the next.
    let (mut loads, others) = std::mem::take(&mut story.effects).into_iter().partition(starts);
    story.effects = others;
    for now_ms in 1.. {
        let loads: &mut Vec<Effect> = &mut loads;
        let Some(load) = loads.pop() else { break };
        story.carry_out(load);
        story.step(tick(now_ms * if now_ms < 3 { 1_100 } else { 10 }));
        for effect in std::mem::take(&mut story.effects) {
            story.carry_out(effect);
        }
    }
    story.step(tick(60_000));
    story.goes_on();
    assert!(are_live(&story, campaigns));
    let scans = story.read_again as f64 / records as f64;
    assert!(scans <= 3.0, "{scans} scans");
}

#[test]
fn a_short_replay_waits_for_no_long_one() {
    let end = 7_999_001;
    let holds = || vec![hold(SPRING, 0), hold(SUMMER, 7_900_000)];
    let mut story = takeover(2, end, 1_000);
    story.takes_over(end, holds());
    story.goes_on();
    let begun: Vec<_> = story.again.iter().map(|(_, from)| *from).collect();
    assert_eq!(begun, [7_900_000, 0]);
    // One that comes later does not wait either, once the long one has lasted.
    story.takes_over(end, holds());
    let is_summer = |effect: &Effect| matches!(effect, Effect::Start { campaign: id, .. } if *id == campaign(SUMMER));
    let late = story.effects.extract_if(.., |effect| is_summer(effect)).next().unwrap();
    story.again.clear();
    for now_ms in [1_100, 2_300, 3_400] {
        story.step(tick(now_ms));
        for effect in std::mem::take(&mut story.effects) {
            story.carry_out(effect);
        }
    }
    story.effects.push(late);
    story.goes_on();
    let begun: Vec<_> = story.again.iter().map(|(_, from)| *from).collect();
    assert_eq!(begun.first().zip(begun.get(1)), Some((&0, &7_900_000)), "{begun:?}");
    assert!(are_live(&story, 2));
    assert!(story.read_again <= 2 * 8_300, "{} records read", story.read_again);
}

#[test]
fn campaigns_that_store_nothing_give_way() {
    let (campaigns, records) = (8, 40_000);
    let mut story = takeover(campaigns, records, 1);
    // Half of them store nothing that they get.
    let is_stuck = |id: &CampaignId| (0..4).any(|of| *id == campaign(of));
    let is_lost = |effect: &Effect| match effect {
        Effect::Send { campaign, .. } => is_stuck(campaign),
        _ => false,
    };
    for second in 0..60 {
        let answered = Event::HoldsCounted { found: 0, expected: 0 };
        story.step(answered);
        story.step(tick(second * 1_000));
        while !story.effects.is_empty() {
            let effects = std::mem::take(&mut story.effects);
            effects.into_iter().filter(|it| !is_lost(it)).for_each(|it| story.carry_out(it));
        }
    }
    let states: Vec<_> = (0..campaigns).map(|of| story.state(of)).collect();
    assert_eq!(states[4..], ["live"; 4], "{states:?}");
}
