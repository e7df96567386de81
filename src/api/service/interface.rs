//! The calls of the application service, and their results. Nothing here knows HTTP.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub(crate) use super::changes::{ChangePage, ListChanges};
pub(crate) use crate::answer::admission::CampaignState;
use crate::{
    domain::{
        answer::{Answer, CouponFace},
        definition::{Amendment, Audience, Definition, Terms},
        fault::Fault,
        ids::{CampaignId, Offset, Partition, Position, UserId},
        reason::Reason,
        record::Request,
        rows::{Hold, Skip},
    },
    partition::actor_view::ActorView,
};

/// Every call that the HTTP listeners make. [`super::NodeService`] implements them for a node;
/// HTTP tests use a scripted implementation.
pub(crate) trait Service:
    IssueCoupons
    + FindRequests
    + ShowCampaigns
    + ChangeCampaigns
    + ListChanges
    + SkipRanges
    + ReportHealth
{
}

impl<T> Service for T where
    T: IssueCoupons
        + FindRequests
        + ShowCampaigns
        + ChangeCampaigns
        + ListChanges
        + SkipRanges
        + ReportHealth
{
}

/// Requests for coupons.
#[async_trait]
pub(crate) trait IssueCoupons: Send + Sync + 'static {
    /// Appends a request to the log and, with `wait`, waits up to that long for its decision.
    ///
    /// # Errors
    /// Any error means that the request is not in the log, except
    /// [`ServiceError::OutcomeUnknown`].
    async fn issue(
        &self,
        request: Request,
        wait: Option<Duration>,
    ) -> Result<IssueReply, ServiceError>;
}

/// The answer to an appended request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssueReply {
    /// Opaque, URL-safe id for [`FindRequests::find`].
    pub request_id: String,
    /// The decision, if it was known before the wait ended.
    pub answer: Option<Answer>,
    /// Whether the call waited as long as asked. `false`: no waiter was free.
    pub waited: bool,
}

/// Requests looked up by id.
#[async_trait]
pub(crate) trait FindRequests: Send + Sync + 'static {
    /// Looks up a request, waiting up to `wait` for its decision. If `caller` is given, the request
    /// must be of that user.
    ///
    /// # Errors
    /// [`ServiceError::UnknownRequest`] for an altered or foreign id, [`ServiceError::AnotherUser`] for
    /// one of another user, both before anything is read, [`ServiceError::NotDecided`]
    /// where the log has lost the request, [`ServiceError::Skipped`] where it was skipped,
    /// [`ServiceError::Unavailable`] when the store has to be read and does not answer,
    /// [`ServiceError::Halted`] when log and store contradict each other.
    async fn find(
        &self,
        request_id: &str,
        caller: Option<&UserId>,
        wait: Duration,
    ) -> Result<RequestView, ServiceError>;
}

/// A request with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestView {
    /// The campaign of the request.
    pub campaign: CampaignId,
    /// The user of the request.
    pub user: UserId,
    /// Decided or pending.
    pub status: RequestStatus,
}

/// Whether a request is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestStatus {
    /// The final answer.
    Decided(Answer),
    /// Not decided yet.
    Pending {
        /// Records before this one that are not decided yet.
        queue_ahead: u64,
    },
}

/// The coupons of a user in a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserCoupons {
    /// In sequence order.
    pub coupons: Vec<CouponFace>,
    /// Every coupon of the user below is among them; later ones may be.
    pub as_of: Position,
}

/// Campaigns and coupons as clients and operators see them.
#[async_trait]
pub(crate) trait ShowCampaigns: Send + Sync + 'static {
    /// Returns one campaign. Its figures are at most 2 s behind.
    ///
    /// # Errors
    /// [`ServiceError::UnknownCampaign`], or [`ServiceError::Unavailable`] when the store does not
    /// answer.
    async fn campaign(&self, campaign: &CampaignId) -> Result<CampaignView, ServiceError>;

    /// Returns all campaigns, at most 1 s old. Their figures are fresh after [`Self::freshen`].
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] when the store does not answer.
    async fn campaigns(&self) -> Result<Arc<CampaignList>, ServiceError>;

    /// Returns what makes a view of the list fresh.
    fn freshen(&self) -> Freshen;

    /// Lists the coupons of a user in a campaign, in sequence order.
    ///
    /// # Errors
    /// As [`Self::campaign`].
    async fn coupons_of(
        &self,
        campaign: &CampaignId,
        user: &UserId,
    ) -> Result<UserCoupons, ServiceError>;

    /// Returns one campaign, read now, with its actor on this node.
    ///
    /// # Errors
    /// As [`Self::campaign`].
    async fn admin_view(&self, campaign: &CampaignId) -> Result<AdminView, ServiceError>;
}

/// A campaign as the public listener shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CampaignView {
    /// The id.
    pub campaign: CampaignId,
    /// The state at the time of the view.
    pub state: CampaignState,
    /// The definition in effect.
    pub definition: Definition,
    /// Coupons issued.
    pub issued: u32,
    /// quota − issued.
    pub remaining: u32,
    /// Every record below this position is in these figures; later ones may be.
    pub as_of: Position,
    /// Offset of the definition version in effect.
    pub version: Offset,
    /// The hold that quarantines the campaign, if any.
    pub hold: Option<Hold>,
}

/// Returns a view with what the node has heard since it was read; `None` if it has heard nothing new.
pub(crate) type Freshen = Arc<dyn Fn(&CampaignView) -> Option<CampaignView> + Send + Sync>;

/// All campaigns, in the order of their ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CampaignList(pub Vec<CampaignView>);

impl CampaignList {
    /// Returns the view of a campaign.
    pub(crate) fn view(&self, campaign: &CampaignId) -> Option<&CampaignView> {
        let at = self.0.binary_search_by(|view| view.campaign.cmp(campaign)).ok()?;
        self.0.get(at)
    }

    /// Returns the campaigns that `audience` sees: the public sees only those that are `listed`.
    pub(crate) fn shown_to(&self, audience: Audience) -> impl Iterator<Item = &CampaignView> {
        let is_shown =
            move |view: &&CampaignView| audience == Audience::Admin || view.definition.terms.listed;
        self.0.iter().filter(is_shown)
    }
}

/// A campaign as the admin listener shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminView {
    /// The public view.
    pub view: CampaignView,
    /// The campaign's actor on this node.
    pub actor: ActorView,
    /// Why the campaign cannot be released, and what to do instead.
    pub not_releasable: Option<String>,
}

/// Changes of campaigns. Each call returns once its change is in effect.
///
/// # Errors
/// [`ServiceError::OutcomeUnknown`] if the outcome is not known within 5 s;
/// [`ServiceError::Halted`] for a quarantined campaign or a halted partition.
#[async_trait]
pub(crate) trait ChangeCampaigns: Send + Sync + 'static {
    /// Makes a campaign have these terms: defines it, or amends the terms that differ.
    ///
    /// # Errors
    /// [`ServiceError::OtherCode`], [`ServiceError::CampaignClosed`],
    /// [`ServiceError::QuotaBelowIssued`], [`ServiceError::Invalid`],
    /// [`ServiceError::PreconditionFailed`].
    async fn define(
        &self,
        campaign: CampaignId,
        terms: Terms,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError>;

    /// Changes the terms of a campaign.
    ///
    /// # Errors
    /// [`ServiceError::UnknownCampaign`], [`ServiceError::CampaignClosed`],
    /// [`ServiceError::QuotaBelowIssued`], [`ServiceError::Invalid`],
    /// [`ServiceError::PreconditionFailed`].
    async fn amend(
        &self,
        campaign: &CampaignId,
        amendment: Amendment,
        basis: Basis,
        by: &str,
    ) -> Result<Changed, ServiceError>;

    /// Carries out a control verb. A release returns when the hold is marked released.
    ///
    /// # Errors
    /// [`ServiceError::UnknownCampaign`], [`ServiceError::CampaignClosed`],
    /// [`ServiceError::NotReleasable`], [`ServiceError::PreconditionFailed`].
    async fn control(
        &self,
        campaign: &CampaignId,
        verb: ControlVerb,
        basis: Basis,
        by: &str,
    ) -> Result<CampaignView, ServiceError>;
}

/// What a change is based on. A change that is in effect already succeeds on any basis but
/// [`Self::Absent`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Basis {
    /// The version in effect, whichever it is.
    #[default]
    InEffect,
    /// No campaign of this id.
    Absent,
    /// Any version.
    Existing,
    /// One of these versions: log epoch and offset.
    Versions(Vec<(u32, Offset)>),
}

impl Basis {
    /// Returns whether a change may be based on this version; `None`: there is no campaign.
    pub(crate) fn allows(&self, version: Option<(u32, Offset)>) -> bool {
        match (self, version) {
            (Self::InEffect, _) | (Self::Absent, None) | (Self::Existing, Some(_)) => true,
            (Self::Absent, Some(_)) | (Self::Existing | Self::Versions(_), None) => false,
            (Self::Versions(versions), Some(version)) => versions.contains(&version),
        }
    }
}

/// A campaign after its terms were made so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Whether the campaign did not exist before.
    pub created: bool,
    /// The campaign.
    pub view: CampaignView,
    /// What the operator may not have meant, in sentences that begin with the term.
    pub warnings: Vec<String>,
}

/// Declares the control verbs: each with its name, the last segment of its URL and the subcommand.
macro_rules! control_verbs {
    ($($(#[$doc:meta])* $verb:ident: $name:literal;)*) => {
        /// What an operator can do to an existing campaign without further arguments.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum ControlVerb {
            $($(#[$doc])* $verb,)*
        }

        impl ControlVerb {
            /// Every verb.
            pub(crate) const ALL: &[Self] = &[$(Self::$verb,)*];

            /// Returns the verb in URLs and on the command line.
            #[must_use]
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$verb => $name,)*
                }
            }
        }
    };
}

control_verbs! {
    /// Issue no coupons until resumed.
    Pause: "pause";
    /// Issue coupons again.
    Resume: "resume";
    /// Issue no coupons ever again.
    Close: "close";
    /// Let a quarantined campaign try again.
    Release: "release";
}

/// Longest reason of a skip, in characters: one line of a log.
pub(crate) const SKIP_REASON_MAX: usize = 200;

/// Ranges of partitions that nobody can read.
#[async_trait]
pub(crate) trait SkipRanges: Send + Sync + 'static {
    /// Returns the number of partitions.
    fn partition_count(&self) -> u32;

    /// Makes a skip of the range that halts `partition` at `offset`. If there is one that begins
    /// there, returns it: repeating the call shows its state. `reason` has 1 to [`SKIP_REASON_MAX`]
    /// characters.
    ///
    /// # Errors
    /// [`ServiceError::UnknownPartition`], [`ServiceError::NotSkippable`];
    /// [`ServiceError::OutcomeUnknown`] if the skip may have been made.
    async fn skip(
        &self,
        partition: Partition,
        offset: Offset,
        reason: String,
        by: &str,
    ) -> Result<Skip, ServiceError>;
}

/// The readiness of the node.
pub(crate) trait ReportHealth: Send + Sync + 'static {
    /// Lists the parts that are not ready. An empty list means that the node is ready.
    fn not_ready(&self) -> Vec<NotReady>;

    /// Lists what does not work while the node is ready all the same, because no other node could do
    /// better: halted partitions, undecided records that the log is about to remove, and a consumer
    /// group that refuses this node.
    fn degraded(&self) -> Vec<NotReady>;
}

/// A part of the node that is not ready or degraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotReady {
    /// The part, in `snake_case`.
    pub part: &'static str,
    /// The reason, for an operator.
    pub reason: String,
}

/// Why a call failed. Nothing of the call is in the log, except after `OutcomeUnknown`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ServiceError {
    /// No campaign has this id.
    #[error("no campaign has this id")]
    UnknownCampaign,
    /// The layout has no such partition.
    #[error("no partition has this number")]
    UnknownPartition,
    /// The partition is not halted at this offset by a range that may be skipped, or somebody could
    /// read the range.
    #[error("{detail}")]
    NotSkippable {
        /// Why not, and what to do.
        detail: String,
        /// Whose row shows that an owner could read the range.
        campaign: Option<CampaignId>,
        /// The position up to which something is decided, or of the row.
        offset: Option<Offset>,
    },
    /// The changes of so many partitions are not listed together.
    #[error("the changes of more than {most} partitions are not listed together")]
    TooManyPartitions {
        /// Most partitions.
        most: u32,
    },
    /// The request id was altered, or another instance made it.
    #[error("no request has this id")]
    UnknownRequest,
    /// The request is of another user than its caller.
    #[error("the request is of another user than its caller")]
    AnotherUser,
    /// The request was taken once, and nobody will decide it: its position in the log holds another
    /// record or none, because the data was restored to an older copy.
    #[error(
        "the request was taken, but the data was restored to an older copy without it; send it again, \
         with the same Idempotency-Key if any"
    )]
    NotDecided,
    /// The request was taken once, and nobody will decide it: an operator skipped its position in the
    /// log, because it could not be read or was lost.
    #[error(
        "the request was taken, but an operator skipped its position in the log undecided, because it \
         could not be read; send it again, with the same Idempotency-Key if any"
    )]
    Skipped,
    /// The log would certainly reject the request, judged by a state at most 1 s old.
    #[error("the campaign issues no coupons now: {}", .0.name())]
    CertainRejection(Reason),
    /// One user sent too many requests to one campaign.
    #[error("too many requests of one user in one campaign")]
    UserRateLimited {
        /// Time until the next request is admitted.
        retry_after: Duration,
    },
    /// A bound of the node is reached, or free space is short.
    #[error("overloaded: {detail}")]
    Overloaded {
        /// The bound that is reached.
        detail: String,
        /// Time after which a retry is useful.
        retry_after: Duration,
    },
    /// The campaign is quarantined, its partition is halted, or log and store contradict each
    /// other.
    #[error("decisions are halted: {reason}")]
    Halted {
        /// The reason, for an operator.
        reason: String,
    },
    /// The record may or may not be in the log.
    #[error("the outcome is unknown: {detail}")]
    OutcomeUnknown {
        /// What was not confirmed.
        detail: String,
    },
    /// The store or the log did not answer, or the log takes no records now.
    #[error("temporarily unavailable: {detail}")]
    Unavailable {
        /// The part, and how it failed.
        detail: String,
    },
    /// The campaign has another code format, which is never amended.
    #[error("the campaign has another code format, which cannot be amended")]
    OtherCode,
    /// The change is based on another version than the one in effect, or on none.
    #[error("{detail}")]
    PreconditionFailed {
        /// What is in effect instead.
        detail: String,
    },
    /// The new quota is below the number of issued coupons.
    #[error("the quota would be below the {issued} coupons already issued")]
    QuotaBelowIssued {
        /// Coupons issued.
        issued: u32,
    },
    /// An operator closed the campaign; that is final.
    #[error("the campaign is closed for good")]
    CampaignClosed,
    /// The log no longer has the records that a replay of the campaign needs.
    #[error("the campaign cannot be released: {reason}")]
    NotReleasable {
        /// What is missing, and what to do instead.
        reason: String,
    },
    /// The terms break rules.
    #[error("the terms break {} rule(s)", .0.len())]
    Invalid(Vec<Fault>),
}
