//! Changes of campaigns: conflicts, holds, unknown outcomes.

use std::time::Duration;

use super::world::{HANGS, ServiceWorld, campaign, request, terms};
use crate::{
    api::service::{
        Basis, CampaignState, ChangeCampaigns, Changed, ControlVerb, IssueCoupons, ServiceError,
        ShowCampaigns,
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

/// Whose key makes the changes.
const BY: &str = "token";

fn quota(quota: u32) -> Amendment {
    Amendment { quota: Some(quota), ..Amendment::default() }
}

/// Defines `spring` so, on whichever version is in effect.
async fn put(world: &ServiceWorld, terms: Terms) -> Result<Changed, ServiceError> {
    world.service.define(campaign("spring"), terms, Basis::InEffect, BY).await
}

#[tokio::test(start_paused = true)]
async fn a_definition_makes_it_so() {
    let world = ServiceWorld::new().await;
    let _owner = world.owner_at_work(Settle::All);
    let made = put(&world, terms(10)).await.unwrap();
    let Changed { created, view, warnings } = made;
    assert_eq!((created, view.remaining, view.state), (true, 10, CampaignState::Open));
    assert_eq!(warnings, Vec::<String>::new());
    assert!(world.service.issue(request(&view.campaign, "u1"), None).await.is_ok());
    let again = put(&world, terms(10)).await.unwrap();
    assert_eq!((again.created, again.view.version), (false, view.version));
    assert_eq!(world.len(), 2, "it was so already");
    world.service.amend(&view.campaign, quota(50), Basis::InEffect, BY).await.unwrap();
    for quota in [50, 10] {
        let made = put(&world, terms(quota)).await.unwrap();
        assert_eq!((made.created, made.view.definition.terms.quota), (false, quota));
    }
    assert_eq!(world.len(), 4, "only the last one was a change");
}

#[tokio::test(start_paused = true)]
async fn what_a_definition_leaves_out_gets_its_default() {
    let world = ServiceWorld::new().await;
    let _owner = world.owner_at_work(Settle::All);
    let (opens_at, closes_at) = (Some(Timestamp(1)), Some(Timestamp::MAX));
    let title = Some("Spring".to_owned());
    let full = Terms { per_user_limit: 3, opens_at, closes_at, title, listed: false, ..terms(10) };
    put(&world, full).await.unwrap();
    let Changed { view, warnings, .. } = put(&world, terms(20)).await.unwrap();
    assert_eq!(view.definition.terms, terms(20));
    let removed: Vec<_> = warnings.iter().filter_map(|text| text.split(' ').next()).collect();
    assert_eq!(removed, ["opens_at", "closes_at", "title"]);
    assert_eq!(put(&world, terms(20)).await.unwrap().warnings, Vec::<String>::new());
    let late = Terms { closes_at: Some(Timestamp(1)), ..terms(20) };
    assert_eq!(put(&world, late).await.unwrap().warnings.len(), 1, "it is over");
    let none = world.service.amend(&view.campaign, quota(0), Basis::InEffect, BY).await.unwrap();
    assert_eq!(none.warnings.len(), 2, "{:?}", none.warnings);
}

#[tokio::test(start_paused = true)]
async fn a_code_format_and_the_end_are_final() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    let code = CodeFormat::with(Some("S-".to_owned()), None, None);
    let other = put(&world, Terms { code, ..terms(10) }).await;
    assert_eq!(other, Err(ServiceError::OtherCode));
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.service.issue(request(&spring, "u2"), None).await.unwrap();
    let below = put(&world, terms(1)).await;
    assert_eq!(below, Err(ServiceError::QuotaBelowIssued { issued: 2 }));
    world.service.control(&spring, ControlVerb::Close, Basis::InEffect, BY).await.unwrap();
    assert_eq!(put(&world, terms(20)).await, Err(ServiceError::CampaignClosed));
    assert!(put(&world, terms(10)).await.is_ok(), "it is so");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_based_on_the_version_it_names() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    let service = &world.service;
    let first = Basis::Versions(vec![(1, service.campaign(&spring).await.unwrap().version)]);
    let second = service.amend(&spring, quota(20), first.clone(), BY).await.unwrap().view;
    let second = Basis::Versions(vec![(1, second.version)]);
    // Two operators add 50 at once: the second one is told.
    let failed = |result: Result<(), ServiceError>| match result {
        Err(ServiceError::PreconditionFailed { .. }) => {}
        other => panic!("{other:?}"),
    };
    failed(service.amend(&spring, quota(70), first.clone(), BY).await.map(|_| ()));
    failed(service.define(spring.clone(), terms(70), first.clone(), BY).await.map(|_| ()));
    failed(service.control(&spring, ControlVerb::Pause, first.clone(), BY).await.map(|_| ()));
    failed(service.define(spring.clone(), terms(20), Basis::Absent, BY).await.map(|_| ()));
    let other = campaign("other");
    failed(service.define(other.clone(), terms(20), Basis::Existing, BY).await.map(|_| ()));
    failed(service.define(other, terms(20), second.clone(), BY).await.map(|_| ()));
    assert_eq!(world.len(), 2, "nothing of these is in the log");
    // What is asked is in effect already.
    assert!(service.amend(&spring, quota(20), first.clone(), BY).await.is_ok());
    assert!(service.define(spring.clone(), terms(20), first.clone(), BY).await.is_ok());
    assert!(service.control(&spring, ControlVerb::Resume, first.clone(), BY).await.is_ok());
    assert!(service.control(&spring, ControlVerb::Release, first, BY).await.is_ok());
    assert!(service.control(&spring, ControlVerb::Pause, second.clone(), BY).await.is_ok());
    assert!(service.control(&spring, ControlVerb::Pause, second, BY).await.is_ok(), "said again");
    assert!(service.define(spring.clone(), terms(5), Basis::Existing, BY).await.is_ok());
    assert_eq!(world.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_change_on_a_version_is_refused() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let (based_on, change) = (world.version(&spring), Change::Paused);
    let other = Control::once("token", spring.clone(), based_on, change);
    let _owner = world.owner_at_work(Settle::All);
    let basis = Basis::Versions(vec![(1, based_on.unwrap())]);
    let amending = world.service.amend(&spring, quota(20), basis, BY);
    let amended = overtaken(&world, other, amending).await;
    assert!(matches!(amended, Err(ServiceError::PreconditionFailed { .. })), "{amended:?}");
    assert_eq!(world.len(), 3, "it is not repeated");
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
async fn of_two_concurrent_definitions_one_creates() {
    for (second, records) in [(terms(10), 2), (terms(20), 3)] {
        let world = ServiceWorld::new().await;
        let change = Change::Defined { terms: terms(10) };
        let first = Control::once("token", campaign("spring"), None, change);
        let _owner = world.owner_at_work(Settle::All);
        let defining = put(&world, second.clone());
        let defined = overtaken(&world, first, defining).await.unwrap();
        assert_eq!((defined.created, defined.view.definition.terms), (false, second));
        assert_eq!(world.len(), records);
    }
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_change_is_repeated() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let amendment = Amendment { per_user_limit: Some(5), ..Amendment::default() };
    let (based_on, change) = (world.version(&spring), Change::Amended { amendment });
    let other = Control::once("token", spring.clone(), based_on, change);
    let _owner = world.owner_at_work(Settle::All);
    let amending = world.service.amend(&spring, quota(20), Basis::InEffect, BY);
    let view = overtaken(&world, other, amending).await.unwrap().view;
    let terms = &view.definition.terms;
    assert_eq!((terms.quota, terms.per_user_limit), (20, 5), "neither change is lost");
    assert_eq!(world.len(), 4, "defined, overtaking, overtaken, repeated");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_in_effect_for_later_calls() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await.unwrap();
    let refused = world.service.issue(request(&spring, "u2"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::Paused)));
    world.service.control(&spring, ControlVerb::Resume, Basis::InEffect, BY).await.unwrap();
    assert!(world.service.issue(request(&spring, "u2"), None).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_without_effect_appends_nothing() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let _owner = world.owner_at_work(Settle::All);
    let resumed =
        world.service.control(&spring, ControlVerb::Resume, Basis::InEffect, BY).await.unwrap();
    assert_eq!(resumed.state, CampaignState::Open);
    world.service.amend(&spring, quota(10), Basis::InEffect, BY).await.unwrap();
    assert_eq!(world.len(), 1);
    for verb in [ControlVerb::Pause, ControlVerb::Pause, ControlVerb::Close, ControlVerb::Close] {
        world.service.control(&spring, verb, Basis::InEffect, BY).await.unwrap();
    }
    assert_eq!(world.len(), 3);
    for verb in [ControlVerb::Pause, ControlVerb::Resume] {
        let refused = world.service.control(&spring, verb, Basis::InEffect, BY).await;
        assert_eq!(refused, Err(ServiceError::CampaignClosed));
    }
    let refused = world.service.amend(&spring, quota(30), Basis::InEffect, BY).await;
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
        let refused = world.service.amend(&spring, quota(2), Basis::InEffect, BY).await;
        assert_eq!(refused, Err(ServiceError::QuotaBelowIssued { issued: 3 }), "{settle:?}");
        assert_eq!(
            world
                .service
                .amend(&spring, quota(3), Basis::InEffect, BY)
                .await
                .unwrap()
                .view
                .remaining,
            0
        );
        let invalid = world.service.amend(&spring, quota(QUOTA_MAX + 1), Basis::InEffect, BY).await;
        assert!(matches!(invalid, Err(ServiceError::Invalid(faults)) if faults.len() == 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_safe_to_repeat() {
    let world = ServiceWorld::new().await;
    let began = world.now();
    let unknown = world.service.define(campaign("spring"), terms(10), Basis::InEffect, BY).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    assert_eq!((world.now() - began).as_secs(), 5);
    world.arm(Call::Append, HANGS);
    let unknown = world.service.define(campaign("spring"), terms(10), Basis::InEffect, BY).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    world.arm(Call::Append, Fate::AnswerLost);
    let unknown = world.service.define(campaign("spring"), terms(10), Basis::InEffect, BY).await;
    assert!(matches!(unknown, Err(ServiceError::OutcomeUnknown { .. })), "{unknown:?}");
    let _owner = world.owner_at_work(Settle::All);
    world.until(|| !world.rows().versions.is_empty()).await;
    let again =
        world.service.define(campaign("spring"), terms(10), Basis::InEffect, BY).await.unwrap();
    assert!(!again.created);
}

#[tokio::test(start_paused = true)]
async fn an_unsent_change_has_a_known_outcome() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.arm(Call::Append, Fate::Refused);
    let refused = world.service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await;
    assert!(matches!(refused, Err(ServiceError::Overloaded { .. })), "{refused:?}");
    world.cut(Engine::Store);
    world.pass(Duration::from_secs(1)).await;
    let refused = world.service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await;
    assert!(matches!(refused, Err(ServiceError::Unavailable { .. })), "{refused:?}");
    world.mend(Engine::Store);
    world.pass(Duration::from_secs(1)).await;
    let unknown =
        world.service.control(&campaign("summer"), ControlVerb::Pause, Basis::InEffect, BY).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    let mut unsound = terms(10);
    unsound.per_user_limit = 0;
    let refused = world.service.define(campaign("summer"), unsound, Basis::InEffect, BY).await;
    assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");
    assert_eq!(world.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_failure_after_append_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let service = world.service.clone();
    let paused = tokio::spawn(async move {
        service.control(&spring, ControlVerb::Pause, Basis::InEffect, BY).await
    });
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
        let refused = world.service.control(&spring, verb, Basis::InEffect, BY).await;
        assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    }
    let refused = world.service.amend(&spring, quota(20), Basis::InEffect, BY).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    let refused = world.service.define(spring.clone(), terms(10), Basis::InEffect, BY).await;
    assert!(matches!(refused, Err(ServiceError::Halted { .. })), "{refused:?}");
    world.halted(world.partition_of(&spring), "out of range").await;
    assert_eq!(world.len(), 1);
    let (service, released) = (world.service.clone(), spring.clone());
    let releasing = tokio::spawn(async move {
        service.control(&released, ControlVerb::Release, Basis::InEffect, BY).await
    });
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
        world
            .service
            .control(&spring, ControlVerb::Release, Basis::InEffect, BY)
            .await
            .unwrap()
            .state,
        CampaignState::Open
    );
    let unknown =
        world.service.control(&campaign("summer"), ControlVerb::Release, Basis::InEffect, BY).await;
    assert_eq!(unknown, Err(ServiceError::UnknownCampaign));
    assert_eq!(world.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unmarked_release_is_unknown() {
    let (world, spring) = ServiceWorld::with_spring().await;
    world.hold(&spring, FIRST_OFFSET + 5, HoldState::Open);
    let unknown = world.service.control(&spring, ControlVerb::Release, Basis::InEffect, BY).await;
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
    let refused = world.service.control(&spring, ControlVerb::Release, Basis::InEffect, BY).await;
    let Err(ServiceError::NotReleasable { reason }) = refused else { panic!("{refused:?}") };
    assert!(reason.contains(&format!("records from {} on are needed", end - 1)), "{reason}");
    let follow_up = format!("at most {}) to another campaign", before.view.remaining);
    assert!(reason.contains(&follow_up), "{reason}");
    assert_eq!(world.len(), records, "nothing is appended");
    let shown = world.service.admin_view(&spring).await.unwrap();
    assert_eq!(shown.not_releasable, Some(reason));
}
