//! The order in which rows become durable. A group is written after all rows of the group before.

use crate::domain::{
    change::ChangeRow,
    coupon::Coupon,
    definition::DefinitionVersion,
    ids::Partition,
    rows::{Hold, Mark, Progress, Register, Row},
};

/// Rows that may be written in any order, and a description of the write for error messages.
pub type Group = (&'static str, Vec<Row>);

const BY_USER: &str = "storing by-user rows";

/// Orders the rows of a batch. A version comes before all rows above it; changes decide nothing. By-user rows come last, of
/// `in_both_views`: elsewhere they are gathered over many batches.
#[must_use]
pub fn of_batch(
    versions: Vec<DefinitionVersion>,
    changes: Vec<ChangeRow>,
    coupons: Vec<Coupon>,
    in_both_views: bool,
) -> Vec<Group> {
    let version = |version| ("storing a definition version", vec![Row::Version(version)]);
    let by_user = coupons.iter().filter(|_| in_both_views).cloned().map(Row::ByUser).collect();
    let coupons = ("storing coupons", coupons.into_iter().map(Row::Coupon).collect());
    let change = |change| Row::Change(Box::new(change));
    let changes = ("storing changes", changes.into_iter().map(change).collect());
    filled(versions.into_iter().map(version).chain([changes, coupons, (BY_USER, by_user)]))
}

/// Returns the write of gathered by-user rows, whose coupon rows are durable. Each mark that counts
/// one of them comes after it.
#[must_use]
pub fn of_by_user(coupons: Vec<Coupon>) -> Vec<Group> {
    filled([(BY_USER, coupons.into_iter().map(Row::ByUser).collect())])
}

/// Returns the coupons of groups that were written.
pub fn coupons_of(groups: Vec<Group>) -> Vec<Coupon> {
    let rows = groups.into_iter().flat_map(|(_, rows)| rows);
    let coupons = rows.filter_map(|row| match row {
        Row::Coupon(coupon) => Some(coupon),
        _ => None,
    });
    coupons.collect()
}

/// Returns the write of a new owner's generation, before its first feed message.
#[must_use]
pub fn of_generation(partition: Partition, generation: u64) -> Vec<Group> {
    let register = Row::Register(partition, Register::Generation, generation);
    vec![("storing a generation", vec![register])]
}

/// Returns the write of the mark behind a version, after everything that it counts.
#[must_use]
pub fn of_mark(mark: Mark) -> Vec<Group> {
    vec![("storing a mark", vec![Row::Mark(mark)])]
}

/// Orders the write of a hold. A hold that is closed comes after the mark at its end, because a
/// reader that starts there checks the rows below against the mark.
#[must_use]
pub fn of_hold(hold: Hold, mark: Option<Mark>) -> Vec<Group> {
    let mark = ("storing a mark", mark.into_iter().map(Row::Mark).collect());
    filled([mark, ("storing a hold", vec![Row::Hold(hold)])])
}

/// Orders holds, the number of holds that are durable, and progress. A start at the end of a hold, or at
/// the progress, expects the mark to count every row below; so the marks are durable before. A hold
/// that progress passes must be counted, so that its row is missed; so progress comes last.
#[must_use]
pub fn of_progress(holds: Vec<Hold>, holds_ever: Option<u64>, progress: Progress) -> Vec<Group> {
    let holds = ("storing holds", holds.into_iter().map(Row::Hold).collect());
    let count = |count| Row::Register(progress.partition, Register::Holds, count);
    let count = ("counting holds", holds_ever.map(count).into_iter().collect());
    filled([holds, count, ("storing progress", vec![Row::Progress(progress)])])
}

fn filled(groups: impl IntoIterator<Item = Group>) -> Vec<Group> {
    groups.into_iter().filter(|(_, rows)| !rows.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ids::CampaignId,
        rows::{Counts, HoldKind, HoldState},
    };

    #[test]
    fn rows_follow_what_they_rely_on() {
        let campaign = CampaignId::parse("spring").unwrap();
        let counts = Counts { issued: 3, versions: 1, latest: 2 };
        let mark = Mark { campaign: campaign.clone(), offset: 9, counts };
        let progress = Progress { partition: 0, log_epoch: 1, next: 9, last: None };
        let (from, until, reason) = (2, 9, "it failed".to_owned());
        let (kind, state) = (HoldKind::Failure, HoldState::Closed);
        let hold = Hold { campaign, partition: 0, from, number: 1, kind, reason, state, until };
        let (mark_row, hold_row) = (Row::Mark(mark.clone()), Row::Hold(hold.clone()));
        let rows =
            |groups: Vec<Group>| groups.into_iter().map(|(_, rows)| rows).collect::<Vec<_>>();
        let last = Row::Progress(progress.clone());
        let count = Row::Register(0, Register::Holds, 1);
        let all = of_progress(vec![hold.clone()], Some(1), progress.clone());
        assert_eq!(rows(all), [[hold_row.clone()], [count], [last.clone()]]);
        assert_eq!(rows(of_progress(Vec::new(), None, progress)), [[last]]);
        assert_eq!(rows(of_hold(hold.clone(), Some(mark))), [[mark_row], [hold_row.clone()]]);
        assert_eq!(rows(of_hold(hold, None)), [[hold_row]]);
        assert_eq!(of_batch(Vec::new(), Vec::new(), Vec::new(), true), []);
    }
}
