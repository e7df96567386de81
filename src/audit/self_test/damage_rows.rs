//! Damage to the store.

use super::{
    good::{id, user},
    world::AuditWorld,
};
use crate::domain::{
    campaign::user_bucket,
    change::ChangeRow,
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::{CampaignId, IdempotencyKey, Sequence, Timestamp},
    rows::{Mark, Row},
};

/// A coupon in the middle of a campaign.
const MIDDLE: Sequence = 5;

fn coupon(world: &AuditWorld, campaign: &str, sequence: Sequence) -> Coupon {
    world.rows.coupons[&(id(campaign), sequence)].clone()
}

fn last(world: &AuditWorld, campaign: &str) -> Sequence {
    let all = world.rows.coupons.keys().filter(|(of, _)| *of == id(campaign));
    all.map(|(_, sequence)| *sequence).max().unwrap_or(0)
}

/// Returns a coupon with a valid digest, which needs the secret.
fn signed(world: &AuditWorld, mut coupon: Coupon) -> Coupon {
    let digest = world.keys.user_digest(&coupon.user);
    let buckets = world.rows.versions.iter().find(|((of, _), _)| *of == coupon.campaign);
    let buckets = buckets.map_or(1, |(_, version)| version.definition.user_buckets);
    coupon.user_bucket = user_bucket(digest, buckets);
    coupon.digest = world.keys.coupon_digest(&coupon);
    coupon
}

/// Replaces the coupon of its sequence in both views.
fn replace(world: &mut AuditWorld, coupon: Coupon) {
    let coupon = signed(world, coupon);
    world.remove(&coupon.campaign, coupon.sequence);
    world.put(coupon);
}

fn change(world: &mut AuditWorld, sequence: Sequence, change: impl FnOnce(&mut Coupon)) {
    let mut coupon = coupon(world, "plain", sequence);
    change(&mut coupon);
    replace(world, coupon);
}

pub(super) fn coupon_lost(world: &mut AuditWorld) {
    world.remove(&id("plain"), MIDDLE);
}

pub(super) fn last_coupon_lost(world: &mut AuditWorld) {
    world.remove(&id("plain"), last(world, "plain"));
}

pub(super) fn all_coupons_lost(world: &mut AuditWorld) {
    for sequence in 1..=last(world, "plain") {
        world.remove(&id("plain"), sequence);
    }
}

pub(super) fn coupon_row_lost(world: &mut AuditWorld) {
    world.rows.coupons.remove(&(id("plain"), MIDDLE));
}

pub(super) fn by_user_row_lost(world: &mut AuditWorld) {
    world.rows.by_user.retain(|(of, _, _, sequence), _| *of != id("plain") || *sequence != MIDDLE);
}

pub(super) fn by_user_row_added(world: &mut AuditWorld) {
    let mut more = coupon(world, "plain", MIDDLE);
    more.sequence = last(world, "plain") + 1;
    more.user = user("eve");
    let more = signed(world, more);
    let key = (more.campaign.clone(), more.user_bucket, more.user.clone(), more.sequence);
    world.rows.by_user.insert(key, more);
}

pub(super) fn by_user_row_changed(world: &mut AuditWorld) {
    let found = world
        .rows
        .by_user
        .iter_mut()
        .find(|((of, _, _, sequence), _)| *of == id("plain") && *sequence == MIDDLE);
    if let Some((_, row)) = found {
        row.code = "ANOTHER".into();
    }
}

pub(super) fn by_user_row_moved(world: &mut AuditWorld) {
    let row = coupon(world, "plain", MIDDLE);
    by_user_row_lost(world);
    let key = (row.campaign.clone(), row.user_bucket, user("eve"), row.sequence);
    world.rows.by_user.insert(key, row);
}

pub(super) fn code_changed(world: &mut AuditWorld) {
    let mut coupon = coupon(world, "plain", MIDDLE);
    coupon.code = "ANOTHER".into();
    world.put(coupon);
}

pub(super) fn code_signed_again(world: &mut AuditWorld) {
    change(world, MIDDLE, |coupon| coupon.code = "ANOTHER".into());
}

pub(super) fn user_replaced(world: &mut AuditWorld) {
    change(world, MIDDLE, |coupon| coupon.user = user("eve"));
}

pub(super) fn time_changed(world: &mut AuditWorld) {
    change(world, MIDDLE, |coupon| coupon.issued_at.0 += 1);
}

pub(super) fn key_changed(world: &mut AuditWorld) {
    let key = IdempotencyKey::parse("k").expect("a fixed key is valid");
    let digest = world.keys.key_digest(&user("eve"), &key).to_le_bytes();
    change(world, MIDDLE, |coupon| coupon.key_digest = Some(digest));
}

pub(super) fn coupons_swapped(world: &mut AuditWorld) {
    let (mut one, mut other) = (coupon(world, "plain", MIDDLE), coupon(world, "plain", MIDDLE + 1));
    std::mem::swap(&mut one.sequence, &mut other.sequence);
    replace(world, one);
    replace(world, other);
}

pub(super) fn position_changed(world: &mut AuditWorld) {
    change(world, MIDDLE, |coupon| coupon.position.log_epoch = 2);
}

pub(super) fn coupon_copied(world: &mut AuditWorld) {
    let mut twice = coupon(world, "plain", MIDDLE);
    twice.sequence = MIDDLE + 1;
    replace(world, twice);
}

/// Adds a coupon that the log does not derive: a copy of the one of `sequence` with a changed
/// sequence and code, and what `change` changes.
fn one_more(
    world: &mut AuditWorld,
    campaign: &str,
    sequence: Sequence,
    change: impl FnOnce(&mut Coupon),
) {
    let mut more = coupon(world, campaign, sequence);
    more.sequence = last(world, campaign) + 1;
    more.code = format!("MORE-{}", more.sequence).into();
    change(&mut more);
    replace(world, more);
}

pub(super) fn second_for_request(world: &mut AuditWorld) {
    one_more(world, "coded", MIDDLE, |_| {});
}

pub(super) fn beyond_quota(world: &mut AuditWorld) {
    let sequence = last(world, "plain");
    one_more(world, "plain", sequence, |coupon| {
        coupon.user = user("eve");
        coupon.position.offset += 1;
    });
}

pub(super) fn beyond_limit(world: &mut AuditWorld) {
    let sequence = last(world, "coded");
    one_more(world, "coded", sequence, |coupon| coupon.position.offset += 1);
}

pub(super) fn issued_while_paused(world: &mut AuditWorld) {
    let paused = world.rows.versions.values().find(|version| version.definition.paused);
    let offset = paused.map_or(0, |version| version.position.offset + 1);
    one_more(world, "steered", 1, |coupon| {
        coupon.user = user("eve");
        coupon.position.offset = offset;
    });
}

pub(super) fn code_of_another(world: &mut AuditWorld) {
    let code = coupon(world, "coded", 1).code;
    change(world, MIDDLE, |coupon| coupon.code = code);
}

fn change_version(
    world: &mut AuditWorld,
    campaign: &str,
    number: usize,
    change: impl FnOnce(&mut DefinitionVersion),
) -> CampaignId {
    let campaign = id(campaign);
    let its = world.rows.versions.values_mut().filter(|version| version.campaign == campaign);
    if let Some(version) = its.into_iter().nth(number) {
        change(version);
    }
    campaign
}

fn sign_versions(world: &mut AuditWorld, campaign: &CampaignId) {
    let keys = world.keys.clone();
    for version in world.rows.versions.values_mut().filter(|version| version.campaign == *campaign)
    {
        version.digest = keys.version_digest(version);
    }
}

pub(super) fn version_lost(world: &mut AuditWorld) {
    let second = world.rows.versions.keys().filter(|(of, _)| *of == id("amended")).nth(1).cloned();
    if let Some(key) = second {
        world.rows.versions.remove(&key);
    }
}

pub(super) fn version_changed(world: &mut AuditWorld) {
    change_version(world, "amended", 1, |version| version.definition.terms.quota += 1);
}

pub(super) fn quota_signed_again(world: &mut AuditWorld) {
    let campaign =
        change_version(world, "amended", 1, |version| version.definition.terms.quota += 1);
    sign_versions(world, &campaign);
}

pub(super) fn version_count_changed(world: &mut AuditWorld) {
    let campaign = change_version(world, "amended", 0, |version| version.issued += 1);
    sign_versions(world, &campaign);
}

pub(super) fn version_added(world: &mut AuditWorld) {
    let first =
        world.rows.versions.values().find(|version| version.campaign == id("plain")).cloned();
    if let Some(mut version) = first {
        version.position.offset += 1;
        version.definition.terms.quota += 1;
        version.digest = world.keys.version_digest(&version);
        world.put_version(version);
    }
}

pub(super) fn listing_lost(world: &mut AuditWorld) {
    world.rows.listing.remove(&id("plain"));
}

pub(super) fn listing_added(world: &mut AuditWorld) {
    world.rows.listing.insert(id("invented"));
}

fn change_mark(world: &mut AuditWorld, change: impl FnOnce(&mut Mark)) {
    if let Some(mark) = world.rows.marks.get_mut(&id("plain")) {
        change(mark);
    }
}

pub(super) fn mark_raised(world: &mut AuditWorld) {
    change_mark(world, |mark| mark.counts.issued += 1);
}

pub(super) fn mark_lowered(world: &mut AuditWorld) {
    change_mark(world, |mark| mark.counts.issued -= 1);
}

pub(super) fn mark_lost(world: &mut AuditWorld) {
    world.rows.marks.remove(&id("plain"));
}

pub(super) fn mark_old(world: &mut AuditWorld) {
    let offset = coupon(world, "plain", MIDDLE).position.offset;
    change_mark(world, |mark| {
        mark.offset = offset;
        mark.counts.issued = MIDDLE - 1;
    });
}

pub(super) fn mark_above(world: &mut AuditWorld) {
    change_mark(world, |mark| mark.offset += 1_000);
}

pub(super) fn coupon_above(world: &mut AuditWorld) {
    one_more(world, "coded", 1, |coupon| {
        coupon.user = user("eve");
        coupon.position.offset += 1_000_000;
    });
}

pub(super) fn wrong_above_progress(world: &mut AuditWorld) {
    let mut above = world.rows.coupons.values().filter(|coupon| {
        coupon.position.offset >= world.rows.progress[&coupon.position.partition].next
    });
    if let Some(mut coupon) = above.next_back().cloned() {
        coupon.user = user("eve");
        replace(world, coupon);
    }
}

pub(super) fn limit_below_log(world: &mut AuditWorld) {
    let holder = coupon(world, "plain", MIDDLE - 1).user;
    change(world, MIDDLE, |coupon| coupon.user = holder);
}

pub(super) fn early_below_log(world: &mut AuditWorld) {
    let mut early = coupon(world, "steered", 1);
    early.issued_at = Timestamp(early.issued_at.0 - 10_000);
    replace(world, early);
}

pub(super) fn twice_below_log(world: &mut AuditWorld) {
    let position = coupon(world, "plain", MIDDLE - 1).position;
    change(world, MIDDLE, |coupon| coupon.position = position);
}

pub(super) fn quota_below_log(world: &mut AuditWorld) {
    let campaign =
        change_version(world, "plain", 0, |version| version.definition.terms.quota = MIDDLE);
    sign_versions(world, &campaign);
}

pub(super) fn change_lost(world: &mut AuditWorld) {
    let refused = world.rows.changes.values().find(|change| change.refusal.is_some());
    let key = refused.map(|change| (change.position.partition, change.position.offset));
    key.map(|key| world.rows.changes.remove(&key));
}

/// Changes a row, and signs it where the secret is known.
fn change_row(world: &mut AuditWorld, is_signed: bool, alter: impl FnOnce(&mut ChangeRow)) {
    let keys = world.keys.clone();
    let refused = world.rows.changes.values_mut().find(|change| change.refusal.is_some());
    let Some(row) = refused else { return };
    alter(row);
    if is_signed {
        row.digest = keys.change_digest(row);
    }
}

pub(super) fn change_blamed(world: &mut AuditWorld) {
    change_row(world, false, |row| row.by = "eve".to_owned());
}

pub(super) fn change_signed_again(world: &mut AuditWorld) {
    change_row(world, true, |row| row.by = "eve".to_owned());
}

pub(super) fn refusal_hidden(world: &mut AuditWorld) {
    change_row(world, true, |row| row.refusal = None);
}

pub(super) fn change_added(world: &mut AuditWorld) {
    let request = coupon(world, "plain", MIDDLE).position;
    let mut row = world.rows.changes.values().next().cloned().expect("campaigns are defined");
    row.position = request;
    row.digest = world.keys.change_digest(&row);
    world.rows.apply(Row::Change(Box::new(row)));
}
