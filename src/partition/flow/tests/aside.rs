//! Records that are set aside: stories, and what the random owners do with them.

use super::{
    stories::{SPRING, SUMMER, Story},
    *,
};
use crate::{domain::definition::Terms, partition::acks::id_hash};

impl FlowWorld {
    pub(super) fn look_up(&mut self, at: usize, below: Offset, wanted: &Wanted) {
        let wants = |id: &&CampaignId| match wanted {
            Wanted::These(ids) => ids.contains(id),
            Wanted::Hashed(hashes) => hashes.contains(&id_hash(id)),
        };
        let versions = self.store.versions.keys().map(|(id, _)| id);
        let known = versions.chain(self.store.marks.keys()).filter(wants);
        let known: BTreeSet<_> = known.cloned().collect();
        self.looked_up += 1;
        self.step(at, Event::LookedUp { below, known: known.into_iter().collect() });
    }

    /// Reads a chunk for one of the runs over records that are read again.
    pub(super) fn read_again(&mut self, at: usize) {
        let of = [Again::Campaigns, Again::Holds, Again::Letters][self.random.below(3) as usize];
        let most = 1 + self.random.below(25) as usize;
        let owner = &mut self.owners[at];
        let Some((run, from, wanted)) = owner.again.get_mut(&of) else { return };
        let first = self.log.partition_point(|(at, _)| at.offset < *from);
        let chunk = &self.log[first..(first + most).min(self.log.len())];
        let Some((last, _)) = chunk.last().filter(|_| *wanted) else { return };
        let (run, read_to) = (*run, last.offset + 1);
        (*from, *wanted) = (read_to, false);
        let records = chunk.iter().map(|(at, record)| read_of(*at, record.clone()));
        let event = match of {
            Again::Campaigns => Event::ReadAgain { run, records: records.collect(), read_to },
            Again::Holds => Event::Replayed { run, records: records.collect(), read_to },
            Again::Letters => {
                let records = records.map(|read| read.raw).collect();
                Event::LettersRead { run, records, read_to }
            }
        };
        self.again += 1;
        self.step(at, event);
    }

    /// Returns whether the campaign of the record at `offset` is not defined there.
    pub(super) fn is_undefined(&self, offset: Offset) -> bool {
        let of = |(at, _): &&(At, Record)| at.offset == offset;
        let (_, record) = self.log.iter().find(of).expect("the log has it");
        let id = record.campaign();
        let mut state = Campaign::new(id.clone(), 1, 0, self.keys.clone());
        let its =
            self.log.iter().filter(|(at, other)| at.offset <= offset && other.campaign() == id);
        let outcomes: Vec<_> = its.map(|(at, record)| state.fold(*at, record)).collect();
        matches!(outcomes.last(), Some(Outcome::Undefined))
    }
}

/// Returns a story with a window of 48 records. Every unknown campaign is looked up.
fn narrow() -> Story {
    Story::with(Limits { window_records: 48, batch_records: 12, ..Limits::default() })
}

fn count(story: &Story, is: impl Fn(&Effect) -> bool) -> usize {
    story.effects.iter().filter(|effect| is(effect)).count()
}

fn credit_of(story: &Story) -> usize {
    let credit = story.effects.iter().map(|effect| match effect {
        Effect::Credit(credit) => *credit,
        _ => 0,
    });
    credit.sum()
}

#[test]
fn undefined_campaigns_cost_no_actor_and_no_credit() {
    let mut story = narrow();
    story.known = vec![campaign(SPRING)];
    (10..1_010).for_each(|of| story.asks(of));
    story.asks(SPRING);
    let paid: usize = story.log.iter().map(|(at, it)| stories::cost(*at, it)).sum();
    assert_eq!(credit_of(&story), 48 + paid, "all of it is back");
    assert_eq!(count(&story, |it| matches!(it, Effect::Start { .. })), 0);
    assert_eq!(count(&story, |it| matches!(it, Effect::LookUp { .. })), 1);
    story.goes_on();
    assert_eq!((story.decided.clone(), story.letters.len()), (vec![1_000], 1_000));
    let campaigns = (Again::Campaigns, 1_000);
    assert!(story.again.contains(&campaigns), "only its own record is read again");
    assert_eq!((story.flow.watermark(), story.state(10)), (1_001, "stopped"));
}

#[test]
fn records_that_cannot_be_decoded_cost_no_credit() {
    let mut story = narrow();
    (0..1_000).for_each(|_| story.reads_noise());
    assert_eq!(credit_of(&story), 48 + 1_000, "all of it is back before a letter is written");
    assert_eq!(count(&story, |it| matches!(it, Effect::DeadLetter { .. })), 0);
    story.goes_on();
    assert_eq!((story.letters.len(), story.flow.watermark()), (1_000, 1_000));
    assert_eq!(story.again, [(Again::Letters, 0)], "one run reads them again");
}

#[test]
fn many_unknown_campaigns_are_looked_up_in_one_scan() {
    let mut story = narrow();
    story.asks(SPRING);
    let few = vec![campaign(SPRING)];
    let wants = |effect: &Effect, wanted: &Wanted| matches!(effect, Effect::LookUp { wanted: it, .. } if it == wanted);
    assert_eq!(count(&story, |it| wants(it, &Wanted::These(few.clone()))), 1);
    (10..11 + POINT_LOOKUPS_MAX as u64).for_each(|of| story.asks(of));
    let below = 1;
    story.effects.clear();
    story.step(Event::LookedUp { below, known: few });
    let is_scan = |it: &Effect| matches!(it, Effect::LookUp { wanted: Wanted::Hashed(hashes), .. } if hashes.len() == POINT_LOOKUPS_MAX + 1);
    assert_eq!(count(&story, is_scan), 1, "{:?}", story.effects);
}

#[test]
fn a_request_goes_before_the_definition_behind_it() {
    let mut story = narrow();
    story.asks(SPRING);
    let change = Change::Defined { terms: Terms::of(10) };
    let define = Control::once("token", campaign(SPRING), None, change);
    story.reads(Record::from(define));
    story.asks(SPRING);
    // The lookup began before the definition was stored.
    story.goes_on();
    assert_eq!((story.decided.clone(), story.flow.watermark()), (vec![0, 1, 2], 3));
}

#[test]
fn a_loading_campaign_keeps_its_share() {
    let mut story = Story::with(Limits { window_records: 1_024, ..Limits::default() });
    (0..1_000).for_each(|_| story.asks(SPRING));
    let paid: usize = story.log.iter().map(|(at, it)| stories::cost(*at, it)).sum();
    let kept = 1_024 + paid - credit_of(&story);
    assert!((254..=256).contains(&kept), "{kept} kept");
    story.goes_on();
    assert_eq!(story.decided, (0..1_000).collect::<Vec<_>>(), "in their order");
    assert_eq!(story.flow.watermark(), 1_000);
}

#[test]
fn a_restart_reads_again_what_was_stored_above_progress() {
    let mut story = Story::new();
    story.asks(SUMMER);
    let waiting = std::mem::take(&mut story.effects);
    (0..5).for_each(|_| story.asks(SPRING));
    story.goes_on();
    assert_eq!((story.decided.len(), story.flow.watermark()), (5, 0));
    let (id, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
    let reason = "it panicked".to_owned();
    story.step(Event::Failed { campaign: id, incarnation, reason });
    story.asks(SPRING);
    story.goes_on();
    assert_eq!(story.decided[5..], [1, 2, 3, 4, 5, 6], "decided again, and in order");
    story.effects = waiting;
    story.goes_on();
    assert_eq!(story.flow.watermark(), 7);
}

#[test]
fn no_row_is_missed_among_what_is_set_aside() {
    let mut story = Story::with(Limits { window_records: 1_024, ..Limits::default() });
    (0..1_000).for_each(|_| story.asks(SPRING));
    let (id, incarnation) = (campaign(SPRING), story.incarnation(SPRING));
    let expects_until = Some(900);
    story.effects.clear();
    story.step(Event::Started { campaign: id, incarnation, expects_until });
    let passed = story.effects.iter().find_map(|effect| match effect {
        Effect::Send { batch, .. } => Some(batch.passed),
        _ => None,
    });
    assert!(passed.is_some_and(|passed| passed <= 256), "{passed:?}");
}

#[test]
fn what_is_set_aside_passes_under_a_hold() {
    let mut story = Story::with(Limits { window_records: 1_024, ..Limits::default() });
    (0..1_000).for_each(|_| story.asks(SPRING));
    story.effects.clear();
    story.contradicts(SPRING, 999);
    assert_eq!((story.decided.len(), story.flow.watermark()), (0, 1_000));
    assert_eq!(story.stored[&1].from, 0, "the hold covers all of it");
    story.releases(SPRING);
    story.goes_on();
    assert_eq!(story.decided, (0..=1_000).collect::<Vec<_>>());
    assert_eq!(story.flow.watermark(), 1_001);
}

#[test]
fn a_stuck_campaign_gives_way() {
    let mut story = Story::new();
    story.asks(SPRING);
    story.goes_on();
    (0..8_000).for_each(|_| story.asks(SPRING));
    let before = credit_of(&story);
    story.step(Event::Tick { now_ms: 2_000, wall: Timestamp(0) });
    let freed = credit_of(&story) - before;
    assert!(freed > 8_000 / 2, "{freed}");
    story.goes_on();
    assert_eq!((story.decided.len(), story.flow.watermark()), (8_001, 8_001));
}

/// Lets a story's records wait for their actors, and returns how many credits they keep.
fn keeps(story: &Story) -> usize {
    let paid: usize = story.log.iter().map(|(at, it)| stories::cost(*at, it)).sum();
    story.window() + paid - story.credit - credit_of(story)
}

#[test]
fn those_that_cannot_decide_keep_half_of_the_window() {
    let mut story = Story::with(Limits { window_records: 16_384, ..Limits::default() });
    // The loads of eight campaigns hang.
    for round in 0..4_000 {
        (0..8).for_each(|of| story.asks(of));
        if round % 100 == 0 {
            story.step(Event::Tick { now_ms: round, wall: Timestamp(0) });
        }
    }
    story.step(Event::Tick { now_ms: 5_000, wall: Timestamp(0) });
    let kept = keeps(&story);
    assert!(kept <= 16_384 / 2, "{kept} kept of {}", story.window());
    story.goes_on();
    assert_eq!((story.decided.len(), story.flow.watermark()), (32_000, 32_000));
}

#[test]
fn a_campaign_that_decides_leaves_room_while_others_wait() {
    let mut story = Story::new();
    story.asks(SPRING);
    story.goes_on();
    // Alone it has the window.
    (0..8_000).for_each(|_| story.asks(SPRING));
    let alone = keeps(&story);
    assert!(alone >= 8_000, "{alone}");
    story.asks(SUMMER);
    story.step(Event::Tick { now_ms: 50, wall: Timestamp(0) });
    (0..8_000).for_each(|_| story.asks(SPRING));
    let beside = keeps(&story);
    // What was sent before stays: four batches, in which some records cost more credit.
    assert!(beside <= 16_384 / 3, "{beside}");
    story.goes_on();
    let spring: Vec<_> = story.decided.iter().filter(|offset| **offset != 8_001).collect();
    assert!(spring.is_sorted() && spring.len() == 16_001, "each once, and in order");
    assert_eq!(story.flow.watermark(), 16_002);
    // The other one is gone.
    story.step(Event::Tick { now_ms: 11_000, wall: Timestamp(0) });
    (0..8_000).for_each(|_| story.asks(SPRING));
    assert!(keeps(&story) >= 8_000, "{}", keeps(&story));
}
