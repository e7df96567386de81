//! Fuzz targets: request ids, which clients keep and may alter.

use super::request_id::{REQUEST_ID_BYTES_MAX, RequestContent, RequestIds, decode, encode};
use crate::{
    domain::{
        ids::{CampaignId, Position, Timestamp, UserId},
        keys::Keys,
    },
    fuzz,
};

fn ids() -> RequestIds {
    RequestIds::new(&Keys::derive(b"a secret of tests and of nothing else"), "one")
}

fn contents() -> Vec<RequestContent> {
    let content = |campaign: &str, user: &str, offset, key_digest| RequestContent {
        position: Position { log_epoch: 1, partition: 3, offset },
        time: Timestamp(1_700_000_000_123),
        campaign: CampaignId::parse(campaign).unwrap(),
        user: UserId::parse(user).unwrap(),
        key_digest,
    };
    vec![
        content("spring", "ada", 7, None),
        content("a", "u", 0, Some([9; 16])),
        content(&"c".repeat(64), &"U".repeat(128), u64::MAX, Some([0; 16])),
    ]
}

#[test]
fn only_an_id_that_was_made_opens() {
    let ids = ids();
    let made: Vec<_> = contents().iter().map(|content| ids.seal(content)).collect();
    let valid: Vec<_> = made.iter().map(|id| id.clone().into_bytes()).collect();
    fuzz::run(&valid, &["opened", "refused"], |input, _| {
        let Ok(id) = std::str::from_utf8(input) else { return "refused" };
        let Some(content) = ids.open(id) else {
            assert!(!made.iter().any(|made| made == id));
            return "refused";
        };
        assert_eq!(ids.seal(&content), id);
        assert!(made.iter().any(|made| made == id), "an altered id opens");
        "opened"
    });
}

/// What is sealed is read by its one spelling, so that two ids are never one request.
#[test]
fn a_content_has_one_spelling() {
    let ids = ids();
    let valid: Vec<_> = contents().iter().map(encode).collect();
    fuzz::run(&valid, &["content", "refused"], |input, _| {
        let Some(content) = decode(input) else { return "refused" };
        assert_eq!(encode(&content), input);
        let id = ids.seal(&content);
        assert!(id.len() <= REQUEST_ID_BYTES_MAX, "{} bytes", id.len());
        assert_eq!(ids.open(&id), Some(content));
        "content"
    });
}
