//! What is asked of the service and what it answers, without a word of HTTP.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::{
        answer::{Answer, CouponFace},
        decision::Reason,
        definition::{Amendment, Definition, Fault, Terms},
        ids::{CampaignId, Position, UserId},
        record::Request,
        rows::Hold,
    },
    partition::actor_view::ActorView,
};

/// The answer to a `POST`: the request is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// What the client asks again with.
    pub request_id: String,
    /// The decision, if it was waited for and known in time.
    pub answer: Option<Answer>,
    /// Whether a waiter was free (a wait of zero counts as free).
    pub waited: bool,
}

/// The answer to a request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The request's campaign.
    pub campaign: CampaignId,
    /// Who asked.
    pub user: UserId,
    /// What is known.
    pub status: FoundStatus,
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundStatus {
    /// Its final answer.
    Final(Answer),
    /// Not decided yet.
    Pending {
        /// Records before it that are not settled yet.
        queue_ahead: u64,
    },
}

pub use crate::answer::admission::CampaignState;

/// A campaign as views show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CampaignView {
    /// Which campaign.
    pub campaign: CampaignId,
    /// Its state now.
    pub state: CampaignState,
    /// Its definition.
    pub definition: Definition,
    /// Coupons issued.
    pub issued: u32,
    /// quota − issued.
    pub remaining: u32,
    /// Every record below this position is in these figures, later ones may be.
    pub as_of: Position,
    /// The hold that quarantines it, if any.
    pub hold: Option<Hold>,
}

/// A campaign as the admin listener shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminView {
    /// What everybody sees.
    pub view: CampaignView,
    /// Its actor on this node.
    pub actor: ActorView,
}

/// What an operator asks of an existing campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Change its terms.
    Amend(Amendment),
    /// Issue nothing for now.
    Pause,
    /// Issue again.
    Resume,
    /// Issue nothing ever again.
    Close,
}

/// Why the service gave no answer. Nothing of a refused request is in the log, `Unknown` aside.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refused {
    /// No campaign of this id is defined.
    #[error("the campaign is not known")]
    UnknownCampaign,
    /// The request id was altered, is of another instance, or never was one.
    #[error("the request id is not one of this instance")]
    UnknownRequest,
    /// Certain to be rejected, from a state at most 1 s old.
    #[error("the campaign issues nothing now: {}", .0.name())]
    Certain(Reason),
    /// Too much of this user in this campaign.
    #[error("too many requests of one user in one campaign")]
    UserRate {
        /// After this long the next one is taken.
        retry_after: Duration,
    },
    /// Too much in all: appends under way, lag, or the log's own limit; or no space.
    #[error("no more is taken now: {detail}")]
    Overloaded {
        /// Why.
        detail: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The campaign is quarantined or its partition halted.
    #[error("nothing is decided there now: {reason}")]
    Halted {
        /// Why.
        reason: String,
    },
    /// Nobody can say whether it is in the log.
    #[error("nobody can say whether the request was taken: {detail}")]
    Unknown {
        /// What was not confirmed.
        detail: String,
    },
    /// The store or log did not answer; nothing was appended.
    #[error("a part of the system does not answer: {detail}")]
    Unavailable {
        /// Which part, and how.
        detail: String,
    },
    /// Defined already, with another content.
    #[error("the campaign is defined already, with another content")]
    AlreadyDefined {
        /// The fields that the first definition has otherwise.
        differing: Vec<&'static str>,
    },
    /// The quota would be below what is issued.
    #[error("the quota would be below the {issued} coupons issued")]
    QuotaBelowIssued {
        /// Coupons issued.
        issued: u32,
    },
    /// Closed for ever.
    #[error("the campaign is closed for ever")]
    ClosedForEver,
    /// The terms break rules.
    #[error("the terms break {} rule(s)", .0.len())]
    Invalid(Vec<Fault>),
}

/// A part of the node that is not ready, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReady {
    /// Which part, in `snake_case`.
    pub part: &'static str,
    /// Why.
    pub reason: String,
}

/// Everything that the HTTP listeners ask for. One implementation serves; tests put their own.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Takes a request into the log and, with `wait`, waits that long for its decision.
    async fn issue(&self, request: Request, wait: Option<Duration>) -> Result<Taken, Refused>;

    /// Answers a request id, waiting up to `wait` for the decision.
    async fn find(&self, request_id: &str, wait: Duration) -> Result<Found, Refused>;

    /// One campaign; its figures are at most 2 s behind.
    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, Refused>;

    /// Campaigns by id after the given one, at most `limit`.
    async fn campaigns(
        &self,
        after: Option<&CampaignId>,
        limit: usize,
    ) -> Result<Vec<CampaignView>, Refused>;

    /// The coupons of a user in a campaign, in sequence order.
    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<Vec<CouponFace>, Refused>;

    /// Defines a campaign; `true` when it did not exist before. Answers once it is in effect.
    async fn define(
        &self,
        campaign: CampaignId,
        terms: Terms,
    ) -> Result<(bool, CampaignView), Refused>;

    /// Changes a campaign; answers once the change is in effect.
    async fn command(
        &self,
        campaign: &CampaignId,
        command: Command,
    ) -> Result<CampaignView, Refused>;

    /// Asks that a quarantined campaign tries again; answers when the hold is marked released.
    async fn release(&self, campaign: &CampaignId) -> Result<CampaignView, Refused>;

    /// One campaign with its actor.
    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, Refused>;

    /// What is not ready; empty when the node can do its work.
    fn not_ready(&self) -> Vec<NotReady>;
}
