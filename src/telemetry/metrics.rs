//! Every metric: name, unit, labels, and a typed function that records it.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::domain::{
    decision::Decision, halt::HaltReason, ids::Partition, invariant::Invariant, reason::Reason,
    rows::SkipState,
};

const REQUESTS: &str = "coupond_requests_total";
const DECISIONS: &str = "coupond_decisions_total";
const ISSUE_LATENCY: &str = "coupond_issue_latency_seconds";
const APPEND_LATENCY: &str = "coupond_append_latency_seconds";
const STORE_LATENCY: &str = "coupond_store_latency_seconds";
const PARTITION_LAG: &str = "coupond_partition_lag_records";
const WATERMARK_AGE: &str = "coupond_watermark_age_seconds";
const CAMPAIGNS: &str = "coupond_campaigns";
const ACTORS: &str = "coupond_actors";
const ACTOR_RESTARTS: &str = "coupond_actor_restarts_total";
const DATABASE_REQUESTS: &str = "coupond_database_requests_total";
const BY_USER_RESTORED: &str = "coupond_by_user_rows_restored_total";
const VIOLATIONS: &str = "coupond_invariant_violations_total";
const RECOVERY: &str = "coupond_recovery_seconds";
const WAITERS: &str = "coupond_waiters";
const DEAD_LETTERS: &str = "coupond_dead_letters_total";
const FEED_LOST: &str = "coupond_feed_lost_messages_total";
const CLOCK_STEPS: &str = "coupond_clock_steps_total";
const SKIPS: &str = "coupond_skips_total";
const ADMIN_DENIED: &str = "coupond_admin_denied_total";
const NODE_CAN_DECIDE: &str = "coupond_node_can_decide";
const MEMBERSHIP_LEFT: &str = "coupond_membership_left_total";
const PARTITIONS_HALTED: &str = "coupond_partition_halted";
const PARTITIONS_EXPIRING: &str = "coupond_partition_expiring";

/// Counts a request by its outcome at the edge. Outcomes are a closed set, so that the label stays
/// bounded.
pub fn request(outcome: &'static str) {
    counter!(REQUESTS, "outcome" => outcome).increment(1);
}

/// Registers the counter of an outcome at 0 in advance: `increase()` does not see the first sample
/// of a series.
pub fn requests_from_zero(outcome: &'static str) {
    counter!(REQUESTS, "outcome" => outcome).increment(0);
}

/// Counts decisions that this process settled, once per position.
pub fn decisions(decision: &Decision, count: u64) {
    let (status, reason) = match decision {
        Decision::Issued(_) => ("issued", ""),
        Decision::AlreadyIssued(_) => ("already_issued", ""),
        Decision::Rejected(reason) => ("rejected", reason.name()),
        Decision::Accepted => ("accepted", ""),
        Decision::Refused(_) => ("refused", ""),
    };
    counter!(DECISIONS, "status" => status, "reason" => reason).increment(count);
}

/// Records the time from a request to its durable decision, as seen by the node that answers.
pub fn issue_latency(latency: Duration) {
    histogram!(ISSUE_LATENCY).record(latency);
}

/// Records the time from sending an append to its acknowledgement.
pub fn append_latency(latency: Duration) {
    histogram!(APPEND_LATENCY).record(latency);
}

/// Records the duration of one operation of the coupon store.
pub fn store_latency(operation: &'static str, latency: Duration) {
    histogram!(STORE_LATENCY, "operation" => operation).record(latency);
}

/// Sets the number of records of a partition that wait for a decision. Its owner reports it.
pub fn partition_lag(partition: Partition, records: u64) {
    gauge!(PARTITION_LAG, "partition" => partition.to_string()).set(records as f64);
}

/// Sets for how long the watermark of a partition has stood still while records wait; 0 when nothing
/// waits. Its owner reports it.
pub fn watermark_age(partition: Partition, age: Duration) {
    gauge!(WATERMARK_AGE, "partition" => partition.to_string()).set(age.as_secs_f64());
}

/// Sets the number of coupon actors of this node in a state.
pub fn actors(state: &'static str, count: usize) {
    gauge!(ACTORS, "state" => state).set(count as f64);
}

/// Sets the number of campaigns of this node's partitions in a state.
pub fn campaigns(state: &'static str, count: usize) {
    gauge!(CAMPAIGNS, "state" => state).set(count as f64);
}

/// Counts a restart of a coupon actor after a failure.
pub fn actor_restart() {
    counter!(ACTOR_RESTARTS).increment(1);
}

/// Kinds of requests to the database.
#[derive(Debug, Clone, Copy)]
pub enum DatabaseRequest {
    /// A page of rows.
    Read,
    /// A row, or a batch of rows of one database partition.
    Write,
}

/// Counts a request to the database.
pub fn database_request(request: DatabaseRequest) {
    let kind = match request {
        DatabaseRequest::Read => "read",
        DatabaseRequest::Write => "write",
    };
    counter!(DATABASE_REQUESTS, "kind" => kind).increment(1);
}

/// Counts by-user rows that had vanished and were written again.
pub fn by_user_rows_restored(count: usize) {
    counter!(BY_USER_RESTORED).increment(count as u64);
}

/// Counts a broken invariant, or an operation stopped because it would have broken one.
pub fn violation(invariant: Invariant) {
    counter!(VIOLATIONS, "invariant" => invariant.id()).increment(1);
}

/// Records the time from the start of a campaign's load to its first decision.
pub fn recovery(duration: Duration) {
    histogram!(RECOVERY).record(duration);
}

/// Counts admin requests with a wrong token.
pub fn admin_denied() {
    counter!(ADMIN_DENIED).increment(1);
}

/// Sets the number of requests that wait for a decision.
pub fn waiters(count: usize) {
    gauge!(WAITERS).set(count as f64);
}

/// Counts a record stored as a dead letter.
pub fn dead_letter(reason: &'static str) {
    counter!(DEAD_LETTERS, "reason" => reason).increment(1);
}

/// Counts a message of the decision feed that was not sent or not accepted.
pub fn feed_lost(reason: &'static str) {
    counter!(FEED_LOST, "reason" => reason).increment(1);
}

/// Counts a step of the wall clock, during which the embedded log takes no records.
pub fn clock_step() {
    counter!(CLOCK_STEPS).increment(1);
}

/// Counts a skip of a partition of this node that came in force, or became void.
pub fn skip(state: SkipState) {
    counter!(SKIPS, "state" => state.name()).increment(1);
}

/// Sets whether this node's last probe succeeded.
pub fn node_can_decide(can_decide: bool) {
    gauge!(NODE_CAN_DECIDE).set(if can_decide { 1.0 } else { 0.0 });
}

/// Reasons for which a node leaves the consumer group.
pub const LEAVE_REASONS: [&str; 2] = ["another_decides", "nothing_answers"];

/// Counts that this node left the consumer group because it cannot decide.
pub fn membership_left(reason: &'static str) {
    counter!(MEMBERSHIP_LEFT, "reason" => reason).increment(1);
}

/// Sets whether a partition that this node owns is halted for `reason`.
pub fn partition_halted(partition: Partition, reason: HaltReason, halted: bool) {
    let value = if halted { 1.0 } else { 0.0 };
    gauge!(PARTITIONS_HALTED, "partition" => partition.to_string(), "reason" => reason.slug())
        .set(value);
}

/// Sets whether the log of a partition is about to remove records that nobody has decided.
pub fn partition_expiring(partition: Partition, expiring: bool) {
    let value = if expiring { 1.0 } else { 0.0 };
    gauge!(PARTITIONS_EXPIRING, "partition" => partition.to_string()).set(value);
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Description {
    name: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
}

const fn counter_of(name: &'static str, help: &'static str) -> Description {
    Description { name, kind: Kind::Counter, unit: Unit::Count, help }
}

const fn gauge_of(name: &'static str, help: &'static str) -> Description {
    Description { name, kind: Kind::Gauge, unit: Unit::Count, help }
}

const fn seconds_of(name: &'static str, help: &'static str) -> Description {
    Description { name, kind: Kind::Histogram, unit: Unit::Seconds, help }
}

const ALL: [Description; 24] = [
    counter_of(REQUESTS, "Requests by their outcome at the edge."),
    counter_of(DECISIONS, "Decisions that this process settled, once per position."),
    seconds_of(ISSUE_LATENCY, "Request received to decision durable."),
    seconds_of(APPEND_LATENCY, "Append sent to durable."),
    seconds_of(STORE_LATENCY, "One operation of the coupon store."),
    gauge_of(PARTITION_LAG, "Records of a partition that wait for a decision, on its owner."),
    gauge_of(
        WATERMARK_AGE,
        "Time for which the watermark of a partition has stood still while records wait, on its owner.",
    ),
    gauge_of(CAMPAIGNS, "Campaigns of this node's partitions that had records, by state."),
    gauge_of(ACTORS, "Coupon actors of this node, by state."),
    counter_of(ACTOR_RESTARTS, "Restarts of coupon actors after a failure."),
    counter_of(
        DATABASE_REQUESTS,
        "Requests to the CQL database: reads by page, writes by row or batch.",
    ),
    counter_of(BY_USER_RESTORED, "By-user rows that had vanished and were written again."),
    counter_of(VIOLATIONS, "Broken or just prevented violations of invariants, by id."),
    seconds_of(RECOVERY, "Start of a campaign's load to its first decision."),
    gauge_of(WAITERS, "Requests that wait for a decision."),
    counter_of(DEAD_LETTERS, "Records stored as dead letters, by reason."),
    counter_of(FEED_LOST, "Messages of the decision feed not sent or not accepted, by reason."),
    counter_of(CLOCK_STEPS, "Steps of the wall clock, during which the log took no records."),
    gauge_of(
        PARTITIONS_EXPIRING,
        "1 while undecided records are about to be removed, otherwise 0.",
    ),
    counter_of(SKIPS, "Skips that came in force or became void, by their state."),
    counter_of(ADMIN_DENIED, "Admin requests with a wrong token."),
    gauge_of(NODE_CAN_DECIDE, "1 while this node's probes succeed, otherwise 0."),
    counter_of(
        MEMBERSHIP_LEFT,
        "Times that this node left the group as it cannot decide, by reason.",
    ),
    gauge_of(PARTITIONS_HALTED, "1 for a halted partition of this node, otherwise 0."),
];

/// Returns the name of every metric.
#[cfg(test)]
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|metric| metric.name)
}

/// Describes every metric to the recorder, and registers at 0 the counters that alerts watch.
pub(super) fn describe() {
    for Description { name, kind, unit, help } in ALL {
        match kind {
            Kind::Counter => describe_counter!(name, unit, help),
            Kind::Gauge => describe_gauge!(name, unit, help),
            Kind::Histogram => describe_histogram!(name, unit, help),
        }
    }
    for invariant in Invariant::COUNTED {
        counter!(VIOLATIONS, "invariant" => invariant.id()).increment(0);
    }
    counter!(ACTOR_RESTARTS).increment(0);
    counter!(BY_USER_RESTORED).increment(0);
    counter!(CLOCK_STEPS).increment(0);
    counter!(ADMIN_DENIED).increment(0);
    for reason in LEAVE_REASONS {
        counter!(MEMBERSHIP_LEFT, "reason" => reason).increment(0);
    }
    for state in [SkipState::InForce, SkipState::Void] {
        counter!(SKIPS, "state" => state.name()).increment(0);
    }
    let refused = Reason::ALL.map(|reason| ("rejected", reason.name()));
    for (status, reason) in [("issued", ""), ("already_issued", "")].into_iter().chain(refused) {
        counter!(DECISIONS, "status" => status, "reason" => reason).increment(0);
    }
    waiters(0);
    // Naming a histogram registers it without samples.
    for name in [ISSUE_LATENCY, APPEND_LATENCY, RECOVERY] {
        let _named = histogram!(name);
    }
}
