//! Actors that crash on request, for chaos: coupon actors, partition consumers, the supervisor.

use async_trait::async_trait;
use axum::{http::StatusCode, response::Response};
use serde::Serialize;

use super::{
    json,
    problem::{Kind, Problem},
};
use crate::{
    domain::ids::{CampaignId, Partition},
    partition::actor_view::Crashed,
};

/// Makes actors of this node crash.
#[async_trait]
pub(crate) trait CrashActors: Send + Sync + 'static {
    /// Makes an actor panic as a bug would. Returns whether it runs on this node.
    async fn crash(&self, crashed: Crashed) -> bool;
}

/// Returns what makes actors crash, unless the settings forbid it.
pub(super) fn allowed(chaos: Option<&dyn CrashActors>) -> Result<&dyn CrashActors, Problem> {
    let detail =
        "this node crashes nothing on request; to rehearse, start it with chaos.enabled=true";
    chaos.ok_or_else(|| Problem::new(Kind::NoChaos, detail))
}

/// The actor that crashed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum CrashedBody<'a> {
    CampaignId(&'a CampaignId),
    Partition(Partition),
    Supervisor(&'static str),
}

/// Makes an actor crash and says so, or says that it does not run here.
pub(super) async fn run(chaos: &dyn CrashActors, crashed: Crashed) -> Result<Response, Problem> {
    let body = match &crashed {
        Crashed::Coupon(campaign) => CrashedBody::CampaignId(campaign),
        Crashed::Consumer(partition) => CrashedBody::Partition(*partition),
        Crashed::Supervisor => CrashedBody::Supervisor("crashed"),
    };
    if chaos.crash(crashed.clone()).await {
        return Ok(json::answer(StatusCode::OK, &body));
    }
    let detail = match &crashed {
        Crashed::Coupon(campaign) => format!(
            "no actor of {campaign} runs on this node now; it runs on the node that owns the \
             partition, once the campaign has been asked for"
        ),
        Crashed::Consumer(partition) => {
            format!("partition {partition} is not worked on by this node now; ask its owner")
        }
        Crashed::Supervisor => "the supervisor did not answer".to_owned(),
    };
    Err(Problem::new(Kind::NotHere, detail))
}
