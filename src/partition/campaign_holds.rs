//! The holds of one campaign and their transitions, as the owner of its partition knows them.

use std::collections::BTreeMap;

use super::window::Window;
use crate::domain::{
    halt::HoldReason,
    ids::{CampaignId, Offset, Partition},
    rows::{Hold, HoldKind, HoldName, HoldState},
};

/// The holds of one campaign.
///
/// A hold is written open, written released, caught up, and written closed. A closed hold still
/// covers positions from its `until` on, so the owner extends it for as long as it owns the
/// partition.
#[derive(Debug, Default)]
pub(super) struct Holds {
    /// The highest number of a hold so far.
    number: u32,
    /// Where the holds begin that are being written, by their numbers.
    opening: BTreeMap<u32, Offset>,
    /// Holds to catch up: not closed, or closed by another owner below what passed here.
    current: Vec<Hold>,
    /// Closed holds that this owner extends.
    closed: Vec<Hold>,
    /// Closes that are being written. Each writes its mark first, so an extension must wait for it.
    closing: usize,
    /// Where a replay would begin if none of these closes became durable.
    closing_from: Option<Offset>,
    /// Where a replay would begin if the extensions that are being written did not become durable.
    extending_from: Option<Offset>,
    /// Release records that wait, each for one of the holds that it names to be marked released.
    releasing: Vec<(Offset, HoldName)>,
}

impl Holds {
    /// Returns whether the campaign has a hold to catch up.
    pub(super) fn is_held(&self) -> bool {
        !self.current.is_empty()
    }

    /// Returns whether the campaign never had a hold, as far as this owner knows.
    pub(super) fn is_unheard_of(&self) -> bool {
        self.number == 0 && !self.is_held() && !self.has_closed()
    }

    /// Returns whether this owner extends a closed hold.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Returns the lowest position that a hold to catch up leaves unsettled.
    pub(super) fn held_from(&self) -> Option<Offset> {
        self.current.iter().map(Hold::unsettled_from).min()
    }

    /// Returns the lowest position at which a replay would begin, now or under the next owner. A hold
    /// counts from its opening on: it may be durable before the owner hears of it.
    pub(super) fn keep_from(&self) -> Option<Offset> {
        let known = self.current.iter().chain(&self.closed).map(Hold::unsettled_from);
        let known = known.chain(self.opening.values().copied());
        known.chain(self.closing_from).chain(self.extending_from).min()
    }

    /// Returns whether the owner may catch up without an operator's release.
    pub(super) fn may_retry(&self) -> bool {
        let may = |hold: &Hold| hold.state != HoldState::Open || hold.kind == HoldKind::Failure;
        self.is_held() && self.current.iter().all(may)
    }

    /// Returns whether a hold for this reason is in force from `from` or below.
    pub(super) fn covers(&self, reason: HoldReason, from: Offset) -> bool {
        // A release that meets another obstacle needs a hold of its own: the released one would be
        // tried again by each new owner, and names the wrong remedy.
        let is_for =
            |hold: &Hold| (hold.kind, hold.reason_parts().0) == (reason.kind(), reason.slug());
        let covers = |hold: &Hold| hold.is_in_force() && is_for(hold) && hold.from <= from;
        self.current.iter().any(covers)
    }

    /// Returns whether this owner knows `hold` as in force. Another owner may have closed it.
    pub(super) fn is_in_force(&self, hold: &Hold) -> bool {
        self.current.iter().any(|known| known.is_same(hold) && known.is_in_force())
    }

    /// Returns whether `hold` is known in this state or a later one.
    pub(super) fn knows(&self, hold: &Hold) -> bool {
        let same = |known: &Hold| known.is_same(hold) && known.state >= hold.state;
        self.current.iter().chain(&self.closed).any(same)
    }

    /// Returns whether this owner extends `hold`.
    pub(super) fn is_closed(&self, hold: &Hold) -> bool {
        self.closed.iter().any(|known| known.is_same(hold))
    }

    /// Notes a number that the store has given out.
    pub(super) fn number_seen(&mut self, number: u32) {
        self.number = self.number.max(number);
    }

    /// Returns a new hold to be written. It counts from [`Self::written_open`] on.
    pub(super) fn open(
        &mut self,
        campaign: &CampaignId,
        partition: Partition,
        from: Offset,
        (reason, detail): (HoldReason, &str),
    ) -> Hold {
        self.number += 1;
        self.opening.insert(self.number, from);
        Hold {
            campaign: campaign.clone(),
            partition,
            from,
            number: self.number,
            kind: reason.kind(),
            reason: reason.text(detail),
            state: HoldState::Open,
            until: 0,
        }
    }

    /// Takes over a hold, written here or found in the store, in place of its earlier state.
    pub(super) fn take(&mut self, hold: &Hold) {
        self.opening.remove(&hold.number);
        self.current.retain(|known| !known.is_same(hold));
        self.closed.retain(|known| !known.is_same(hold));
        self.current.push(hold.clone());
    }

    /// Notes that the hold is written open. Records of the window that release it wait from now on.
    /// Returns its released state, to be written, if there is one.
    pub(super) fn written_open(&mut self, hold: &Hold, window: &Window) -> Option<Hold> {
        self.take(hold);
        let name = hold.name();
        let before = self.releasing.len();
        self.releasing.extend(window.releases(name).map(|offset| (offset, name)));
        (self.releasing.len() > before).then(|| released(hold))
    }

    /// Makes the release record at `offset` wait until the holds that it names, and that are in
    /// force, are marked released. Returns their released states, to be written.
    pub(super) fn release(&mut self, offset: Offset, names: &[HoldName]) -> Vec<Hold> {
        let named = |hold: &&Hold| hold.is_in_force() && names.contains(&hold.name());
        let rows: Vec<_> = self.current.iter().filter(named).map(released).collect();
        self.releasing.extend(rows.iter().map(|hold| (offset, hold.name())));
        rows
    }

    /// Returns whether the release record at `offset` waits.
    pub(super) fn is_releasing(&self, offset: Offset) -> bool {
        self.releasing.iter().any(|(waiting, _)| *waiting == offset)
    }

    /// Returns whether a hold is open.
    pub(super) fn is_open(&self) -> bool {
        self.current.iter().any(|hold| hold.state == HoldState::Open)
    }

    /// Notes that the hold is written released. Returns the release records that pass now.
    pub(super) fn written_released(&mut self, hold: &Hold) -> Vec<Offset> {
        // The store may have shown the release before, and the hold may be closed by now.
        if !self.is_closed(hold) {
            self.take(hold);
        }
        let waited: Vec<_> =
            self.releasing.extract_if(.., |(_, name)| *name == hold.name()).collect();
        let passing = waited.into_iter().map(|(offset, _)| offset);
        passing.filter(|offset| !self.is_releasing(*offset)).collect()
    }

    /// Closes every hold: the campaign is decided and stored below `until`. Returns the rows to be
    /// written.
    pub(super) fn close(&mut self, until: Offset) -> Vec<Hold> {
        self.closing_from = self.keep_from();
        self.closed.append(&mut self.current);
        for hold in &mut self.closed {
            (hold.state, hold.until) = (HoldState::Closed, until);
        }
        self.closing += self.closed.len();
        self.closed.clone()
    }

    /// Notes that a close is written.
    pub(super) fn written_closed(&mut self) {
        self.closing = self.closing.saturating_sub(1);
        if self.closing == 0 {
            self.closing_from = None;
        }
    }

    /// Extends a hold that another owner closed, where nothing passed under it here.
    pub(super) fn adopt(&mut self, hold: &Hold) {
        self.closed.push(hold.clone());
    }

    /// Returns whether a closed hold ends below `watermark`, and may be extended to it.
    pub(super) fn may_extend(&self, watermark: Offset) -> bool {
        !self.is_held()
            && self.closing == 0
            && self.closed.iter().any(|hold| hold.until < watermark)
    }

    /// Extends the closed holds to `watermark`, below which this owner has decided everything of
    /// the campaign. Returns the rows to be written.
    pub(super) fn extend(&mut self, watermark: Offset) -> Vec<Hold> {
        if !self.may_extend(watermark) {
            return Vec::new();
        }
        self.extending_from = self.keep_from();
        let shorter = self.closed.iter_mut().filter(|hold| hold.until < watermark);
        let extended = shorter.map(|hold| {
            hold.until = watermark;
            hold.clone()
        });
        extended.collect()
    }

    /// Notes that every extension is written.
    pub(super) fn written_extended(&mut self) {
        self.extending_from = None;
    }
}

/// Returns the released state of a hold.
fn released(hold: &Hold) -> Hold {
    Hold { state: HoldState::Released, ..hold.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAILED: HoldReason = HoldReason::ActorFailed;

    fn opened(holds: &mut Holds, from: Offset, reason: HoldReason) -> Hold {
        let campaign = CampaignId::parse("spring").unwrap();
        let hold = holds.open(&campaign, 0, from, (reason, "it failed"));
        holds.written_open(&hold, &Window::default());
        hold
    }

    #[test]
    fn a_hold_is_opened_released_and_closed() {
        let mut holds = Holds::default();
        let hold = opened(&mut holds, 40, HoldReason::RowAltered);
        assert_eq!((holds.held_from(), holds.may_retry()), (Some(40), false));
        let released = holds.release(55, &[hold.name()]).remove(0);
        assert!(holds.is_releasing(55));
        assert_eq!(holds.written_released(&released), [55]);
        assert!(holds.may_retry() && holds.is_in_force(&hold));
        let closed = holds.close(60);
        assert_eq!((closed[0].state, closed[0].until), (HoldState::Closed, 60));
        assert!(!holds.is_held());
    }

    #[test]
    fn records_are_kept_for_a_hold_that_is_being_written() {
        let mut holds = Holds::default();
        let campaign = CampaignId::parse("spring").unwrap();
        let hold = holds.open(&campaign, 0, 40, (FAILED, "it failed"));
        assert_eq!(holds.keep_from(), Some(40), "it may be durable already");
        holds.written_open(&hold, &Window::default());
        let released = holds.release(55, &[hold.name()]).remove(0);
        holds.written_released(&released);
        holds.close(60);
        assert_eq!(holds.keep_from(), Some(40), "the close is not durable");
    }

    #[test]
    fn a_release_waits_for_every_hold_that_it_names() {
        let mut holds = Holds::default();
        let one = opened(&mut holds, 40, HoldReason::RowAltered);
        let other = opened(&mut holds, 50, FAILED);
        let [first, second] =
            <[Hold; 2]>::try_from(holds.release(55, &[one.name(), other.name()])).unwrap();
        assert!(holds.written_released(&first).is_empty());
        assert!(holds.is_open());
        assert_eq!(holds.written_released(&second), [55]);
        assert!(!holds.is_open());
    }

    #[test]
    fn a_release_of_another_hold_releases_nothing() {
        let mut holds = Holds::default();
        let first = opened(&mut holds, 40, HoldReason::RowAltered);
        holds.close(60);
        let second = opened(&mut holds, 65, HoldReason::RowAltered);
        // The record that released the first hold is appended again.
        assert!(holds.release(70, &[first.name()]).is_empty());
        assert!(holds.is_open() && !holds.is_releasing(70));
        assert_eq!(holds.release(71, &[second.name()]).len(), 1);
    }

    #[test]
    fn a_hold_is_extended_after_its_close() {
        let mut holds = Holds::default();
        opened(&mut holds, 40, FAILED);
        holds.close(60);
        assert_eq!(holds.extend(70), [], "its mark goes first");
        assert_eq!(holds.keep_from(), Some(40), "the close is not durable");
        holds.written_closed();
        assert_eq!(holds.keep_from(), Some(60));
        assert_eq!(holds.extend(70)[0].until, 70);
        assert_eq!(holds.extend(70), [], "it reaches as far already");
        assert_eq!(holds.keep_from(), Some(60), "the extension is not durable");
        holds.written_extended();
        assert_eq!(holds.keep_from(), Some(70));
    }

    #[test]
    fn a_second_hold_keeps_the_first_from_extending() {
        let mut holds = Holds::default();
        opened(&mut holds, 40, FAILED);
        holds.close(60);
        holds.written_closed();
        let second = opened(&mut holds, 65, FAILED);
        assert_eq!((second.number, holds.extend(70)), (2, Vec::new()));
        assert!(holds.covers(FAILED, 65));
        assert!(!holds.covers(HoldReason::RowAltered, 65));
        assert!(!holds.covers(FAILED, 64));
    }

    #[test]
    fn numbers_go_on_from_the_stores() {
        let mut holds = Holds::default();
        holds.number_seen(7);
        assert_eq!(opened(&mut holds, 40, FAILED).number, 8);
    }
}
