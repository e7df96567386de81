//! Judges the order in which things became durable and known: versions before the coupons that
//! follow from them, coupons and marks before progress and the ends of holds, and rows before anybody is told of them.

use std::collections::BTreeMap;

use super::{
    evidence::{Evidence, Told, Violation},
    feed::Published,
    node::Engines,
    store::Landed,
    telling::spoken,
};
use crate::{
    domain::{
        answer::Answer,
        ids::{CampaignId, Offset, Partition, Sequence},
        rows::{HoldState, Register, Row},
    },
    store::memory::MemoryRows,
};

/// When a campaign's rows landed, as places in the history.
struct Places {
    /// Offset of each coupon in the order of sequences, and the place by which it and every coupon
    /// before it had landed in every view.
    coupons: Vec<(Offset, usize)>,
    /// Where each coupon first landed in any view, in the order of sequences.
    anywhere: Vec<usize>,
    versions: Vec<(Offset, usize)>,
    /// Place, offset and count of each mark.
    marks: Vec<(usize, Offset, Sequence)>,
}

/// Somebody's claim that a partition, or one campaign in it, is decided and stored below an offset.
struct Claim<'a> {
    partition: Partition,
    /// None: every campaign.
    campaign: Option<&'a CampaignId>,
    below: Offset,
    /// Number of rows that had landed.
    landed: usize,
    needs_marks: bool,
}

pub(super) fn violations(
    engines: &Engines,
    evidence: &Evidence,
    rows: &MemoryRows,
    history: &[Landed],
) -> Vec<Violation> {
    let places = places(rows, history);
    let published = &engines.topic.lock().published;
    let mut broken = Vec::new();
    for (campaign, places) in &places {
        if !evidence.is_lost(engines, campaign) {
            broken.extend(versions_first(campaign, places));
        }
    }
    broken.extend(unclaimed(history, published));
    for claim in claims(history, published) {
        for (campaign, places) in &places {
            let is_of = engines.codec.partition_of(campaign) == claim.partition
                && claim.campaign.is_none_or(|of| of == campaign);
            if is_of && !evidence.is_lost(engines, campaign) {
                broken.extend(is_kept(campaign, places, &claim, history));
            }
        }
    }
    let offset_of = |campaign: &CampaignId, sequence: Sequence| {
        Some(places.get(campaign)?.coupons.get((sequence as usize).checked_sub(1)?)?.0)
    };
    let (spoken, wrong) = spoken(engines, published, offset_of);
    let wrong = wrong.into_iter().filter(|(campaign, _)| !evidence.is_lost(engines, campaign));
    broken.extend(wrong.map(|(_, violation)| violation));
    let decisions = spoken.iter().map(|it| (&it.campaign, it.sequence, it.landed, "published"));
    let answers = evidence.told.iter().filter_map(|told| {
        let Told { request, answer, landed, .. } = told;
        let (Answer::Issued { coupon } | Answer::AlreadyIssued { coupon }) = answer.as_ref()?
        else {
            return None;
        };
        Some((&request.campaign, coupon.sequence, *landed, "told"))
    });
    for (campaign, sequence, landed, what) in decisions.chain(answers) {
        let stored = places.get(campaign).and_then(|it| it.anywhere.get(sequence as usize - 1));
        if stored.is_none_or(|place| *place >= landed) && !evidence.is_lost(engines, campaign) {
            let detail = format!("coupon {sequence} of {campaign} was {what} before it was stored");
            broken.push(Violation::new("INV-3", detail));
        }
    }
    broken
}

fn places(rows: &MemoryRows, history: &[Landed]) -> BTreeMap<CampaignId, Places> {
    let (mut coupons, mut anywhere) = (BTreeMap::new(), BTreeMap::new());
    let mut versions = BTreeMap::new();
    let mut marks: BTreeMap<&CampaignId, Vec<_>> = BTreeMap::new();
    for (place, landed) in history.iter().enumerate() {
        match &landed.row {
            Row::Coupon(coupon) => {
                let key = (&coupon.campaign, coupon.sequence);
                anywhere.entry(key).or_insert(place);
                if landed.is_whole() {
                    coupons.entry(key).or_insert(place);
                }
            }
            Row::Version(version) => {
                versions.entry((&version.campaign, version.position.offset)).or_insert(place);
            }
            Row::Mark(mark) => {
                marks.entry(&mark.campaign).or_default().push((
                    place,
                    mark.offset,
                    mark.counts.issued,
                ));
            }
            _ => {}
        }
    }
    let mut places = BTreeMap::new();
    for (campaign, offset) in rows.versions.keys() {
        let of = places.entry(campaign.clone()).or_insert_with(|| Places {
            coupons: Vec::new(),
            anywhere: Vec::new(),
            versions: Vec::new(),
            marks: marks.remove(campaign).unwrap_or_default(),
        });
        let landed = versions.get(&(campaign, *offset)).copied().unwrap_or(usize::MAX);
        of.versions.push((*offset, landed));
    }
    for (campaign, of) in &mut places {
        let mut latest = 0;
        for coupon in rows.coupons_of(campaign) {
            let key = (campaign, coupon.sequence);
            let landed = coupons.get(&key).copied();
            of.anywhere.push(anywhere.get(&key).copied().unwrap_or(usize::MAX));
            latest = latest.max(landed.unwrap_or(usize::MAX));
            of.coupons.push((coupon.position.offset, latest));
        }
    }
    places
}

/// Every progress and every end of a hold that landed, and every message of the feed.
fn claims<'a>(
    history: &'a [Landed],
    published: &'a [Published],
) -> impl Iterator<Item = Claim<'a>> + 'a {
    let rows = history.iter().enumerate().filter_map(|(landed, it)| {
        let (partition, campaign, below) = match &it.row {
            Row::Progress(progress) => (progress.partition, None, progress.next),
            Row::Hold(hold) if hold.state == HoldState::Closed => {
                (hold.partition, Some(&hold.campaign), hold.until)
            }
            _ => return None,
        };
        // What was held until this hold landed is settled by it.
        let landed = landed + usize::from(campaign.is_some());
        Some(Claim { partition, campaign, below, landed, needs_marks: true })
    });
    let messages = published.iter().filter(|it| it.message.halted.is_none());
    let messages = messages.map(|Published { landed, message }| Claim {
        partition: message.partition,
        campaign: None,
        below: message.to,
        landed: *landed,
        needs_marks: false,
    });
    rows.chain(messages)
}

/// INV-12: a generation is stored before its first message: a later owner would not know of it, and
/// nobody would listen to that owner.
fn unclaimed(history: &[Landed], published: &[Published]) -> Option<Violation> {
    let mut claimed = Vec::new();
    for (place, landed) in history.iter().enumerate() {
        if let Row::Register(partition, Register::Generation, generation) = landed.row {
            claimed.push((place, partition, generation));
        }
    }
    let is_claimed = |Published { landed, message }: &Published| {
        let before = claimed.iter().take_while(|(place, ..)| place < landed);
        let mut of_partition = before.filter(|(_, of, _)| *of == message.partition);
        of_partition.any(|(.., generation)| *generation >= message.sender.generation)
    };
    let wrong = published.iter().find(|it| !is_claimed(it))?;
    let detail = format!("a generation was told of before it was stored: {:?}", wrong.message);
    Some(Violation::new("INV-12", detail))
}

/// INV-6: a version is stored before the coupons above it.
fn versions_first(campaign: &CampaignId, places: &Places) -> Option<Violation> {
    let wrong = places.versions.iter().find(|(offset, landed)| {
        let above = places.coupons.partition_point(|(of, _)| of < offset);
        // Places of coupons only rise.
        places.coupons.get(above).is_some_and(|(_, place)| place < landed)
    });
    wrong.map(|(offset, _)| {
        let detail = format!("a coupon of {campaign} was stored before the version at {offset}");
        Violation::new("INV-6", detail)
    })
}

/// What is claimed to be settled was stored, unless a hold says that it is not.
fn is_kept(
    campaign: &CampaignId,
    places: &Places,
    claim: &Claim,
    history: &[Landed],
) -> Option<Violation> {
    let Claim { below, landed, needs_marks, .. } = *claim;
    let count = places.coupons.partition_point(|(offset, _)| *offset < below);
    let is_stored = |(_, place): &(Offset, usize)| *place < landed;
    let stored = places.coupons[..count].partition_point(is_stored);
    let versions = places.versions.iter().filter(|(offset, _)| *offset < below);
    let version = versions.into_iter().find(|version| !is_stored(version));
    let missing = places.coupons[..count].get(stored).into_iter().chain(version);
    if let Some((offset, _)) = missing.min()
        && !is_held(campaign, *offset, &history[..landed])
    {
        let detail =
            format!("{offset} of {campaign} was not stored when all below {below} was said to be");
        return Some(Violation::new("INV-7", detail));
    }
    let marks = places.marks.iter().filter(|(place, ..)| *place < landed);
    let marked = marks.map(|(.., issued)| *issued).max().unwrap_or(0) as usize;
    if needs_marks
        && marked < count
        && !is_held(campaign, places.coupons[marked].0, &history[..landed])
    {
        let what = if claim.campaign.is_some() { "the end of a hold" } else { "progress" };
        let detail =
            format!("{what}, {below}, passed {count} coupons of {campaign}, marked are {marked}");
        return Some(Violation::new("INV-6", detail));
    }
    None
}

/// Whether a hold had landed that leaves `offset` unsettled.
fn is_held(campaign: &CampaignId, offset: Offset, history: &[Landed]) -> bool {
    let mut latest = BTreeMap::new();
    for landed in history {
        if let Row::Hold(hold) = &landed.row
            && hold.campaign == *campaign
        {
            let old = latest.entry((hold.from, hold.number)).or_insert(hold);
            if hold.rank() > old.rank() {
                *old = hold;
            }
        }
    }
    latest.values().any(|hold| hold.unsettled_from() <= offset)
}
