//! The service on the embedded log and store, before and after a restart.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::{
    owner::Owner,
    world::{EPOCH, LiveActors, campaign, config, keyed, request, terms, user},
};
use crate::{
    api::service::{
        CampaignState, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService,
        RequestStatus, ServiceError, ServiceParts, ShowCampaigns,
    },
    clock::SystemClock,
    domain::{
        answer::Answer,
        definition::{Amendment, QUOTA_MAX},
        ids::Partition,
        keys::Keys,
        reason::Reason,
        rows::{Progress, Row},
    },
    embedded::{EmbeddedDatabase, testing},
    feed::{DecisionFeed, in_process::InProcessFeed},
    log::{READ_RECORDS_MAX, RequestLog, embedded::EmbeddedLog},
    store::{CouponStore, Layout, embedded::EmbeddedStore},
    wire::{
        codec::Codec,
        feed_message::{FeedDecision, FeedMessage},
    },
};

const PARTITIONS: u32 = 2;

/// Time after which a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Decides the records of one partition, and makes rows, feed, marks and progress visible.
struct PartitionOwner {
    partition: Partition,
    log: Arc<EmbeddedLog>,
    store: Arc<EmbeddedStore>,
    feed: Arc<InProcessFeed>,
    owner: Owner,
}

impl PartitionOwner {
    async fn work(mut self) {
        let partition = self.partition;
        let from = self.log.bounds(partition).await.unwrap().low;
        let mut reader = self.log.open(partition, from).await.unwrap();
        let mut to = from;
        self.publish(from, to, Vec::new()).await;
        while let Ok(records) = reader.read(READ_RECORDS_MAX).await {
            let next = records.last().map_or(to, |record| record.offset + 1);
            let decided: Vec<_> =
                records.iter().map(|record| self.owner.decide(partition, record)).collect();
            let (rows, decisions): (Vec<_>, Vec<_>) = decided.into_iter().unzip();
            self.store.write(&rows.concat()).await.unwrap();
            self.publish(to, next, decisions.concat()).await;
            to = next;
            self.store.write(&self.owner.marks(|_| to)).await.unwrap();
            let progress = Progress { partition, log_epoch: EPOCH, next: to, last: None };
            self.store.write(&[Row::Progress(progress)]).await.unwrap();
        }
    }

    async fn publish(&self, from: u64, to: u64, decisions: Vec<FeedDecision>) {
        let (partition, halted) = (self.partition, None);
        let message =
            FeedMessage { log_epoch: EPOCH, partition, from, to, end: to, halted, decisions };
        self.feed.publish(message).await.unwrap();
    }
}

/// A node on a data folder: its service, its owners, and its database.
struct Node {
    service: Arc<NodeService>,
    owners: JoinSet<()>,
    database: Arc<EmbeddedDatabase>,
}

impl Node {
    /// Starts a node. Without owners it decides nothing, and its feed is silent.
    fn on(folder: &Path, owned: bool) -> Self {
        let database = testing::open(folder, PARTITIONS);
        let log = Arc::new(EmbeddedLog::new(database.clone(), Duration::from_secs(3600)));
        let store = Arc::new(EmbeddedStore::new(database.clone()));
        let feed = Arc::new(InProcessFeed::default());
        let keys = Arc::new(Keys::derive(&[7; 32]));
        let codec = Codec::new(keys.clone(), EPOCH, PARTITIONS);
        let (mut api, mut admission) = config();
        (api.waiters_max, admission.inflight_max) = (1_000, 1_000);
        let service = Arc::new(NodeService::new(ServiceParts {
            log: log.clone(),
            store: store.clone(),
            feed: feed.clone(),
            codec: codec.clone(),
            keys: keys.clone(),
            layout: Layout::new("instance".to_owned(), PARTITIONS, keys.fingerprint().to_owned()),
            api,
            admission,
            free_space: None,
            actors: Arc::new(LiveActors),
            clock: Arc::new(SystemClock),
        }));
        service.start();
        let mut owners = JoinSet::new();
        for partition in (0..PARTITIONS).filter(|_| owned) {
            let (log, store, feed) = (log.clone(), store.clone(), feed.clone());
            let owner = Owner::new(codec.clone(), keys.clone());
            let owner = PartitionOwner { partition, log, store, feed, owner };
            owners.spawn(owner.work());
        }
        Self { service, owners, database }
    }

    /// Waits until progress has reached the end of the log. Answers come earlier.
    async fn settled(&self) {
        let log = EmbeddedLog::new(self.database.clone(), Duration::from_secs(3600));
        let store = EmbeddedStore::new(self.database.clone());
        for partition in 0..PARTITIONS {
            let high = log.bounds(partition).await.unwrap().high;
            let next = || async {
                let progress = store.progress(partition).await.unwrap();
                progress.map_or(0, |progress| progress.next)
            };
            while next().await < high {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn stop(mut self) {
        self.service.shut_down().await;
        self.owners.shutdown().await;
        self.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let spring = campaign("spring");
    let node = Node::on(folder.path(), true);
    let (new, _) = node.service.define(spring.clone(), terms(60)).await.unwrap();
    assert!(new);
    let mut asking = JoinSet::new();
    for index in 0..200 {
        let (service, spring) = (node.service.clone(), spring.clone());
        // With a key the log decides, also once the edge knows that the campaign is sold out.
        let asked = keyed(&spring, &format!("u{}", index % 150), &format!("k{index}"));
        asking.spawn(async move { service.issue(asked, Some(PATIENCE)).await.unwrap() });
    }
    let mut before = Vec::new();
    while let Some(taken) = timeout(PATIENCE, asking.join_next()).await.unwrap() {
        let taken = taken.unwrap();
        before.push((taken.request_id, taken.answer.expect("it was waited for")));
    }
    let count = |kind: fn(&Answer) -> bool| before.iter().filter(|(_, of)| kind(of)).count();
    assert_eq!(count(|answer| matches!(answer, Answer::Issued { .. })), 60);
    let already = count(|answer| matches!(answer, Answer::AlreadyIssued { .. }));
    let sold_out = Answer::Rejected { reason: Reason::SoldOut };
    assert_eq!(before.iter().filter(|(_, of)| *of == sold_out).count(), 140 - already);
    node.service.control(&spring, ControlVerb::Close).await.unwrap();
    node.stop().await;

    let node = Node::on(folder.path(), false);
    for (id, answer) in &before {
        let found = node.service.find(id, Duration::ZERO).await.unwrap();
        assert_eq!(found.status, RequestStatus::Decided(answer.clone()));
    }
    let view = node.service.campaign(&spring).await.unwrap();
    assert_eq!(
        (view.issued, view.remaining, view.state),
        (60, 0, CampaignState::Shut(Reason::Closed))
    );
    let issued = before.iter().find_map(|(id, answer)| match answer {
        Answer::Issued { coupon } => Some((id, coupon)),
        _ => None,
    });
    let (id, coupon) = issued.unwrap();
    let holder = node.service.find(id, Duration::ZERO).await.unwrap().user;
    assert_eq!(
        node.service.coupons_of(&spring, &holder).await.unwrap(),
        std::slice::from_ref(coupon)
    );
    assert_eq!(node.service.coupons_of(&spring, &user("nobody")).await.unwrap(), []);
    let refused = node.service.issue(request(&spring, "late"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::Closed)));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_early_amendment_hides_no_coupon() {
    let folder = tempfile::tempdir().unwrap();
    let spring = campaign("spring");
    let node = Node::on(folder.path(), true);
    node.service.define(spring.clone(), terms(0)).await.unwrap();
    let amendment = Amendment { quota: Some(QUOTA_MAX), ..Amendment::default() };
    node.service.amend(&spring, amendment).await.unwrap();
    for index in 0..5 {
        let asked = request(&spring, &format!("u{index}"));
        node.service.issue(asked, Some(PATIENCE)).await.unwrap();
    }
    node.service
        .amend(&spring, Amendment { quota: Some(5), ..Amendment::default() })
        .await
        .unwrap();
    node.stop().await;

    let node = Node::on(folder.path(), false);
    for index in 0..5 {
        let coupons = node.service.coupons_of(&spring, &user(&format!("u{index}"))).await.unwrap();
        assert_eq!(coupons.len(), 1, "u{index}");
    }
    let view = node.service.campaign(&spring).await.unwrap();
    assert_eq!((view.definition.user_buckets, view.remaining), (16, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undecided_request_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let spring = campaign("spring");
    let node = Node::on(folder.path(), true);
    node.service.define(spring.clone(), terms(60)).await.unwrap();
    tokio::time::timeout(PATIENCE, node.settled()).await.unwrap();
    node.stop().await;

    let node = Node::on(folder.path(), false);
    let taken = node.service.issue(request(&spring, "u1"), None).await.unwrap();
    let found = node.service.find(&taken.request_id, Duration::from_millis(1)).await.unwrap();
    assert_eq!(found.status, RequestStatus::Pending { queue_ahead: 0 });
    node.stop().await;

    let node = Node::on(folder.path(), true);
    let found = node.service.find(&taken.request_id, PATIENCE).await.unwrap();
    let RequestStatus::Decided(Answer::Issued { coupon }) = found.status else {
        panic!("{found:?}")
    };
    assert_eq!(coupon.sequence, 1);
    node.stop().await;
}
