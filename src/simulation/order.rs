//! Judges the order in which things became durable and known: versions before the coupons that
//! follow from them, coupons and marks before progress and the ends of holds, and rows before anybody is told of them.

use std::collections::BTreeMap;

use super::{
    evidence::{Evidence, Told, Violation},
    feed::Published,
    landed::Landed,
    node::Engines,
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
    /// Offset of each coupon in the order of sequences, and the place by which its coupon row and those
    /// of every coupon before it had landed.
    coupons: Vec<(Offset, usize)>,
    /// The same of by-user rows.
    by_user: Vec<(Offset, usize)>,
    /// Where each coupon row and each by-user row first landed, in the order of sequences.
    landed: Vec<(usize, usize)>,
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
            broken.extend(by_user_rows_in_order(campaign, places, history));
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
        let stored = places.get(campaign).and_then(|it| it.landed.get(sequence as usize - 1));
        if stored.is_none_or(|(place, _)| *place >= landed) && !evidence.is_lost(engines, campaign)
        {
            let detail = format!("coupon {sequence} of {campaign} was {what} before it was stored");
            broken.push(Violation::new("INV-3", detail));
        }
    }
    broken
}

fn places(rows: &MemoryRows, history: &[Landed]) -> BTreeMap<CampaignId, Places> {
    let (mut coupons, mut by_user) = (BTreeMap::new(), BTreeMap::new());
    let mut versions = BTreeMap::new();
    let mut marks: BTreeMap<&CampaignId, Vec<_>> = BTreeMap::new();
    for (place, landed) in history.iter().enumerate() {
        match &landed.row {
            Row::Coupon(coupon) => {
                coupons.entry((&coupon.campaign, coupon.sequence)).or_insert(place);
            }
            Row::ByUser(coupon) => {
                by_user.entry((&coupon.campaign, coupon.sequence)).or_insert(place);
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
            by_user: Vec::new(),
            landed: Vec::new(),
            versions: Vec::new(),
            marks: marks.remove(campaign).unwrap_or_default(),
        });
        let landed = versions.get(&(campaign, *offset)).copied().unwrap_or(usize::MAX);
        of.versions.push((*offset, landed));
    }
    for (campaign, of) in &mut places {
        let mut latest = (0, 0);
        for coupon in rows.coupons_of(campaign) {
            let (key, offset) = ((campaign, coupon.sequence), coupon.position.offset);
            let first = |of: &BTreeMap<_, usize>| of.get(&key).copied().unwrap_or(usize::MAX);
            let landed = (first(&coupons), first(&by_user));
            latest = (latest.0.max(landed.0), latest.1.max(landed.1));
            of.landed.push(landed);
            of.coupons.push((offset, latest.0));
            of.by_user.push((offset, latest.1));
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

/// INV-6: a by-user row is stored after its coupon row, and before a mark that counts it. Of a coupon
/// that was stored again under a hold, the first rows count.
fn by_user_rows_in_order(
    campaign: &CampaignId,
    places: &Places,
    history: &[Landed],
) -> Option<Violation> {
    let early = places.landed.iter().position(|(coupon, by_user)| by_user < coupon);
    if let Some(index) = early {
        let sequence = index + 1;
        let detail = format!("the by-user row of coupon {sequence} of {campaign} came before it");
        return Some(Violation::new("INV-6", detail));
    }
    places.marks.iter().find_map(|(place, below, _)| {
        let count = places.by_user.partition_point(|(offset, _)| offset < below);
        let (offset, _) = places.by_user[..count].iter().find(|(_, landed)| landed >= place)?;
        if is_held(campaign, *offset, &history[..*place]) {
            return None;
        }
        let detail = format!(
            "the mark of {campaign} below {below} was stored before the by-user row of {offset}"
        );
        Some(Violation::new("INV-6", detail))
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
    // A watermark says nothing of by-user rows.
    let coupons = if needs_marks { &places.by_user } else { &places.coupons };
    let count = coupons.partition_point(|(offset, _)| *offset < below);
    let is_stored = |(_, place): &(Offset, usize)| *place < landed;
    let stored = coupons[..count].partition_point(is_stored);
    let versions = places.versions.iter().filter(|(offset, _)| *offset < below);
    let version = versions.into_iter().find(|version| !is_stored(version));
    let missing = coupons[..count].get(stored).into_iter().chain(version);
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
