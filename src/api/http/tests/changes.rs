//! Lists of changes.

use super::*;
use crate::domain::{change::ChangeRow, decision::Refusal, record::Change};

fn row() -> ChangeRow {
    let before = Definition::first(Terms::of(10));
    ChangeRow {
        campaign: CampaignId::parse("spring").unwrap(),
        position: Position { log_epoch: 1, partition: 2, offset: 41 },
        time: NOON,
        by: "otto".to_owned(),
        retried: false,
        change: Change::Paused,
        before: None,
        after: Some(Definition { paused: true, ..before }),
        refusal: None,
        digest: [0; 16],
    }
}

fn with_changes(changes: Vec<ChangeRow>, next: Option<[(Partition, Offset); 2]>) -> Script {
    Script {
        changes: Ok(ChangePage { changes, next: next.map(BTreeMap::from) }),
        ..Script::default()
    }
}

#[tokio::test]
async fn a_page_of_changes_says_who_what_and_where_it_goes_on() {
    let site = Site::new(with_changes(vec![row()], Some([(0, 7), (2, 42)])));
    let reply =
        site.admin(admitted(get("/admin/changes?campaign=spring&limit=1&after=2.40"))).await;
    let body = concat!(
        r#"{"changes":[{"at":"2026-11-27T12:00:00.123Z","campaign_id":"spring","change":"paused","by":"otto","#,
        r#""before":null,"after":{"quota":10,"per_user_limit":1,"opens_at":null,"closes_at":null,"listed":true,"#,
        r#""code":{"prefix":"","length":26,"charset":"0123456789ABCDEFGHJKMNPQRSTVWXYZ"},"#,
        r#""paused":true,"closed":false},"position":{"log_epoch":1,"partition":2,"offset":41},"#,
        r#""outcome":"accepted"}],"next":"0.7-2.42"}"#,
    );
    reply.expect(200, body);
    let asked = r#"changes (Some("spring"), {2: 40}, 1)"#;
    assert_eq!(site.service.asked(), [asked]);
}

#[tokio::test]
async fn a_refused_change_says_why() {
    for (refusal, outcome) in [
        (Refusal::StaleVersion, "stale_version"),
        (Refusal::QuotaBelowIssued { issued: 3 }, "quota_below_issued"),
        (Refusal::Closed, "closed"),
        (Refusal::Invalid, "invalid"),
    ] {
        let refused = ChangeRow { refusal: Some(refusal), ..row() };
        let site = Site::new(with_changes(vec![refused], None));
        let reply = site.admin(admitted(get("/admin/changes"))).await;
        assert!(reply.body.contains(&format!(r#""outcome":"{outcome}"}}]}}"#)), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_place_that_no_page_named_is_refused() {
    let site = Site::new(Script::default());
    for after in ["", "1", "1.x", "x.1", "1.1-", "-1.1", "1.1.1", "1.-1", "4294967296.1"] {
        let path = format!("/admin/changes?after={after}");
        site.admin(admitted(get(&path))).await.problem(422, "invalid");
    }
    site.admin(admitted(get("/admin/changes?limit=1001"))).await.problem(422, "invalid");
    site.admin(admitted(get("/admin/changes?campaign=NO"))).await.problem(422, "invalid");
    assert_eq!(site.service.asked(), Vec::<String>::new());
    let script =
        Script { changes: Err(ServiceError::TooManyPartitions { most: 128 }), ..Script::default() };
    let reply = Site::new(script).admin(admitted(get("/admin/changes"))).await;
    reply.problem(422, "invalid");
}
