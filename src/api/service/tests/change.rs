//! Changes of campaigns: conflicts, holds, unknown outcomes.

use std::time::Duration;

use super::world::{HANGS, ServiceWorld, campaign, request, terms};
use crate::{
    api::service::{
        CampaignState, ChangeCampaigns, ControlVerb, IssueCoupons, ServiceError, ShowCampaigns,
    },
    domain::{
        code::CodeFormat,
        definition::{Amendment, QUOTA_MAX, Terms},
        ids::Timestamp,
        reason::Reason,
        record::{Change, Control, Record},
        rows::HoldState,
    },
    simulation::testing::{Call, Engine, FIRST_OFFSET, Fate, Settle},
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
    assert_eq!(world.len(), 3);
}

/// Runs a call whose record lands behind that of another node.
async fn overtaken<T>(world: &ServiceWorld, other: Control, call: impl Future<Output = T>) -> T {
    world.arm(Call::Append, Fate::Slow { ms: 500 });
    let before = world.calls(Call::Append);
    let overtaking = async {
        world.until(|| world.calls(Call::Append) > before).await;
        world.append(&Record::from(other));
    };
    tokio::join!(call, overtaking).0
}

#[tokio::test(start_paused = true)]
async fn of_two_concurrent_definitions_one_wins() {
    let other = ServiceError::AlreadyDefined { differing: vec!["quota"] };
    for (second, expected) in [(terms(10), Ok(false)), (terms(20), Err(other))] {
        let world = ServiceWorld::new().await;
        let change = Change::Defined { terms: terms(10) };
        let first = Control { campaign: campaign("spring"), based_on: None, change };
        let _owner = world.owner_at_work(Settle::All);
        let defining = world.service.define(campaign("spring"), second);
        let defined = overtaken(&world, first, defining).await;
        assert_eq!(defined.map(|(new, _)| new), expected);
        assert_eq!(world.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_change_is_repeated() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let amendment = Amendment { per_user_limit: Some(5), ..Amendment::default() };
    let (based_on, change) = (world.version(&spring), Change::Amended { amendment });
    let other = Control { campaign: spring.clone(), based_on, change };
    let _owner = world.owner_at_work(Settle::All);
    let amending = world.service.amend(&spring, quota(20));
    let view = overtaken(&world, other, amending).await.unwrap();
    let terms = &view.definition.terms;
    assert_eq!((terms.quota, terms.per_user_limit), (20, 5), "neither change is lost");
    assert_eq!(world.len(), 4, "defined, overtaking, overtaken, repeated");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_in_effect_for_later_calls() {
    let (world, spring) = ServiceWorld::with_spring().await;
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
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    let resumed = world.service.control(&spring, ControlVerb::Resume).await.unwrap();
    assert_eq!(resumed.state, CampaignState::Open);
    world.service.amend(&spring, quota(10)).await.unwrap();
    assert_eq!(world.len(), 1);
    for verb in [ControlVerb::Pause, ControlVerb::Pause, ControlVerb::Close, ControlVerb::Close] {
        world.service.control(&spring, verb).await.unwrap();
    }
    assert_eq!(world.len(), 3);
    for verb in [ControlVerb::Pause, ControlVerb::Resume] {
        let refused = world.service.control(&spring, verb).await;
        assert_eq!(refused, Err(ServiceError::CampaignClosed));
    }
    let refused = world.service.amend(&spring, quota(30)).await;
    assert_eq!(refused, Err(ServiceError::CampaignClosed));
    assert_eq!(world.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_log_refuses_a_quota_below_issued() {
    for settle in [Settle::All, Settle::FeedLost] {
        let (world, spring) = ServiceWorld::with_spring().await;
        for index in 0..3 {
            world.service.issue(request(&spring, &format!("u{index}")), None).await.unwrap();
        }
        let _owner = world.owner_at_work(settle);
        world.pass(Duration::from_secs(4)).await;
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
    let began = world.now();
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!((world.now() - began).as_secs(), 5);
    world.arm(Call::Append, HANGS);
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    world.arm(Call::Append, Fate::AnswerLost);
    let unknown = world.service.define(campaign("spring"), terms(10)).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    let _owner = world.owner_at_work(Settle::All);
    world.until(|| !world.rows().versions.is_empty()).await;
    let again = world.service.define(campaign("spring"), terms(10)).await.unwrap();
    assert!(!again.0);
}

#[tokio::test(start_paused = true)]
async fn an_unsent_change_has_a_known_outcome() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.arm(Call::Append, Fate::Refused);
    let refused = world.service.control(&spring, ControlVerb::Pause).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
    world.cut(Engine::Store);
    world.pass(Duration::from_secs(1)).await;
    let refused = world.service.control(&spring, ControlVerb::Pause).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable { .. })), "{refused:?}");
    world.mend(Engine::Store);
    world.pass(Duration::from_secs(1)).await;
    let unknown = world.service.control(&campaign("summer"), ControlVerb::Pause).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    let mut unsound = terms(10);
    unsound.per_user_limit = 0;
    let refused = world.service.define(campaign("summer"), unsound).await;
    assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");
    assert_eq!(world.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_failure_after_append_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let service = world.service.clone();
    let paused = tokio::spawn(async move { service.control(&spring, ControlVerb::Pause).await });
    world.until(|| world.len() == 2).await;
    world.cut(Engine::Store);
    world.decide(Settle::All).await;
    let unknown = paused.await.unwrap();
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn only_a_release_passes_a_hold_or_halt() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.hold(&spring, FIRST_OFFSET + 5, HoldState::Open);
    for verb in [ControlVerb::Pause, ControlVerb::Close] {
        let refused = world.service.control(&spring, verb).await;
        assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    }
    let refused = world.service.amend(&spring, quota(20)).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    let refused = world.service.define(spring.clone(), terms(10)).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    world.halted(world.partition_of(&spring), "out of range").await;
    assert_eq!(world.len(), 1);
    let (service, released) = (world.service.clone(), spring.clone());
    let releasing =
        tokio::spawn(async move { service.control(&released, ControlVerb::Release).await });
    world.until(|| world.len() == 2).await;
    world.pass(Duration::from_secs(1)).await;
    assert!(!releasing.is_finished(), "the hold is still open");
    world.hold(&spring, FIRST_OFFSET + 5, HoldState::Released);
    let view = releasing.await.unwrap().unwrap();
    assert_eq!(view.state, CampaignState::Quarantined);
    assert_eq!(view.hold.map(|hold| hold.state), Some(HoldState::Released));
}

#[tokio::test(start_paused = true)]
async fn releasing_without_a_hold_appends_nothing() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.hold(&spring, FIRST_OFFSET + 5, HoldState::Closed);
    assert_eq!(
        world.service.control(&spring, ControlVerb::Release).await.unwrap().state,
        CampaignState::Open
    );
    let unknown = world.service.control(&campaign("summer"), ControlVerb::Release).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    assert_eq!(world.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unmarked_release_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.hold(&spring, FIRST_OFFSET + 5, HoldState::Open);
    let unknown = world.service.control(&spring, ControlVerb::Release).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn a_release_below_the_logs_start_is_refused() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    for user in ["u1", "u2", "u3"] {
        assert!(
            world.service.issue(request(&spring, user), Some(Duration::from_secs(5))).await.is_ok()
        );
    }
    let end = world.end(world.partition_of(&spring));
    world.hold(&spring, end - 1, HoldState::Open);
    let before = world.service.admin_view(&spring).await.unwrap();
    assert_eq!(before.not_releasable, None);
    world.trim(world.partition_of(&spring), end);
    let records = world.len();
    let refused = world.service.control(&spring, ControlVerb::Release).await;
    let Err(ServiceError::NotReleasable { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&format!("records from {} on are needed", end - 1)), "{reason}");
    let follow_up = format!("at most {}) to another campaign", before.view.remaining);
    assert!(reason.contains(&follow_up), "{reason}");
    assert_eq!(world.len(), records, "nothing is appended");
    let shown = world.service.admin_view(&spring).await.unwrap();
    assert_eq!(shown.not_releasable, Some(reason));
}
