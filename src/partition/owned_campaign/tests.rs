//! Phases of one campaign.

use super::*;
use crate::partition::fold::tests::{counts, read_of, request};

fn catching_up(from: Offset) -> OwnedCampaign {
    let phase = Phase::CatchingUp { from, chunk: None, counts: None, expects_until: None };
    OwnedCampaign::new(phase, 0)
}

#[test]
fn a_campaign_starts_and_decides() {
    let mut campaign = OwnedCampaign::new(Phase::Starting, 0);
    campaign.window.push(read_of(request(10, "ada"), 100));
    assert_eq!(campaign.next_batch(9, 11), None, "its rows are not loaded");
    assert_eq!(campaign.started(None), None);
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
fn a_replay_goes_chunk_by_chunk_and_meets() {
    let mut campaign = catching_up(5);
    assert_eq!(campaign.started(None), Some(5));
    campaign.begin_chunk(Vec::new(), None);
    assert!(!campaign.expects_chunk(), "one chunk at a time");
    campaign.replayed(Some(counts(3)));
    assert_eq!(campaign.chunk_stored(), ChunkStored::Continue);
    assert!(campaign.expects_chunk());
    campaign.begin_chunk(Vec::new(), Some(20));
    assert_eq!(campaign.next_batch(9, 21), None, "the last chunk goes first");
    assert_eq!(campaign.chunk_stored(), ChunkStored::Met(Some(counts(3))));
    assert_eq!(campaign.start_from(8), 20, "what was replayed is not decided again");
}

#[test]
fn a_chunk_waits_for_its_dead_letters() {
    let mut campaign = catching_up(5);
    let read = [7, 8].map(|offset| read_of(request(offset, "ada"), 100).raw);
    campaign.begin_chunk(read.to_vec(), None);
    assert_eq!([7, 8].map(|at| campaign.await_dead_letter(at)), read.map(Some));
    assert!(!campaign.dead_letter_kept(7));
    assert!(campaign.dead_letter_kept(8));
    assert!(!campaign.dead_letter_kept(8), "a letter that is kept twice counts once");
}

#[test]
fn a_restart_forgets_the_replay() {
    let mut campaign = catching_up(5);
    campaign.begin_chunk(Vec::new(), None);
    campaign.replayed(Some(counts(3)));
    campaign.restart(2, Phase::Starting);
    assert!(!campaign.is_replaying());
    assert_eq!(campaign.chunk_stored(), ChunkStored::Continue);
}
