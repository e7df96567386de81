//! Changes of campaigns: conflicts, holds, unknown outcomes.

use std::time::Duration;

use tokio::time::advance;

use super::{
    fakes::AppendFault,
    world::{ServiceWorld, Settle, campaign, request, terms, until},
};
use crate::{
    api::service::{CampaignState, ChangeCampaigns, ControlVerb, IssueCoupons, ServiceError},
    domain::{
        code::CodeFormat,
        definition::{Amendment, QUOTA_MAX, Terms},
        ids::Timestamp,
        reason::Reason,
        record::{Change, Control, Record},
        rows::HoldState,
    },
    log::RequestLog,
};

fn quota(quota: u32) -> Amendment {
    Amendment { quota: Some(quota), ..Amendment::default() }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_definition_is_no_error() {
    let world = ServiceWorld::new().await;
    let _owner = world.owner_at_work(Settle::All);
    let (new, view) = world.service.define(campaign("spring"), terms(10)).await.unwrap();
    assert_eq!((new, view.remaining, view.state), (true, 10, CampaignState::Open));
    assert!(world.service.issue(request(&view.campaign, "u1"), None).await.is_ok());
    world.service.amend(&view.campaign, quota(20)).await.unwrap();
    let (new, view) = world.service.define(campaign("spring"), terms(10)).await.unwrap();
    assert_eq!((new, view.definition.terms.quota), (false, 20));
    let other = world.service.define(campaign("spring"), terms(20)).await;
    assert_eq!(other, Err(ServiceError::AlreadyDefined { differing: vec!["quota"] }));
    let code = CodeFormat::with(Some("S-".to_owned()), None, None);
    let other = Terms { per_user_limit: 2, closes_at: Some(Timestamp(1)), code, ..terms(10) };
    let other = world.service.define(campaign("spring"), other).await;
    let differing = vec!["per_user_limit", "closes_at", "code"];
    assert_eq!(other, Err(ServiceError::AlreadyDefined { differing }));
    assert_eq!(world.log.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn of_two_concurrent_definitions_one_wins() {
    let other = ServiceError::AlreadyDefined { differing: vec!["quota"] };
    for (second, expected) in [(terms(10), Ok(false)), (terms(20), Err(other))] {
        let world = ServiceWorld::new().await;
        let (log, codec) = (world.log.clone(), world.codec.clone());
        *world.log.before_append.lock() = Some(Box::new(move || {
            let change = Change::Defined { terms: terms(10) };
            let control = Control { campaign: campaign("spring"), based_on: None, change };
            let (partition, new) = codec.encode(&Record::from(control));
            futures_util::FutureExt::now_or_never(log.append(partition, new)).unwrap().unwrap();
        }));
        let _owner = world.owner_at_work(Settle::All);
        let defined = world.service.define(campaign("spring"), second).await;
        assert_eq!(defined.map(|(new, _)| new), expected);
        assert_eq!(world.log.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_change_is_repeated() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    let (log, codec) = (world.log.clone(), world.codec.clone());
    let first = world.log.records()[0].1.offset;
    *world.log.before_append.lock() = Some(Box::new(move || {
        let amendment = Amendment { per_user_limit: Some(5), ..Amendment::default() };
        let control = Control {
            campaign: campaign("spring"),
            based_on: Some(first),
            change: Change::Amended { amendment },
        };
        let (partition, new) = codec.encode(&Record::from(control));
        futures_util::FutureExt::now_or_never(log.append(partition, new)).unwrap().unwrap();
    }));
    let _owner = world.owner_at_work(Settle::All);
    let view = world.service.amend(&spring, quota(20)).await.unwrap();
    let terms = &view.definition.terms;
    assert_eq!((terms.quota, terms.per_user_limit), (20, 5), "neither change is lost");
    assert_eq!(world.log.len(), 4, "defined, overtaking, overtaken, repeated");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_in_effect_for_later_calls() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    let _owner = world.owner_at_work(Settle::All);
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.service.control(&spring, ControlVerb::Pause).await.unwrap();
    let refused = world.service.issue(request(&spring, "u2"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::Paused)));
    world.service.control(&spring, ControlVerb::Resume).await.unwrap();
    assert!(world.service.issue(request(&spring, "u2"), None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_without_effect_appends_nothing() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    let _owner = world.owner_at_work(Settle::All);
    let resumed = world.service.control(&spring, ControlVerb::Resume).await.unwrap();
    assert_eq!(resumed.state, CampaignState::Open);
    world.service.amend(&spring, quota(10)).await.unwrap();
    assert_eq!(world.log.len(), 1);
    for verb in [ControlVerb::Pause, ControlVerb::Pause, ControlVerb::Close, ControlVerb::Close] {
        world.service.control(&spring, verb).await.unwrap();
    }
    assert_eq!(world.log.len(), 3);
    for verb in [ControlVerb::Pause, ControlVerb::Resume] {
        let refused = world.service.control(&spring, verb).await;
        assert_eq!(refused, Err(ServiceError::CampaignClosed));
    }
    let refused = world.service.amend(&spring, quota(30)).await;
    assert_eq!(refused, Err(ServiceError::CampaignClosed));
    assert_eq!(world.log.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_log_refuses_a_quota_below_issued() {
    for settle in [Settle::All, Settle::FeedLost] {
        let world = ServiceWorld::new().await;
        let spring = world.defined("spring", |_| {}).await;
        for index in 0..3 {
            world.service.issue(request(&spring, &format!("u{index}")), None).await.unwrap();
        }
        let _owner = world.owner_at_work(settle);
        advance(Duration::from_secs(4)).await;
        let refused = world.service.amend(&spring, quota(2)).await;
        assert_eq!(refused, Err(ServiceError::QuotaBelowIssued { issued: 3 }), "{settle:?}");
        assert_eq!(world.service.amend(&spring, quota(3)).await.unwrap().remaining, 0);
        let invalid = world.service.amend(&spring, quota(QUOTA_MAX + 1)).await;
        assert!(matches!(invalid, Err(ServiceError::Invalid(faults)) if faults.len() == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_safe_to_repeat() {
    let world = ServiceWorld::new().await;
    let began = tokio::time::Instant::now();
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    world.log.faults.lock().push_back(AppendFault::Hangs);
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    world.log.faults.lock().push_back(AppendFault::Unknown(true));
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    let _owner = world.owner_at_work(Settle::All);
    until(|| !world.store.rows().versions.is_empty()).await;
    let again = world.service.define(campaign("spring"), terms(10)).await.unwrap();
    assert!(!again.0);
}

#[tokio::test(start_paused = true)]
async fn an_unsent_change_has_a_known_outcome() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    world.log.faults.lock().push_back(AppendFault::Overloaded);
    let refused = world.service.control(&spring, ControlVerb::Pause).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
    world.store_away(true);
    advance(Duration::from_secs(1)).await;
    let refused = world.service.control(&spring, ControlVerb::Pause).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable { .. })), "{refused:?}");
    world.store_away(false);
    advance(Duration::from_secs(1)).await;
    let unknown = world.service.control(&campaign("summer"), ControlVerb::Pause).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    let mut unsound = terms(10);
    unsound.per_user_limit = 0;
    let refused = world.service.define(campaign("summer"), unsound).await;
    assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");
    assert_eq!(world.log.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_failure_after_append_is_unknown() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    let service = world.service.clone();
    let paused = tokio::spawn(async move { service.control(&spring, ControlVerb::Pause).await });
    until(|| world.log.len() == 2).await;
    world.decide(Settle::All).await;
    world.store_away(true);
    let unknown = paused.await.unwrap();
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn only_a_release_passes_a_hold_or_halt() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    world.hold(&spring, 5, HoldState::Open).await;
    for verb in [ControlVerb::Pause, ControlVerb::Close] {
        let refused = world.service.control(&spring, verb).await;
        assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    }
    let refused = world.service.amend(&spring, quota(20)).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    let refused = world.service.define(spring.clone(), terms(10)).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    world.halted(world.codec.partition_of(&spring), "out of range").await;
    assert_eq!(world.log.len(), 1);
    let (service, released) = (world.service.clone(), spring.clone());
    let releasing =
        tokio::spawn(async move { service.control(&released, ControlVerb::Release).await });
    until(|| world.log.len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!releasing.is_finished(), "the hold is still open");
    world.hold(&spring, 5, HoldState::Released).await;
    let view = releasing.await.unwrap().unwrap();
    assert_eq!(view.state, CampaignState::Quarantined);
    assert_eq!(view.hold.map(|hold| hold.state), Some(HoldState::Released));
}

#[tokio::test(start_paused = true)]
async fn releasing_without_a_hold_appends_nothing() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    world.hold(&spring, 5, HoldState::Closed).await;
    assert_eq!(
        world.service.control(&spring, ControlVerb::Release).await.unwrap().state,
        CampaignState::Open
    );
    let unknown = world.service.control(&campaign("summer"), ControlVerb::Release).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    assert_eq!(world.log.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unmarked_release_is_unknown() {
    let world = ServiceWorld::new().await;
    let spring = world.defined("spring", |_| {}).await;
    world.hold(&spring, 5, HoldState::Open).await;
    let unknown = world.service.control(&spring, ControlVerb::Release).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
}
