//! Requests for coupons: appended, refused, waited for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::world::{HANGS, Reply, ServiceWorld, campaign, keyed, request};
use crate::{
    api::service::{
        FindRequests, IssueCoupons, IssueReply, NotReady, ReportHealth, ServiceError, ServiceParts,
    },
    clock::{Clock, SharedClock, Sleep},
    domain::{
        answer::Answer, definition::Amendment, ids::Timestamp, reason::Reason, record::Change,
        rows::HoldState,
    },
    simulation::testing::{Call, Engine, Fate, Settle},
};

const WAIT: Option<Duration> = Some(Duration::from_secs(5));

#[track_caller]
fn sequence(taken: Reply) -> u32 {
    match taken.unwrap().answer {
        Some(Answer::Issued { coupon }) => coupon.sequence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn an_answered_request_is_in_the_log() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let taken = world.service.issue(request(&spring, "u1"), None).await.unwrap();
    assert_eq!((taken.answer, taken.waited, world.len()), (None, true, 2));
    let content = world.service.ids.open(&taken.request_id).unwrap();
    assert_eq!((content.campaign, content.user.as_str()), (spring, "u1"));
    assert_eq!(content.position.offset, world.end(content.position.partition) - 1);
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_feeds_decision() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    assert_eq!(sequence(world.service.issue(request(&spring, "u1"), WAIT).await), 1);
    let again = world.service.issue(request(&spring, "u1"), WAIT).await.unwrap();
    assert!(matches!(again.answer, Some(Answer::AlreadyIssued { .. })), "{again:?}");
    assert_eq!(world.service.waiters.waiters(), 0);
    assert_eq!(world.calls(Call::ReadCoupons), 0);
}

#[tokio::test(start_paused = true)]
async fn a_timed_out_wait_leaves_a_pending_request() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let before = world.now();
    let taken = world.service.issue(request(&spring, "u1"), WAIT).await.unwrap();
    assert_eq!((taken.answer, taken.waited), (None, true));
    assert_eq!((world.now() - before).as_secs(), 5);
    assert_eq!(world.service.waiters.waiters(), 0);
}

#[tokio::test(start_paused = true)]
async fn lost_decisions_come_from_the_store() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let _owner = world.owner_at_work(Settle::FeedLost);
    let silent = Duration::from_secs(5);
    world.pass(silent).await;
    assert_eq!(sequence(world.service.issue(request(&spring, "u1"), WAIT).await), 1);
    let other = world.service.issue(keyed(&spring, "u2", "k"), WAIT).await.unwrap();
    assert_eq!(other.answer, Some(Answer::Rejected { reason: Reason::SoldOut }));
    let again = world.service.issue(keyed(&spring, "u1", "k"), WAIT).await.unwrap();
    assert!(matches!(again.answer, Some(Answer::AlreadyIssued { .. })), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_passed_waiter_asks_the_store() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let waiting = world.asking(request(&spring, "u1"), WAIT);
    world.waiters(1).await;
    world.decide(Settle::FeedLost).await;
    assert_eq!(world.calls(Call::ReadCoupons), 0);
    world.heard().await;
    assert_eq!(sequence(waiting.await.unwrap()), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_a_coupon_answers_at_once() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let first = world.asking(request(&spring, "u1"), WAIT);
    world.waiters(1).await;
    let second = world.asking(request(&spring, "u2"), WAIT);
    world.waiters(2).await;
    world.decide(Settle::RowsAlone).await;
    world.drop_followers();
    let before = world.now();
    assert_eq!(sequence(first.await.unwrap()), 1);
    assert_eq!((world.now() - before).as_secs(), 0, "it waits for no silence of the owner");
    assert_eq!(world.service.waiters.waiters(), 1, "a missing row is no answer yet");
    world.decide(Settle::FeedLost).await;
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.answer, Some(Answer::Rejected { reason: Reason::SoldOut }));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_frees_its_waiter() {
    let world = ServiceWorld::with(|parts| parts.api.waiters_max = 1).await;
    let spring = world.defined("spring", |_| {}).await;
    let waiting = world.asking(request(&spring, "u1"), WAIT);
    world.waiters(1).await;
    let full = world.service.issue(request(&spring, "u2"), WAIT).await.unwrap();
    assert_eq!((full.answer, full.waited), (None, false));
    waiting.abort();
    world.waiters(0).await;
    let _owner = world.owner_at_work(Settle::All);
    assert_eq!(sequence(world.service.issue(request(&spring, "u3"), WAIT).await), 3);
}

#[tokio::test(start_paused = true)]
async fn one_request_cannot_take_all_waiters() {
    let world = ServiceWorld::with(|parts| parts.api.waiters_max = 10).await;
    let spring = world.defined("spring", |_| {}).await;
    let hogged = world.service.issue(request(&spring, "hog"), None).await.unwrap().request_id;
    let ask = || {
        let (service, id) = (world.service.clone(), hogged.clone());
        tokio::spawn(async move { service.find(&id, None, Duration::from_secs(30)).await })
    };
    let asking: Vec<_> = (0..10).map(|_| ask()).collect();
    world.waiters(10).await;
    let honest = world.asking(request(&spring, "u1"), WAIT);
    world.until(|| asking.iter().any(tokio::task::JoinHandle::is_finished)).await;
    assert!(asking.iter().filter(|it| it.is_finished()).count() == 1, "one gives way");
    let _owner = world.owner_at_work(Settle::All);
    assert_eq!(sequence(honest.await.unwrap()), 2);
    for asked in asking {
        assert!(asked.await.unwrap().is_ok(), "who gives way is told that it is pending");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_releases_waiters_with_their_ids() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let waiting = world.asking(request(&spring, "u1"), WAIT);
    world.waiters(1).await;
    let before = world.now();
    world.service.shut_down().await;
    let taken = waiting.await.unwrap().unwrap();
    assert_eq!((taken.answer, world.now() - before), (None, Duration::ZERO));
    assert!(world.service.ids.open(&taken.request_id).is_some());
}

#[tokio::test(start_paused = true)]
async fn after_a_drain_nobody_waits_and_requests_are_taken() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.service.leave();
    assert_eq!(world.service.not_ready().last().map(|part| part.part), Some("node"));
    let waiting = world.asking(request(&spring, "u1"), WAIT);
    world.waiters(1).await;
    let before = world.now();
    world.service.stop_waiting();
    for asked in [waiting, world.asking(request(&spring, "u2"), WAIT)] {
        assert_eq!(asked.await.unwrap().unwrap().answer, None);
    }
    // An append takes a moment, and no wait follows.
    assert!(world.now() - before < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn unknown_campaigns_are_looked_up_in_the_store() {
    let world = ServiceWorld::new().await;
    let asked = request(&campaign("spring"), "u1");
    let refused = world.service.issue(asked.clone(), None).await;
    assert_eq!(refused, Err(ServiceError::UnknownCampaign));
    world.cut(Engine::Store);
    let refused = world.service.issue(asked.clone(), None).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable { .. })), "{refused:?}");
    world.mend(Engine::Store);
    world.pass(Duration::from_secs(1)).await;
    world.defined("spring", |_| {}).await;
    assert!(
        world.service.issue(asked, None).await.is_ok(),
        "nothing remembers that it was unknown"
    );
    assert_eq!(world.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_read_does_not_deny_a_definition() {
    let world = ServiceWorld::new().await;
    // The first read sees the rows before the definition, and the second one those after it.
    for ms in [500, 1_500] {
        world.arm(Call::ReadVersions, Fate::Slow { ms });
    }
    let ask = |user: &str| world.asking(request(&campaign("spring"), user), None);
    let early = ask("u1");
    world.until(|| world.calls(Call::ReadVersions) == 1).await;
    let late: Vec<_> = (0..50).map(|index| ask(&format!("late{index}"))).collect();
    assert_eq!(early.await.unwrap(), Err(ServiceError::UnknownCampaign));
    world.defined("spring", |_| {}).await;
    for late in late {
        assert!(late.await.unwrap().is_ok());
    }
    assert_eq!(world.calls(Call::ReadVersions), 2, "all of them shared the second read");
}

#[tokio::test(start_paused = true)]
async fn traffic_costs_one_read_a_second() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let before = world.calls(Call::ReadVersions);
    for index in 0..500 {
        let asked = request(&spring, &format!("u{index}"));
        world.service.issue(asked, None).await.unwrap();
        world.pass(Duration::from_millis(10)).await;
    }
    let reads = world.calls(Call::ReadVersions) - before;
    assert!((4..=6).contains(&reads), "{reads} reads in 5 s");
}

#[tokio::test(start_paused = true)]
async fn a_known_campaign_needs_no_store() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.cut(Engine::Store);
    for index in 0..10 {
        world.pass(Duration::from_millis(700)).await;
        let asked = request(&spring, &format!("v{index}"));
        assert!(world.service.issue(asked, None).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn certain_refusals_skip_the_log() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.changed(&spring, Change::Paused).await;
    world.pass(Duration::from_secs(5)).await;
    let length = world.len();
    let refused = world.service.issue(request(&spring, "u2"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::Paused)));
    assert_eq!(world.len(), length);
    assert!(world.service.issue(keyed(&spring, "u2", "k"), None).await.is_ok());
    let opens_at = Some(Timestamp(world.service.clock.wall().0 + 55_000));
    let later = world.defined("later", |terms| terms.opens_at = opens_at).await;
    let refused = world.service.issue(request(&later, "u1"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::NotOpenYet)));
    world.pass(Duration::from_millis(54_500)).await;
    assert!(world.service.issue(request(&later, "u1"), None).await.is_ok(), "within the margin");
}

#[tokio::test(start_paused = true)]
async fn a_shut_campaign_refuses_rare_requests_too() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.changed(&spring, Change::Closed).await;
    let length = world.len();
    for gap_ms in [0, 900, 1_001, 1_500, 1_999, 2_100, 1_001, 1_001] {
        world.pass(Duration::from_millis(gap_ms)).await;
        let refused = world.service.issue(request(&spring, "u1"), None).await;
        assert_eq!(
            refused,
            Err(ServiceError::CertainRejection(Reason::Closed)),
            "after {gap_ms} ms"
        );
    }
    assert_eq!(world.len(), length, "none of them went to the log");
}

#[tokio::test(start_paused = true)]
async fn a_raised_quota_admits_within_a_second() {
    let (world, spring) = ServiceWorld::with_spring_of(1).await;
    let _owner = world.owner_at_work(Settle::All);
    assert_eq!(sequence(world.service.issue(request(&spring, "u1"), WAIT).await), 1);
    world.pass(Duration::from_secs(5)).await;
    let refused = world.service.issue(request(&spring, "u2"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::SoldOut)));
    let amendment = Amendment { quota: Some(2), ..Amendment::default() };
    world.changed(&spring, Change::Amended { amendment }).await;
    world.pass(Duration::from_millis(1_001)).await;
    assert_eq!(sequence(world.service.issue(request(&spring, "u2"), WAIT).await), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hold_or_halt_refuses_requests() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.hold(&spring, 5, HoldState::Open);
    let length = world.len();
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    let Err(ServiceError::Halted { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("it failed"), "{reason}");
    world.hold(&spring, 5, HoldState::Closed);
    world.pass(Duration::from_secs(3)).await;
    world.heard().await;
    assert!(world.service.issue(request(&spring, "u1"), None).await.is_ok());
    world.halted(world.partition_of(&spring), "out of range").await;
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    assert_eq!(refused, Err(ServiceError::Halted { reason: "out of range".to_owned() }));
    assert_eq!(world.len(), length + 1);
    let degraded = world.service.degraded();
    let [NotReady { part: "partitions", reason }] = &degraded[..] else { panic!("{degraded:?}") };
    assert!(reason.ends_with(" is halted: out of range"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn only_unconfirmed_appends_are_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.arm(Call::Append, Fate::AnswerLost);
    world.arm(Call::Append, Fate::Refused);
    let unknown = world.service.issue(request(&spring, "u1"), None).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn an_append_below_the_watermark_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.heard().await;
    let partition = world.partition_of(&spring);
    world.set_end(partition, world.watermark(partition) - 10);
    let unknown = world.service.issue(request(&spring, "u1"), None).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    assert_eq!(world.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_appended_request_is_never_denied() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::FeedLost);
    world.pass(Duration::from_secs(5)).await;
    assert_eq!(sequence(world.service.issue(request(&spring, "u1"), WAIT).await), 1);
    world.damage_coupons(|coupon| coupon.code = "SOMETHING".into());
    let length = world.len();
    let taken = world.service.issue(request(&spring, "u1"), WAIT).await;
    assert!(matches!(taken, Ok(IssueReply { answer: None, waited: true, .. })), "{taken:?}");
    assert_eq!(world.len(), length + 1);
}

#[tokio::test(start_paused = true)]
async fn the_user_rate_limits_one_user_in_one_campaign() {
    let world = ServiceWorld::with(|ServiceParts { admission, .. }| {
        (admission.user_rate, admission.user_burst) = (10, 2);
    })
    .await;
    let (spring, fall) =
        (world.defined("spring", |_| {}).await, world.defined("fall", |_| {}).await);
    for _ in 0..2 {
        world.service.issue(request(&spring, "u1"), None).await.unwrap();
    }
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    let Err(ServiceError::UserRateLimited { retry_after }) = refused else { panic!("{refused:?}") };
    assert!((90..=100).contains(&retry_after.as_millis()), "{retry_after:?}");
    assert!(world.service.issue(request(&spring, "u2"), None).await.is_ok());
    assert!(world.service.issue(request(&fall, "u1"), None).await.is_ok());
    world.pass(retry_after).await;
    assert!(world.service.issue(request(&spring, "u1"), None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_retry_with_a_key_costs_more_once_the_campaign_is_over() {
    let world = ServiceWorld::with(|ServiceParts { admission, .. }| {
        (admission.user_rate, admission.user_burst) = (10, 2);
    })
    .await;
    let spring = world.defined("spring", |terms| terms.quota = 1).await;
    world.service.issue(keyed(&spring, "u1", "k"), None).await.unwrap();
    world.decide(Settle::All).await;
    world.pass(Duration::from_secs(2)).await;
    world.heard().await;
    world.service.issue(keyed(&spring, "u1", "k"), None).await.unwrap();
    let refused = world.service.issue(keyed(&spring, "u1", "k"), None).await;
    let Err(ServiceError::UserRateLimited { retry_after }) = refused else { panic!("{refused:?}") };
    assert!((850..=900).contains(&retry_after.as_millis()), "{retry_after:?}");
    world.pass(retry_after).await;
    assert!(world.service.issue(keyed(&spring, "u1", "k"), None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn lag_and_appends_in_flight_are_bounded() {
    let world = ServiceWorld::with(|ServiceParts { admission, .. }| {
        (admission.max_lag, admission.inflight_max) = (20, 1);
    })
    .await;
    let spring = world.defined("spring", |_| {}).await;
    world.arm(Call::Append, HANGS);
    let hanging = world.asking(request(&spring, "u1"), None);
    world.until(|| world.calls(Call::Append) == 1).await;
    let refused = world.service.issue(request(&spring, "u2"), None).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
    hanging.abort();
    world.until(|| world.service.appends.available_permits() == 1).await;
    let mut taken = 0;
    while world.service.issue(request(&spring, &format!("v{taken}")), None).await.is_ok() {
        taken += 1;
        assert!(taken < 100, "the lag is never too much");
    }
    let refused = world.service.issue(request(&spring, "u3"), None).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
    world.decide(Settle::All).await;
    world.heard().await;
    assert!(world.service.issue(request(&spring, "u3"), None).await.is_ok());
}

/// The clock of a machine that is suspended for an hour, which only the time since boot counts.
struct Suspended {
    clock: SharedClock,
    is_over: Arc<AtomicBool>,
}

impl Clock for Suspended {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn instant(&self) -> Instant {
        self.clock.instant()
    }

    fn boot(&self) -> Duration {
        let suspended = if self.is_over.load(Ordering::Relaxed) { 3_600 } else { 0 };
        self.clock.boot() + Duration::from_secs(suspended)
    }

    fn sleep_until(&self, until: Instant) -> Sleep {
        self.clock.sleep_until(until)
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_node_refuses_by_nothing_it_read_before() {
    let is_over = Arc::new(AtomicBool::new(false));
    let world = ServiceWorld::with(|parts| {
        let clock = parts.clock.clone();
        parts.clock = Arc::new(Suspended { clock, is_over: is_over.clone() });
    });
    let world = world.await;
    let spring = world.defined("spring", |terms| terms.quota = 0).await;
    let refused = world.service.issue(request(&spring, "u1"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::SoldOut)));
    world.cut(Engine::Store);
    is_over.store(true, Ordering::Relaxed);
    let taken = world.service.issue(request(&spring, "u1"), None).await;
    assert!(taken.is_ok(), "the log decides: {taken:?}");
}
