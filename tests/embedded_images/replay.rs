//! Runs a real node on images. It decides all records as before, whichever rows are missing.

use std::{path::Path, sync::Arc};

use coupond::{
    audit::Meter,
    domain::coupon::Coupon,
    node::{self, Node},
};

use super::{
    how_many,
    image::{Image, folder, lay_out},
    judge::{Contents, read},
    origin::{ask, config, stop},
    power_cuts::Run,
    runtime,
};

/// Most nodes running at once.
const AT_ONCE: usize = 2;

/// Starts a node on the folder, requests one more coupon of each campaign, and stops the node. An
/// answer shows that all earlier records are decided.
async fn replay(folder: &Path, truth: &Contents) {
    let node = Node::start(&config(folder)).await.unwrap();
    for campaign in truth.campaigns.keys() {
        let view = reqwest::get(format!("http://{}/campaigns/{campaign}", node.api)).await.unwrap();
        if view.status().as_u16() != 404 {
            let answer = ask(&node, campaign.as_str(), "somebody-else", Some("later")).await;
            assert!(answer["status"] != "pending" && !answer["status"].is_null(), "{answer}");
        }
    }
    stop(node, folder).await;
}

/// Counts the records of a partition that equal the original ones.
fn kept(found: &Contents, truth: &Contents, partition: usize) -> u64 {
    let pairs = found.records[partition].iter().zip(&truth.records[partition]);
    pairs.take_while(|(found, was)| found == was).count() as u64
}

fn check(found: &Contents, truth: &Contents, image: &Image) {
    let name = &image.name;
    for (campaign, was) in &truth.campaigns {
        let end = kept(found, truth, super::judge::home(campaign) as usize);
        let below = |coupons: &[Coupon]| -> Vec<Coupon> {
            coupons.iter().filter(|coupon| coupon.position.offset < end).cloned().collect()
        };
        let coupons = found.campaigns.get(campaign).map(|found| below(&found.coupons));
        assert_eq!(coupons.unwrap_or_default(), below(&was.coupons), "{name}: {campaign}");
        let versions = found.campaigns.get(campaign).map(|found| found.rows.versions.clone());
        let mut before = was.rows.versions.clone();
        before.retain(|version| version.position.offset < end);
        assert_eq!(versions.unwrap_or_default(), before, "{name}: {campaign}");
    }
    for (partition, acknowledged) in image.acknowledged.iter().enumerate() {
        assert!(kept(found, truth, partition) >= *acknowledged, "{name}: {partition}");
        assert!(found.rows[partition].holds.is_empty(), "{name}: {partition}");
        let settled = found.rows[partition].progress.as_ref().map_or(0, |progress| progress.next);
        assert_eq!(settled, found.records[partition].len() as u64, "{name}: {partition}");
    }
}

#[test]
fn a_power_cut_changes_no_decision() {
    let run = Arc::new(Run::new(60));
    runtime().block_on(async {
        let mut replays = tokio::task::JoinSet::new();
        for number in 0..how_many(8, 200) {
            if replays.len() == AT_ONCE {
                replays.join_next().await.unwrap().unwrap();
            }
            let run = run.clone();
            replays.spawn(async move {
                let folder = folder();
                let image = run.torn(number);
                lay_out(folder.path(), &run.files, &image);
                replay(folder.path(), &run.truth).await;
                let read = move || {
                    let found = read(folder.path(), None).unwrap();
                    check(&found, &run.truth, &image);
                };
                tokio::task::spawn_blocking(read).await.unwrap();
            });
        }
        while let Some(replayed) = replays.join_next().await {
            replayed.unwrap();
        }
    });
}

#[test]
fn a_damaged_folder_exits_with_3() {
    let run = Run::new(10);
    let folder = folder();
    let none = Image { name: String::new(), changed: Vec::new(), acknowledged: Vec::new() };
    lay_out(folder.path(), &run.files, &none);
    let journal = folder.path().join("database/0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&journal, &bytes).unwrap();
    runtime().block_on(async {
        let config = config(folder.path());
        let Err(error) = Node::start(&config).await else { panic!("the node started") };
        assert_eq!(error.exit_code(), 3, "{error}");
        let audited = node::audit(&config, None, Arc::new(Meter::default())).await;
        let error = audited.expect_err("the audit is refused");
        assert_eq!(error.exit_code(), 3, "{error}");
    });
    assert!(std::fs::read(&journal).unwrap() == bytes, "the journal was changed");
}
