//! What a service finds that starts after others have answered: it remembers nothing.

use std::time::Duration;

use futures_util::future::join_all;

use super::world::{ServiceWorld, keyed, request, user};
use crate::{
    api::service::{
        Basis, CampaignState, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons,
        RequestStatus, ServiceError, ShowCampaigns,
    },
    domain::{answer::Answer, reason::Reason},
    simulation::testing::Settle,
};

/// Whose key makes the changes.
const BY: &str = "token";

const WAIT: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn a_restart_changes_no_answer() {
    let (world, spring) = ServiceWorld::with_spring_of(60).await;
    let owner = world.owner_at_work(Settle::All);
    let asking = (0..200).map(|index| {
        // With a key the log decides, also once the edge knows that the campaign is sold out.
        let asked = keyed(&spring, &format!("u{}", index % 150), &format!("k{index}"));
        world.service.issue(asked, Some(WAIT))
    });
    let taken = join_all(asking).await.into_iter().map(Result::unwrap);
    let before: Vec<_> =
        taken.map(|taken| (taken.request_id, taken.answer.expect("it was waited for"))).collect();
    let count = |kind: fn(&Answer) -> bool| before.iter().filter(|(_, of)| kind(of)).count();
    assert_eq!(count(|answer| matches!(answer, Answer::Issued { .. })), 60);
    let already = count(|answer| matches!(answer, Answer::AlreadyIssued { .. }));
    let sold_out = Answer::Rejected { reason: Reason::SoldOut };
    assert_eq!(before.iter().filter(|(_, of)| *of == sold_out).count(), 140 - already);
    world.service.control(&spring, ControlVerb::Close, Basis::InEffect, BY).await.unwrap();
    world.decide(Settle::All).await;
    drop(owner);
    world.service.shut_down().await;

    let service = world.another_service().await;
    for (id, answer) in &before {
        let found = service.find(id, None, Duration::ZERO).await.unwrap();
        assert_eq!(found.status, RequestStatus::Decided(answer.clone()));
    }
    let view = service.campaign(&spring).await.unwrap();
    let closed = CampaignState::Shut(Reason::Closed);
    assert_eq!((view.issued, view.remaining, view.state), (60, 0, closed));
    let issued = before.iter().find_map(|(id, answer)| match answer {
        Answer::Issued { coupon } => Some((id, coupon)),
        _ => None,
    });
    let (id, coupon) = issued.unwrap();
    let holder = service.find(id, None, Duration::ZERO).await.unwrap().user;
    let held = service.coupons_of(&spring, &holder).await.unwrap().coupons;
    assert_eq!(held, std::slice::from_ref(coupon));
    assert_eq!(service.coupons_of(&spring, &user("nobody")).await.unwrap().coupons, []);
    let refused = service.issue(request(&spring, "late"), None).await;
    assert_eq!(refused, Err(ServiceError::CertainRejection(Reason::Closed)));
}

#[tokio::test(start_paused = true)]
async fn an_undecided_request_survives_a_restart() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let decided = world.watermark(world.partition_of(&spring));
    let taken = world.service.issue(request(&spring, "u1"), None).await.unwrap();
    world.service.shut_down().await;
    let service = world.another_service().await;
    let found = service.find(&taken.request_id, None, Duration::from_millis(10)).await.unwrap();
    let queue_ahead = world.end(world.partition_of(&spring)) - 1 - decided;
    assert_eq!(found.status, RequestStatus::Pending { queue_ahead });
    let _owner = world.owner_at_work(Settle::All);
    let found = service.find(&taken.request_id, None, WAIT).await.unwrap();
    let RequestStatus::Decided(Answer::Issued { coupon }) = found.status else {
        panic!("{found:?}")
    };
    assert_eq!(coupon.sequence, 1);
}
