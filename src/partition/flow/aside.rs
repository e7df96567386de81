//! Records that are set aside: they keep 32 bytes and no credit, and are read again.
//!
//! A record is set aside when it cannot be decoded, when nobody knows its campaign, when its campaign has
//! its share of the window, or when an earlier record of its campaign is aside. The watermark waits
//! for it. Campaigns that decide share one run over the log; it hands each its records in order.
//! Another run writes dead letters: what cannot be decoded, and records of campaigns that do not exist.

use std::collections::BTreeSet;

use super::{
    super::{
        acks::id_hash,
        owned_campaign::{OwnedCampaign, Phase},
        window::credit,
    },
    Effect, Flow, LetterOf,
    event::{Again, Wanted},
};
use crate::{
    domain::{
        ids::{CampaignId, Offset},
        record::Record,
    },
    wire::{LogRecord, decode_step::ReadRecord},
};

/// Records of the window for each campaign that is started before it is known whether it exists: 16
/// campaigns at once in production. A few starts cost less than a lookup, and the first request of a
/// campaign should not wait for one.
const WINDOW_PER_UNPROVEN: usize = 1_024;

/// Campaigns that are looked up one by one. A scan of all campaigns costs less than more reads.
pub const POINT_LOOKUPS_MAX: usize = 256;

/// Records above the watermark at which a partition reads no further: 32 MiB.
pub const OUTSTANDING_MAX: usize = 1 << 20;

/// A run leaves campaigns behind that have taken nothing for this long, and begins anew for those
/// that wait below it.
const GIVE_WAY_MS: u64 = 1_000;

/// A run over records that are read again.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) number: u64,
    /// Everything below was handed out.
    pub(super) next: Offset,
    /// A chunk is being read.
    pub(super) reads: bool,
    begun_ms: u64,
    /// When the last chunk came.
    moved_ms: u64,
}

impl Run {
    /// Takes in that everything below `read_to` was read. Returns where the chunk begins.
    pub(super) fn goes_on(&mut self, read_to: Offset, now_ms: u64) -> Offset {
        (self.reads, self.moved_ms) = (false, now_ms);
        std::mem::replace(&mut self.next, read_to)
    }

    /// Returns whether it has waited long enough for a campaign that takes nothing.
    pub(super) fn gives_way(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.moved_ms) >= GIVE_WAY_MS
    }

    /// Returns whether it has lasted long enough to end for campaigns that wait elsewhere.
    pub(super) fn is_long(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.begun_ms) >= GIVE_WAY_MS
    }
}

/// What is set aside, and the runs over it.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Campaigns with records that are set aside.
    campaigns: BTreeSet<CampaignId>,
    /// Campaigns that were started unproven and have not loaded their rows.
    unproven: BTreeSet<CampaignId>,
    /// The unknown campaigns, while they are few.
    few: BTreeSet<CampaignId>,
    /// A lookup is under way.
    looks_up: bool,
    run: Option<Run>,
    letters: Option<Run>,
    /// Dead letters of the last chunk that are not durable.
    writing: usize,
    runs: u64,
    /// Credit to be given back, and credit that records took which were read again.
    freed: usize,
    owed: usize,
}

impl Aside {
    /// Returns the campaigns with records that are set aside.
    pub(super) fn campaigns(&self) -> impl Iterator<Item = &CampaignId> {
        self.campaigns.iter()
    }

    /// Notes a campaign with records that are set aside.
    pub(super) fn note(&mut self, campaign: CampaignId) {
        self.campaigns.insert(campaign);
    }

    /// Notes the credit of a record that was read again and waits in a window.
    pub(super) fn take(&mut self, read: &ReadRecord) {
        self.owed += credit(&read.raw);
    }
}

impl Flow {
    /// Returns whether so many records were read again that no run may go on.
    pub(super) fn is_in_debt(&self) -> bool {
        self.aside.owed > self.share()
    }

    /// Gives credit back, as soon as that may be.
    pub(super) fn free(&mut self, credit: usize) {
        self.aside.freed += credit;
    }

    /// Gives the reader the credit that is free. Nothing while too much waits above the watermark.
    pub(super) fn give_credit(&mut self, effects: &mut Vec<Effect>) {
        let settling = self.acks.watermark() - self.durability.progress();
        let outstanding = self.acks.len() + usize::try_from(settling).unwrap_or(usize::MAX);
        let Aside { freed, owed, .. } = &mut self.aside;
        let paid = (*freed).min(*owed);
        (*freed, *owed) = (*freed - paid, *owed - paid);
        if *freed > 0 && outstanding < self.limits.outstanding_records {
            effects.push(Effect::Credit(std::mem::take(freed)));
        }
    }

    /// Starts the campaign of a record that was read, unless it must be looked up before. Returns
    /// whether it has a place now.
    pub(super) fn starts(&mut self, read: &ReadRecord, effects: &mut Vec<Effect>) -> bool {
        let campaign = read.record.campaign();
        let is_control = matches!(read.record, Record::Control(_));
        // Control records have our MAC. Those of one campaign go one way: behind a record that is
        // looked up, another one is looked up, too.
        let unproven_max = self.limits.window_records / WINDOW_PER_UNPROVEN;
        let is_few = self.acks.unknowns() == 0 && self.aside.unproven.len() < unproven_max;
        if !is_control && !is_few {
            self.acks.unknown(read.raw.offset, campaign);
            if self.aside.few.len() <= POINT_LOOKUPS_MAX {
                self.aside.few.insert(campaign.clone());
            }
            return false;
        }
        if !is_control {
            self.aside.unproven.insert(campaign.clone());
        }
        self.start(campaign, 0, effects);
        true
    }

    /// Gives a campaign its place, if it has none. Its records that are being looked up come first.
    pub(super) fn enter(&mut self, campaign: &CampaignId, phase: Phase) {
        if self.campaigns.contains_key(campaign) {
            return;
        }
        let is_looked_up = self.acks.unknowns() > 0;
        let first = is_looked_up.then(|| self.acks.first_of(&BTreeSet::from([id_hash(campaign)])));
        self.enter_behind(campaign, phase, first.and_then(|first| first.into_values().next()));
    }

    /// Gives a campaign its place, with its records from `first` on set aside.
    fn enter_behind(&mut self, campaign: &CampaignId, phase: Phase, first: Option<Offset>) {
        self.campaigns.insert(campaign.clone(), OwnedCampaign::new(phase, self.now_ms));
        self.set_aside(campaign, first);
    }

    /// Sets a campaign's records aside from `from` on.
    pub(super) fn set_aside(&mut self, campaign: &CampaignId, from: Option<Offset>) {
        let Some(owned) = self.campaigns.get_mut(campaign) else { return };
        owned.set_aside(from);
        if from.is_some() {
            self.aside.campaigns.insert(campaign.clone());
        } else {
            self.aside.campaigns.remove(campaign);
        }
    }

    /// Returns whether a record that was read is to be set aside, and sets it aside.
    pub(super) fn keeps_aside(
        &mut self,
        campaign: &CampaignId,
        offset: Offset,
        cost: usize,
    ) -> bool {
        let Some(owned) = self.campaigns.get(campaign) else { return false };
        if !owned.is_aside(cost, self.share_of(campaign, owned)) {
            return false;
        }
        let from = owned.aside_from().unwrap_or(offset);
        self.set_aside(campaign, Some(from));
        self.free(cost);
        true
    }

    /// Notes that a campaign's rows are loaded, or that it has failed.
    pub(super) fn proven(&mut self, campaign: &CampaignId) {
        self.aside.unproven.remove(campaign);
    }

    /// Forgets a campaign that is not defined and has nothing left to decide.
    pub(super) fn forget_undefined(&mut self, campaign: &CampaignId, effects: &mut Vec<Effect>) {
        let rests = self.campaigns.get(campaign).is_some_and(OwnedCampaign::rests);
        if rests && self.holds.get(campaign).is_none_or(|holds| holds.is_unheard_of()) {
            self.campaigns.remove(campaign);
            self.holds.remove(campaign);
            self.sendable.remove(campaign);
            self.occupied.remove(campaign);
            effects.push(Effect::Stop { campaign: campaign.clone() });
        }
    }

    /// Carries on with lookups and runs. Called with each flush.
    pub(super) fn look_aside(&mut self, effects: &mut Vec<Effect>) {
        self.look_up(effects);
        self.run_campaigns(effects);
        self.run_catch_ups(effects);
        self.run_letters(effects);
    }

    fn look_up(&mut self, effects: &mut Vec<Effect>) {
        if self.aside.looks_up || self.acks.unknowns() == 0 {
            return;
        }
        self.aside.looks_up = true;
        let few = std::mem::take(&mut self.aside.few);
        let wanted = match few.len() <= POINT_LOOKUPS_MAX {
            true => Wanted::These(few.into_iter().collect()),
            false => Wanted::Hashed(self.acks.unknown_hashes()),
        };
        effects.push(Effect::LookUp { below: self.acks.position(), wanted });
    }

    pub(super) fn looked_up(
        &mut self,
        below: Offset,
        known: Vec<CampaignId>,
        effects: &mut Vec<Effect>,
    ) {
        self.aside.looks_up = false;
        // A campaign that was defined or held meanwhile decides about its records itself.
        let hashes = known.iter().chain(&self.aside.campaigns).map(id_hash).collect();
        self.acks.looked_up(below, &hashes);
        let first = self.acks.first_of(&hashes);
        for campaign in known {
            // Others that the scan has found have no record here.
            let Some(from) = first.get(&id_hash(&campaign)) else { continue };
            if !self.campaigns.contains_key(&campaign) {
                self.enter_behind(&campaign, Phase::Starting, Some(*from));
                self.start(&campaign, 0, effects);
            }
        }
    }

    /// Starts, continues or ends the run that campaigns share.
    fn run_campaigns(&mut self, effects: &mut Vec<Effect>) {
        if self.aside.run.as_ref().is_some_and(|run| run.reads) {
            // At the end of the log it would read until another record comes.
            if self.aside.campaigns.is_empty() {
                self.aside.run = None;
                effects.push(Effect::EndAgain { of: Again::Campaigns });
            }
            return;
        }
        if self.aside.campaigns.is_empty() && self.aside.run.is_none() {
            return;
        }
        let position = self.acks.position();
        let of = |campaign| Some((campaign, self.campaigns.get(campaign)?));
        let behind = self.aside.campaigns.iter().filter_map(of);
        let behind = behind.filter_map(|(id, owned)| Some((owned.aside_from()?, id, owned)));
        let (mut lowest, mut in_step, mut waits) = (None, false, false);
        let next = self.aside.run.as_ref().map(|run| run.next);
        for (from, campaign, owned) in behind {
            let takes = self.takes_again(campaign, owned);
            if takes {
                lowest = Some(lowest.map_or(from, |lowest: Offset| lowest.min(from)));
            }
            let decides = matches!(owned.phase(), Phase::Live { .. });
            in_step |= next == Some(from) && takes;
            waits |= next == Some(from) && !takes && decides;
        }
        let (now_ms, is_in_debt) = (self.now_ms, self.is_in_debt());
        if let Some(run) = &mut self.aside.run {
            let passes_by = run.is_long(now_ms) && lowest.is_some_and(|lowest| lowest < run.next);
            if (waits && !run.gives_way(now_ms)) || is_in_debt {
                return;
            }
            if in_step && !passes_by && run.next < position {
                run.reads = true;
                return effects.push(Effect::GoOnAgain { of: Again::Campaigns });
            }
            self.aside.run = None;
            effects.push(Effect::EndAgain { of: Again::Campaigns });
        }
        if let Some(from) = lowest
            && !is_in_debt
        {
            let run = self.begin(Again::Campaigns, from, effects);
            self.aside.run = Some(run);
        }
    }

    pub(super) fn begin(&mut self, of: Again, from: Offset, effects: &mut Vec<Effect>) -> Run {
        self.aside.runs += 1;
        let number = self.aside.runs;
        effects.push(Effect::BeginAgain { of, run: number, from });
        let (begun_ms, moved_ms) = (self.now_ms, self.now_ms);
        Run { number, next: from, reads: true, begun_ms, moved_ms }
    }

    /// Hands records that were read again to the campaigns that wait for exactly these.
    pub(super) fn read_again(
        &mut self,
        run: u64,
        records: Vec<ReadRecord>,
        read_to: Offset,
        effects: &mut Vec<Effect>,
    ) {
        let (now_ms, position) = (self.now_ms, self.acks.position());
        let read_to = read_to.min(position);
        let Some(run) = self.aside.run.as_mut().filter(|known| known.number == run) else { return };
        let begun = run.goes_on(read_to, now_ms);
        // A campaign that missed a record of this run gets none behind it.
        let takes = |campaign: &&CampaignId| {
            self.campaigns.get(*campaign).is_some_and(|owned| {
                let is_next =
                    owned.aside_from().is_some_and(|from| from >= begun && from < read_to);
                is_next && self.takes_again(campaign, owned)
            })
        };
        let taking: BTreeSet<_> = self.aside.campaigns.iter().filter(takes).cloned().collect();
        for read in records.into_iter().take_while(|read| read.raw.offset < read_to) {
            let (campaign, offset) = (read.record.campaign(), read.raw.offset);
            match self.campaigns.get(campaign) {
                Some(owned) => {
                    let is_aside = owned.aside_from().is_some_and(|from| from <= offset);
                    if is_aside && taking.contains(campaign) {
                        self.take_again(read, effects);
                    }
                }
                // Its id only had the hash of a campaign that exists.
                None if self.acks.is_matched(offset) => self.acks.letter(offset, None),
                None => {}
            }
        }
        for campaign in taking {
            self.set_aside(&campaign, (read_to < position).then_some(read_to));
        }
        if read_to == position {
            // The reader may be ahead of the live one: what is set aside from here on needs another.
            self.aside.run = None;
            effects.push(Effect::EndAgain { of: Again::Campaigns });
        }
    }

    fn takes_again(&self, campaign: &CampaignId, owned: &OwnedCampaign) -> bool {
        owned.takes_again(self.share().min(self.share_of(campaign, owned)))
    }

    fn take_again(&mut self, read: ReadRecord, effects: &mut Vec<Effect>) {
        let (campaign, offset) = (read.record.campaign().clone(), read.raw.offset);
        let Some(owned) = self.campaigns.get_mut(&campaign) else { return };
        if owned.has_stored(offset) {
            // A replay or an earlier actor has decided it.
            self.acks.done(offset);
        } else if matches!(owned.phase(), Phase::Live { .. }) {
            self.aside.take(&read);
            owned.push(read, self.now_ms);
            self.sendable.insert(campaign.clone());
            self.occupied.insert(campaign);
        } else if self.pass_held(&campaign, &read, effects) {
            // Its credit was given back when it was set aside.
            self.aside.owed += 1;
        }
    }

    /// Starts, continues or ends the run that writes dead letters.
    fn run_letters(&mut self, effects: &mut Vec<Effect>) {
        let (letters, to) = (self.acks.letters(), self.acks.letters_to());
        match &mut self.aside.letters {
            Some(run) if run.reads && letters > 0 || self.aside.writing > 0 => {}
            Some(run) if letters > 0 && run.next < to => {
                run.reads = true;
                effects.push(Effect::GoOnAgain { of: Again::Letters });
            }
            Some(_) => {
                self.aside.letters = None;
                effects.push(Effect::EndAgain { of: Again::Letters });
                self.run_letters(effects);
            }
            None => {
                if let Some(from) = self.acks.first_letter() {
                    self.aside.letters = Some(self.begin(Again::Letters, from, effects));
                }
            }
        }
    }

    pub(super) fn letters_read(
        &mut self,
        run: u64,
        records: Vec<LogRecord>,
        read_to: Offset,
        effects: &mut Vec<Effect>,
    ) {
        let Some(run) = self.aside.letters.as_mut().filter(|known| known.number == run) else {
            return;
        };
        (run.reads, run.next) = (false, read_to);
        for record in records.into_iter().filter(|record| self.acks.is_letter(record.offset)) {
            self.aside.writing += 1;
            effects.push(Effect::DeadLetter { of: LetterOf::SetAside, record });
        }
    }

    /// Notes that a dead letter of the run is durable.
    pub(super) fn letter_kept(&mut self) {
        self.aside.writing -= 1;
    }
}
