//! Phases of one campaign.

use super::*;
use crate::partition::fold::tests::{counts, read_of, request};

/// Returns a campaign that catches up from 5 on, and to which 7 was handed.
fn catching_up() -> OwnedCampaign {
    let mut campaign = OwnedCampaign::new(Phase::catching_up(5), 0);
    assert_eq!(campaign.replays_from(), None, "its rows are not loaded");
    assert!(campaign.started(None));
    campaign.push_replayed(read_of(request(7, "ada"), 100));
    campaign.replayed_to(9);
    campaign
}

fn sends(campaign: &mut OwnedCampaign) -> Option<(Vec<Offset>, Offset)> {
    let batch = campaign.next_batch(9, 30)?;
    Some((batch.records.iter().map(|(at, _)| at.offset).collect(), batch.passed))
}

#[test]
fn a_campaign_starts_and_decides() {
    let mut campaign = OwnedCampaign::new(Phase::Starting, 0);
    campaign.window.push(read_of(request(10, "ada"), 100));
    assert_eq!(campaign.next_batch(9, 11), None, "its rows are not loaded");
    assert!(!campaign.started(None));
    assert_eq!(campaign.next_batch(9, 11).unwrap().records.len(), 1);
}

#[test]
fn an_expected_row_is_passed_by_an_empty_batch() {
    let mut campaign = OwnedCampaign::new(Phase::Starting, 0);
    campaign.started(Some(12));
    assert_eq!(campaign.next_batch(9, 12), None, "12 itself was not read yet");
    assert!(campaign.has_unsent());
    assert_eq!(campaign.next_batch(9, 13).map(|batch| batch.passed), Some(13));
    assert_eq!(campaign.next_batch(9, 14), None, "it is confirmed once");
}

#[test]
fn a_replay_goes_on_and_meets() {
    let mut campaign = catching_up();
    assert_eq!(sends(&mut campaign), Some((vec![7], 9)));
    assert!(campaign.batch_stored(1, 0));
    assert_eq!(campaign.replayed(Some(counts(3))).0, 1);
    assert_eq!((campaign.met(), campaign.replays_from()), (None, Some(9)));
    campaign.push_replayed(read_of(request(12, "bob"), 100));
    campaign.meets(20);
    campaign.push(read_of(request(20, "cid"), 100), 0);
    assert_eq!(campaign.first_unstored(), Some(20), "the others have passed");
    assert_eq!(sends(&mut campaign), Some((vec![12], 20)), "what was read live waits");
    assert_eq!((sends(&mut campaign), campaign.met()), (None, None));
    assert!(campaign.batch_stored(1, 0));
    campaign.replayed(None);
    assert_eq!(campaign.met(), Some(Some(counts(3))));
    assert_eq!(sends(&mut campaign), Some((vec![20], 30)));
    assert_eq!(campaign.start_from(8), 20, "what was replayed is not decided again");
}

#[test]
fn a_replay_waits_for_its_dead_letters() {
    let mut campaign = catching_up();
    sends(&mut campaign);
    assert!(campaign.batch_stored(1, 0));
    let read = read_of(request(7, "ada"), 100).raw;
    assert_eq!(campaign.replayed(None), (1, Some(read)));
    campaign.await_dead_letter(7);
    campaign.meets(20);
    assert_eq!(campaign.met(), None);
    campaign.dead_letter_kept(7);
    assert_eq!(campaign.met(), Some(None));
}

#[test]
fn a_replay_ends_once_no_row_is_expected() {
    let mut campaign = OwnedCampaign::new(Phase::catching_up(5), 0);
    campaign.started(Some(12));
    campaign.replayed_to(9);
    assert_eq!(sends(&mut campaign), None);
    campaign.meets(20);
    assert_eq!(campaign.met(), None, "12 was not confirmed");
    assert_eq!(sends(&mut campaign), Some((Vec::new(), 20)));
    assert_eq!(campaign.met(), None, "nor is it yet");
    assert!(campaign.batch_stored(0, 0));
    assert_eq!(campaign.met(), Some(None));
}

#[test]
fn a_restart_forgets_the_replay() {
    let mut campaign = catching_up();
    campaign.meets(9);
    campaign.push(read_of(request(20, "cid"), 100), 0);
    assert_eq!(campaign.restart(2, Phase::Starting), 1, "its credit is given back");
    assert!(!campaign.is_replaying());
    assert_eq!((campaign.met(), campaign.first_unstored()), (None, Some(20)));
}
