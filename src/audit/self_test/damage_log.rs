//! Damage to log, progress and holds.

use super::{
    good::{id, set_progress},
    world::{AuditWorld, PARTITIONS},
};
use crate::{
    domain::{
        ids::{Offset, Partition},
        rows::{HoldState, SkipState},
    },
    log::memory::MemoryPartition,
};

fn home(world: &AuditWorld, campaign: &str) -> Partition {
    world.codec.partition_of(&id(campaign))
}

fn log_of<'a>(world: &'a mut AuditWorld, campaign: &str) -> &'a mut MemoryPartition {
    let partition = home(world, campaign);
    &mut world.logs[partition as usize]
}

/// Returns the offset of a request in the middle of campaign "plain" that got a coupon.
fn issued(world: &AuditWorld) -> Offset {
    world.rows.coupons[&(id("plain"), 5)].position.offset
}

pub(super) fn hold_lost(world: &mut AuditWorld) {
    world.rows.holds.clear();
}

pub(super) fn hold_count_lost(world: &mut AuditWorld) {
    world.rows.registers.clear();
}

pub(super) fn hold_closed_early(world: &mut AuditWorld) {
    let next = world.rows.progress[&home(world, "held")].next;
    for hold in &mut world.rows.holds {
        hold.state = HoldState::Closed;
        hold.until = next;
    }
}

pub(super) fn hold_closed_above(world: &mut AuditWorld) {
    for hold in &mut world.rows.holds {
        hold.until += 1_000;
    }
}

pub(super) fn hold_elsewhere(world: &mut AuditWorld) {
    for hold in &mut world.rows.holds {
        hold.partition = (hold.partition + 1) % PARTITIONS;
    }
}

pub(super) fn held_start_lost(world: &mut AuditWorld) {
    let from = world.rows.holds.first().map_or(0, |hold| hold.from);
    let log = log_of(world, "held");
    log.records.retain(|offset, _| *offset > from);
    log.low = from + 1;
}

pub(super) fn skip_lost(world: &mut AuditWorld) {
    world.rows.skips.clear();
}

pub(super) fn skip_void(world: &mut AuditWorld) {
    world.rows.skips.values_mut().for_each(|skip| skip.state = SkipState::Void);
}

pub(super) fn coupon_in_skip(world: &mut AuditWorld) {
    let keys = world.keys.clone();
    let partition = home(world, "coded");
    let skip = world.rows.skips.values().find(|skip| skip.partition == partition).cloned();
    if let (Some(skip), Some(coupon)) = (skip, world.rows.coupons.get(&(id("coded"), 5)).cloned()) {
        let mut moved = coupon;
        moved.position.offset = skip.from;
        moved.digest = keys.coupon_digest(&moved);
        world.put(moved);
    }
}

pub(super) fn tail_lost(world: &mut AuditWorld) {
    let log = log_of(world, "plain");
    log.high -= 20;
    let high = log.high;
    log.records.retain(|offset, _| *offset < high);
}

pub(super) fn recreated(world: &mut AuditWorld) {
    *log_of(world, "plain") = MemoryPartition::default();
}

pub(super) fn start_lost(world: &mut AuditWorld) {
    let low = world.rows.progress[&home(world, "plain")].next + 5;
    let log = log_of(world, "plain");
    log.records.retain(|offset, _| *offset >= low);
    log.low = low;
}

pub(super) fn last_rewritten(world: &mut AuditWorld) {
    let log = log_of(world, "plain");
    if let Some(mut last) = log.records.last_entry() {
        last.get_mut().value.push(b' ');
    }
}

pub(super) fn record_rewritten(world: &mut AuditWorld) {
    let offset = issued(world);
    if let Some(record) = log_of(world, "plain").records.get_mut(&offset) {
        // Records of foreign producers need no MAC, so decoding cannot detect this one.
        record.value =
            br#"{"v":1,"type":"request","campaign_id":"plain","user_id":"eve"}"#.to_vec();
        record.mac = None;
    }
}

pub(super) fn record_lost(world: &mut AuditWorld) {
    let offset = issued(world);
    log_of(world, "plain").records.remove(&offset);
}

pub(super) fn control_forged(world: &mut AuditWorld) {
    let second = world.rows.versions.keys().filter(|(of, _)| *of == id("amended")).nth(1);
    let offset = second.map_or(0, |(_, offset)| *offset);
    if let Some(record) = log_of(world, "amended").records.get_mut(&offset) {
        record.mac = None;
    }
}

pub(super) fn times_shifted(world: &mut AuditWorld) {
    for record in log_of(world, "plain").records.values_mut() {
        record.time.0 += 1;
    }
}

pub(super) fn progress_of_another(world: &mut AuditWorld) {
    if let Some(progress) = world.rows.progress.get_mut(&0) {
        progress.log_epoch = 2;
    }
}

pub(super) fn progress_names_other(world: &mut AuditWorld) {
    let (partition, right) =
        (home(world, "plain"), world.rows.progress[&home(world, "plain")].next);
    set_progress(world, partition, right / 2);
    if let Some(progress) = world.rows.progress.get_mut(&partition) {
        progress.next = right;
    }
}
