//! Damage to the answers of clients.

use serde_json::{Value, json};

use super::{
    good::{id, user},
    world::AuditWorld,
};
use crate::{
    answer::request_id::{RequestContent, RequestIds},
    domain::ids::{CampaignId, Offset, Position, Timestamp, UserId},
};

/// Returns the first answer with this status of campaign "plain".
fn answer<'a>(world: &'a mut AuditWorld, status: &str) -> &'a mut Value {
    let mut of_plain = world.answers.iter_mut().filter(|line| line["campaign"] == "plain");
    of_plain
        .find(|line| line["body"]["status"] == status)
        .expect("every world has answers of every status")
}

/// Returns a valid request id without a request.
fn sealed(world: &AuditWorld, campaign: &CampaignId, user: &UserId, offset: Offset) -> String {
    let ids = RequestIds::new(&world.keys, &world.layout.instance);
    let partition = world.codec.partition_of(campaign);
    ids.seal(&RequestContent {
        position: Position { log_epoch: 1, partition, offset },
        time: Timestamp(1_800_000_000_000),
        campaign: campaign.clone(),
        user: user.clone(),
        key_digest: None,
    })
}

pub(super) fn request_id_invented(world: &mut AuditWorld) {
    answer(world, "issued")["body"]["request_id"] = json!("AQEinvented");
}

pub(super) fn request_id_of_another(world: &mut AuditWorld) {
    answer(world, "issued")["user"] = json!("eve");
}

pub(super) fn answer_coupon_lost(world: &mut AuditWorld) {
    world.remove(&id("plain"), 5);
}

pub(super) fn answer_other_coupon(world: &mut AuditWorld) {
    answer(world, "issued")["body"]["coupon"]["sequence"] = json!(7);
}

pub(super) fn answer_sold_out(world: &mut AuditWorld) {
    answer(world, "issued")["body"]["status"] = json!("rejected");
    let line = world.answers.iter_mut().find(|line| line["body"]["status"] == "rejected");
    if let Some(line) = line {
        line["body"]["reason"] = json!("sold_out");
    }
}

pub(super) fn answer_issued(world: &mut AuditWorld) {
    let coupon = answer(world, "issued")["body"]["coupon"].clone();
    let rejected = answer(world, "rejected");
    rejected["body"]["status"] = json!("issued");
    rejected["body"]["coupon"] = coupon;
}

pub(super) fn answer_other_reason(world: &mut AuditWorld) {
    answer(world, "rejected")["body"]["reason"] = json!("paused");
}

pub(super) fn answer_other_code(world: &mut AuditWorld) {
    answer(world, "issued")["body"]["coupon"]["code"] = json!("ANOTHER");
}

pub(super) fn answer_twice(world: &mut AuditWorld) {
    let mut again = answer(world, "rejected").clone();
    again["body"]["reason"] = json!("closed");
    world.answers.push(again);
}

pub(super) fn answer_two_for_key(world: &mut AuditWorld) {
    let keyed = world
        .answers
        .iter_mut()
        .find(|line| line["body"]["status"] == "issued" && !line["key"].is_null());
    if let Some(line) = keyed {
        let mut again = line.clone();
        let sequence = again["body"]["coupon"]["sequence"].as_u64().unwrap_or(0);
        again["body"]["coupon"]["sequence"] = json!(sequence + 1);
        world.answers.push(again);
    }
}

pub(super) fn answer_refused(world: &mut AuditWorld) {
    let keyed = world.answers.iter().find(|line| !line["key"].is_null()).cloned();
    let Some(keyed) = keyed else { return };
    let is_of = |line: &Value| ["campaign", "user", "key"].iter().all(|it| line[*it] == keyed[*it]);
    for line in world.answers.iter_mut().filter(|line| is_of(line)) {
        line["status"] = json!(503);
        line["body"] = json!({ "type": "/problems/unavailable" });
    }
}

pub(super) fn answer_in_skip(world: &mut AuditWorld) {
    let lost = |line: &&mut Value| line["user"].as_str().is_some_and(|it| it.starts_with("lost-"));
    if let Some(line) = world.answers.iter_mut().find(lost) {
        line["body"]["status"] = json!("rejected");
        line["body"]["reason"] = json!("sold_out");
    }
}

pub(super) fn answer_request_lost(world: &mut AuditWorld) {
    let id = sealed(world, &id("plain"), &user("eve"), 1_000_000);
    answer(world, "pending")["body"]["request_id"] = json!(id);
    answer(world, "pending")["user"] = json!("eve");
}

pub(super) fn answer_of_undefined(world: &mut AuditWorld) {
    let campaign = id("never-defined");
    let partition = world.codec.partition_of(&campaign);
    let of_it = |key: &[u8]| key == campaign.as_str().as_bytes();
    let records = &world.logs[partition as usize].records;
    let offset = records.iter().find(|(_, record)| of_it(&record.key)).map(|(offset, _)| *offset);
    let id = sealed(world, &campaign, &user("eve"), offset.unwrap_or(0));
    let line = answer(world, "pending");
    line["body"]["request_id"] = json!(id);
    line["user"] = json!("eve");
    line["campaign"] = json!(campaign);
}
