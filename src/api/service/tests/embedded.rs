//! The service on the embedded log and store, before and after a restart.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::world::{campaign, keyed, request, terms, user};
use crate::{
    api::service::{
        CampaignState, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService,
        RequestStatus, ServiceError, ShowCampaigns,
    },
    clock::SystemClock,
    config::Config,
    domain::{
        answer::Answer,
        definition::{Amendment, QUOTA_MAX},
        keys::Keys,
        reason::Reason,
    },
    embedded::{EmbeddedDatabase, testing},
    feed::in_process::InProcessFeed,
    log::{RequestLog, embedded::EmbeddedLog},
    node::core::{Core, CoreParts},
    partition::flow::Limits,
    store::{CouponStore, Layout, embedded::EmbeddedStore},
};

const PARTITIONS: u32 = 2;

/// Time after which a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node on a data folder.
struct Node {
    /// None without owners.
    core: Option<Core>,
    service: Arc<NodeService>,
    log: Arc<EmbeddedLog>,
    store: Arc<EmbeddedStore>,
    database: Arc<EmbeddedDatabase>,
}

impl Node {
    /// Starts a node. Without owners it decides nothing, and its feed is silent.
    async fn on(folder: &Path, owned: bool) -> Self {
        let database = testing::open(folder, PARTITIONS);
        let log = Arc::new(EmbeddedLog::new(database.clone(), Duration::from_secs(3600)));
        let store = Arc::new(EmbeddedStore::new(database.clone()));
        let keys = Arc::new(Keys::derive(&[7; 32]));
        let parts = CoreParts {
            log: log.clone(),
            store: store.clone(),
            feed: Arc::new(InProcessFeed::default()),
            layout: Layout::new("instance".to_owned(), PARTITIONS, keys.fingerprint().to_owned()),
            keys,
            clock: Arc::new(SystemClock),
            free_space: None,
            future_max_ms: None,
            limits: Limits::default(),
        };
        let mut core = Core::start(parts, &Config::default()).await.unwrap();
        let service = core.service.clone();
        if !owned {
            core.end_actors().await;
        }
        Self { core: owned.then_some(core), service, log, store, database }
    }

    /// Waits until progress has reached the end of the log. Answers come earlier.
    async fn settled(&self) {
        for partition in 0..PARTITIONS {
            let high = self.log.bounds(partition).await.unwrap().high;
            let next = || async {
                let progress = self.store.progress(partition).await.unwrap();
                progress.map_or(0, |progress| progress.next)
            };
            let written = async {
                while next().await < high {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, written).await.unwrap();
        }
    }

    async fn stop(self) {
        self.service.shut_down().await;
        if let Some(mut core) = self.core {
            core.end_actors().await;
        }
        self.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let spring = campaign("spring");
    let node = Node::on(folder.path(), true).await;
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
    node.settled().await;
    node.stop().await;

    let node = Node::on(folder.path(), false).await;
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
    let node = Node::on(folder.path(), true).await;
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
    node.settled().await;
    node.stop().await;

    let node = Node::on(folder.path(), false).await;
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
    let node = Node::on(folder.path(), true).await;
    node.service.define(spring.clone(), terms(60)).await.unwrap();
    node.settled().await;
    node.stop().await;

    let node = Node::on(folder.path(), false).await;
    let taken = node.service.issue(request(&spring, "u1"), None).await.unwrap();
    let found = node.service.find(&taken.request_id, Duration::from_millis(1)).await.unwrap();
    assert_eq!(found.status, RequestStatus::Pending { queue_ahead: 0 });
    node.stop().await;

    let node = Node::on(folder.path(), true).await;
    let found = node.service.find(&taken.request_id, PATIENCE).await.unwrap();
    let RequestStatus::Decided(Answer::Issued { coupon }) = found.status else {
        panic!("{found:?}")
    };
    assert_eq!(coupon.sequence, 1);
    node.stop().await;
}
