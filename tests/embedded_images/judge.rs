//! Opens a folder with the real recovery, reads it with the real readers, and compares its content
//! with the content once written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use coupond::{
    clock::SystemClock,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Offset, Partition, UserId},
        keys::Keys,
        rows::{CampaignRows, Mark, PartitionRows, missing_versions},
    },
    embedded::{EmbeddedDatabase, SecretFile, kept_secret},
    log::{
        RequestLog,
        embedded::{DeadLetter, EmbeddedLog},
    },
    store::{CouponStore, Layout, Selection, embedded::EmbeddedStore},
    wire::LogRecord,
};
use futures_util::TryStreamExt;

use super::origin::{PARTITIONS, config};

/// The readable content of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Contents {
    pub(crate) layout: Layout,
    pub(crate) fingerprint: String,
    pub(crate) records: Vec<Vec<LogRecord>>,
    pub(crate) rows: Vec<PartitionRows>,
    pub(crate) dead_letters: Vec<Vec<DeadLetter>>,
    pub(crate) campaigns: BTreeMap<CampaignId, CampaignContents>,
}

/// The rows of a campaign.
#[derive(Debug, Clone)]
pub(crate) struct CampaignContents {
    pub(crate) rows: CampaignRows,
    pub(crate) coupons: Vec<Coupon>,
    /// The coupons that each user sees.
    by_user: BTreeMap<UserId, Vec<Coupon>>,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The fate of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Opened, with all records.
    Whole,
    /// Opened, without some records that were never acknowledged.
    Shorter,
    /// The start was refused with a reason.
    Refused,
    /// A read failed, or the process would have exited.
    Reported,
    /// A thread panicked, which aborts a start.
    Panicked,
}

/// Reads the folder; an error is the one that a node would have reported.
pub(crate) fn read(folder: &Path, truth: Option<&Contents>) -> Result<Contents, (Fate, Error)> {
    let ended = Arc::new(AtomicBool::new(false));
    let fatal = ended.clone();
    let settings = config(folder).embedded;
    let database = EmbeddedDatabase::open_reporting(&settings, Arc::new(SystemClock), move |_| {
        fatal.store(true, Ordering::SeqCst);
    })
    .map_err(|error| (Fate::Refused, error.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let log = EmbeddedLog::new(database.clone(), settings.retention);
    let store = EmbeddedStore::new(database);
    let contents = runtime
        .block_on(contents(folder, &log, &store, truth))
        .map_err(|error| (Fate::Reported, error))?;
    drop((log, store));
    if ended.load(Ordering::SeqCst) {
        return Err((Fate::Reported, "the process would have ended".into()));
    }
    Ok(contents)
}

async fn contents(
    folder: &Path,
    log: &EmbeddedLog,
    store: &EmbeddedStore,
    truth: Option<&Contents>,
) -> Result<Contents, Error> {
    let secret = kept_secret(folder, SecretFile { name: "secret.key", bytes_min: 32 })?;
    let fingerprint = Keys::derive(secret.as_bytes()).fingerprint().to_owned();
    // No folder has this layout. If the store returns another one, the folder had it.
    let proposed = Layout {
        instance: "nobody".to_owned(),
        log_epoch: 9,
        ..Layout::new(String::new(), PARTITIONS, String::new())
    };
    let layout = store.layout(&proposed).await?;
    if layout != proposed && layout.fingerprint != fingerprint {
        return Err("the node would refuse: another secret".into());
    }
    let (mut records, mut rows, mut dead_letters) = (Vec::new(), Vec::new(), Vec::new());
    let port: &dyn CouponStore = store;
    for partition in 0..PARTITIONS {
        records.push(all_records(log, partition).await?);
        rows.push(port.partition(partition).await?);
        dead_letters.push(log.dead_letters(partition, 0).await?);
    }
    let mut campaigns = BTreeMap::new();
    for campaign in store.campaigns(None, 1_000).await? {
        let coupons = all_coupons(store, &campaign, Selection::All).await?;
        // Asks for the users of all expected coupons, so that a lost one is noticed.
        let known = truth.and_then(|truth| Some(&truth.campaigns.get(&campaign)?.coupons));
        let holders: BTreeSet<_> = known
            .unwrap_or(&coupons)
            .iter()
            .map(|coupon| (coupon.user.clone(), coupon.user_bucket))
            .collect();
        let mut by_user = BTreeMap::new();
        for (user, bucket) in holders {
            let selection = Selection::OfUsers { users: vec![user.clone()], bucket };
            by_user.insert(user, all_coupons(store, &campaign, selection).await?);
        }
        let home = home(&campaign);
        let rows = port.campaign(&campaign, home).await?;
        campaigns.insert(campaign, CampaignContents { rows, coupons, by_user });
    }
    Ok(Contents { layout, fingerprint, records, rows, dead_letters, campaigns })
}

/// Returns the partition of a campaign.
pub(crate) fn home(campaign: &CampaignId) -> Partition {
    coupond::wire::routing::partition_of(campaign, PARTITIONS)
}

async fn all_records(log: &EmbeddedLog, partition: Partition) -> Result<Vec<LogRecord>, Error> {
    let high = log.bounds(partition).await?.high;
    let mut reader = log.open(partition, 0).await?;
    let mut records = Vec::new();
    while (records.len() as u64) < high {
        records.extend(reader.read(usize::MAX).await?);
    }
    Ok(records)
}

async fn all_coupons(
    store: &EmbeddedStore,
    campaign: &CampaignId,
    selection: Selection,
) -> Result<Vec<Coupon>, Error> {
    Ok(store.coupons(campaign, selection).try_collect::<Vec<_>>().await?.concat())
}

/// Compares the content found with the truth: it has no wrong record or row, lacks none of the
/// acknowledged records (a number for each partition), and its rows fit its log.
pub(crate) fn judge(
    found: &Contents,
    truth: &Contents,
    acknowledged: &[u64],
) -> Result<Fate, String> {
    let any = acknowledged.iter().any(|end| *end > 0);
    if any && (found.layout != truth.layout || found.fingerprint != truth.fingerprint) {
        return Err(format!("layout {:?}, was {:?}", found.layout, truth.layout));
    }
    let mut fate = Fate::Whole;
    for (partition, records) in found.records.iter().enumerate() {
        let was = &truth.records[partition];
        if !was.starts_with(records) {
            return Err(format!("partition {partition}: a record is another one"));
        }
        if (records.len() as u64) < acknowledged[partition] {
            let (left, end) = (records.len(), acknowledged[partition]);
            return Err(format!("partition {partition}: {left} records of {end} acknowledged"));
        }
        if records.len() < was.len() {
            fate = Fate::Shorter;
        }
        judge_partition(found, truth, partition)?;
    }
    for (campaign, contents) in &found.campaigns {
        let Some(was) = truth.campaigns.get(campaign) else {
            return Err(format!("campaign {campaign} was never defined"));
        };
        let partition = home(campaign) as usize;
        let end = found.records[partition].len() as u64;
        judge_campaign(contents, was, settled(found, partition), end)
            .map_err(|wrong| format!("campaign {campaign}: {wrong}"))?;
    }
    for (campaign, was) in &truth.campaigns {
        let settled = settled(found, home(campaign) as usize);
        let defined = was.rows.versions.first().map(|version| version.position.offset);
        if defined.is_some_and(|at| at < settled) && !found.campaigns.contains_key(campaign) {
            return Err(format!("campaign {campaign} is missing"));
        }
    }
    Ok(fate)
}

fn settled(contents: &Contents, partition: usize) -> Offset {
    contents.rows[partition].progress.as_ref().map_or(0, |progress| progress.next)
}

fn judge_partition(found: &Contents, truth: &Contents, partition: usize) -> Result<(), String> {
    let (end, settled) = (found.records[partition].len() as u64, settled(found, partition));
    if settled > end {
        return Err(format!("partition {partition}: progress {settled} above its end {end}"));
    }
    if !found.rows[partition].holds.is_empty() {
        return Err(format!("partition {partition}: a hold that was never opened"));
    }
    if let Some(progress) = &found.rows[partition].progress
        && progress.log_epoch != 1
    {
        return Err(format!("partition {partition}: epoch {}", progress.log_epoch));
    }
    let (letters, was) = (&found.dead_letters[partition], &truth.dead_letters[partition]);
    let due = was.iter().filter(|letter| letter.record.offset < settled).count();
    if !was.starts_with(letters) || letters.len() < due {
        return Err(format!("partition {partition}: dead letters {letters:?}, were {was:?}"));
    }
    Ok(())
}

fn judge_campaign(
    found: &CampaignContents,
    was: &CampaignContents,
    settled: Offset,
    end: Offset,
) -> Result<(), String> {
    let coupons = &found.coupons;
    let mut sequences = was.coupons.iter();
    if !coupons.iter().all(|coupon| sequences.any(|was| was == coupon)) {
        return Err("a coupon is another one".to_owned());
    }
    let below = |coupons: &[Coupon], offset: Offset| {
        coupons.iter().filter(|coupon| coupon.position.offset < offset).count()
    };
    // Batches of one campaign are stored concurrently, so rows above progress may have gaps.
    let certain = settled.max(found.rows.mark.as_ref().map_or(0, |mark| mark.offset));
    if below(coupons, certain) != below(&was.coupons, certain) {
        let (count, due) = (below(coupons, certain), below(&was.coupons, certain));
        return Err(format!("{count} coupons of {due} below {certain}"));
    }
    if below(coupons, end) < coupons.len() {
        return Err("a coupon is above the end of the log".to_owned());
    }
    for (user, shown) in &found.by_user {
        let held: Vec<_> = coupons.iter().filter(|coupon| coupon.user == *user).cloned().collect();
        if *shown != held {
            return Err(format!("{user} is shown {} coupons of {}", shown.len(), held.len()));
        }
    }
    let (versions, before) = (&found.rows.versions, &was.rows.versions);
    let due = before.iter().filter(|version| version.position.offset < settled).count();
    if !before.starts_with(versions) || versions.len() < due {
        return Err(format!("{} versions of {due}", versions.len()));
    }
    if versions.last().is_some_and(|version| version.position.offset >= end) {
        return Err("a version is above the end of the log".to_owned());
    }
    if !found.rows.holds.is_empty() {
        return Err("a hold that was never opened".to_owned());
    }
    match &found.rows.mark {
        Some(Mark { offset, counts, .. })
            if counts.issued as usize != below(&was.coupons, *offset) =>
        {
            Err(format!("a mark counts {} below {offset}", counts.issued))
        }
        Some(Mark { offset, .. }) if *offset > end => {
            Err(format!("a mark at {offset}, above the end {end}"))
        }
        mark => {
            let offsets = versions.iter().map(|version| version.position.offset);
            let missing = missing_versions(mark.as_ref(), offsets, settled);
            missing.map_or(Ok(()), |(_, missing)| Err(missing))
        }
    }
}
