//! What clients and operators do, and what they are told. A call ends with its node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    act::{Act, Verb},
    appends::calling,
    evidence::{Asked, Denial, Evidence, Listed, Refusal, Taken, Told, View, Wait},
    node::{Engines, Node},
    world::{Address, BEGIN_MS, World},
};
use crate::{
    api::service::{
        Basis, CampaignView, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService,
        RequestStatus, ServiceError, ShowCampaigns,
    },
    domain::{
        definition::{Amendment, Audience, Terms},
        ids::{CampaignId, IdempotencyKey, Position, Timestamp, UserId},
        record::Request,
        rows::SkipState,
    },
};

/// Whose key makes the changes.
const BY: &str = "token";

/// Longest time until a request reaches its node, in microseconds.
const TO_NODE_US: u64 = 2_000;

/// Pause between two tries of an operator, in microseconds.
const AGAIN_US: u64 = 500_000;

/// Campaigns of a page of the list.
const PAGE: usize = 3;

pub(super) fn campaign_id(number: u8) -> CampaignId {
    CampaignId::parse(&format!("campaign-{number}")).expect("a valid id")
}

pub(super) fn user_id(number: u8) -> UserId {
    UserId::parse(&format!("user-{number}")).expect("a valid id")
}

/// Returns a moment of the story as wall-clock time.
fn wall(ms: Option<u64>) -> Option<Timestamp> {
    ms.map(|ms| Timestamp(BEGIN_MS + ms as i64))
}

/// A client, and the id that it got for its request.
#[derive(Debug, Clone)]
struct Client {
    request: Request,
    wait: Option<Duration>,
    request_id: Option<String>,
    is_answered: bool,
}

/// Every client and operator.
#[derive(Clone)]
pub(super) struct Clients {
    world: Arc<World>,
    engines: Engines,
    pub(super) evidence: Arc<Mutex<Evidence>>,
    clients: Arc<Mutex<BTreeMap<u32, Client>>>,
}

/// A call under way.
struct Question {
    clients: Clients,
    service: Arc<NodeService>,
    address: Address,
    begun_us: u64,
    /// Wall clock of the node.
    begun: Timestamp,
}

impl Clients {
    pub(super) fn new(world: Arc<World>, engines: Engines) -> Self {
        let (evidence, clients) = Default::default();
        Self { world, engines, evidence, clients }
    }

    /// Does what a client or an operator does at a node.
    pub(super) fn act(&self, node: &mut Node, act: &Act) {
        match *act {
            Act::Ask { client, campaign, user, key, wait_ms, .. } => {
                let key = key.and_then(|key| IdempotencyKey::parse(&format!("key-{key}")).ok());
                let (campaign, user) = (campaign_id(campaign), user_id(user));
                let request = Request { campaign, user, idempotency_key: key };
                let wait = wait_ms.map(Duration::from_millis);
                let (request_id, is_answered) = (None, false);
                let asked = Client { request, wait, request_id, is_answered };
                self.clients.lock().insert(client, asked);
                self.call(node, move |question| question.issue(client));
            }
            Act::Retry { client, .. } => {
                let unanswered = self.clients.lock().get(&client).is_some_and(|it| !it.is_answered);
                if unanswered {
                    self.call(node, move |question| question.issue(client));
                }
            }
            Act::Find { client, wait_ms, .. } => {
                let wait = Duration::from_millis(wait_ms);
                self.call(node, move |question| question.find(client, wait));
            }
            Act::View { campaign, .. } => {
                self.call(node, move |question| question.view(campaign_id(campaign)));
            }
            Act::List { campaign, user, .. } => {
                let (campaign, user) = (campaign_id(campaign), user_id(user));
                self.call(node, move |question| question.list(campaign, user));
            }
            Act::Browse { .. } => self.call(node, Question::browse),
            Act::Define { campaign, quota, limit, opens_ms, closes_ms, .. } => {
                let (opens_at, closes_at) = (wall(opens_ms), wall(closes_ms));
                let terms =
                    Terms { per_user_limit: limit, opens_at, closes_at, ..Terms::of(quota) };
                self.call(node, move |question| question.define(campaign_id(campaign), terms));
            }
            Act::Amend { campaign, quota, limit, opens_ms, closes_ms, .. } => {
                let amendment = Amendment {
                    quota,
                    per_user_limit: limit,
                    opens_at: wall(opens_ms).map(Some),
                    closes_at: wall(closes_ms).map(Some),
                    ..Amendment::default()
                };
                self.call(node, move |question| question.amend(campaign_id(campaign), amendment));
            }
            Act::Control { campaign, verb, .. } => {
                let verb = match verb {
                    Verb::Pause => ControlVerb::Pause,
                    Verb::Resume => ControlVerb::Resume,
                    Verb::Close => ControlVerb::Close,
                    Verb::Release => ControlVerb::Release,
                };
                self.call(node, move |question| question.control(campaign_id(campaign), verb));
            }
            _ => {}
        }
    }

    fn call<F>(&self, node: &mut Node, ask: impl FnOnce(Question) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (clients, service) = (self.clone(), node.core.service.clone());
        let (address, way_us) = (node.address, self.world.below(TO_NODE_US));
        node.calls.spawn(async move {
            // A paused node hears of it when it goes on.
            clients.world.wait(way_us, Some(address)).await;
            let begun_us = clients.world.now_us();
            let begun = clients.world.wall(address.node);
            ask(Question { clients, service, address, begun_us, begun }).await;
        });
        while node.calls.try_join_next().is_some() {}
    }

    /// Requests of which somebody knows the id.
    pub(super) fn known(&self) -> BTreeMap<String, Request> {
        let told = &self.evidence.lock().told;
        told.iter().map(|told| (told.request_id.clone(), told.request.clone())).collect()
    }

    pub(super) fn tell(&self, told: Told) {
        self.world.trace_text(&format!("{:?}", told.answer));
        self.world.say(|| {
            let Request { campaign, user, .. } = &told.request;
            let answer = told.answer.as_ref().map_or("pending".to_owned(), |it| format!("{it:?}"));
            format!("{user} is told of {campaign}: {answer}")
        });
        self.evidence.lock().told.push(told);
    }

    /// Notes that a client was told that its position is skipped. INV-7: an operator has skipped it.
    pub(super) fn skipped(&self, request_id: &str) {
        let Some(position) = self.engines.position(request_id) else { return };
        let is_in_force = {
            let rows = self.engines.rows.store.rows.lock();
            let mut its = rows.skips.values().filter(|it| it.partition == position.partition);
            its.any(|skip| skip.covers(position.offset, SkipState::InForce))
        };
        self.world.say(|| format!("a client is told that {position:?} is skipped"));
        let mut evidence = self.evidence.lock();
        if !is_in_force {
            evidence
                .broken("INV-7", format!("{position:?} is not skipped, but a client was told so"));
        }
        evidence.skipped.insert(request_id.to_owned());
    }

    pub(super) fn told(&self, request: Request, request_id: String) -> Told {
        let landed = self.engines.rows.landed();
        Told { at: self.world.now(), landed, request, request_id, answer: None, is_final: false }
    }
}

impl Question {
    fn asked(&self) -> Asked {
        let Self { clients, address, begun_us, begun, .. } = self;
        let answered = clients.world.wall(address.node);
        let log = match clients.engines.setup.is_embedded {
            // The node's own clock gives records their times.
            true => (*begun, answered),
            false => (Timestamp(BEGIN_MS + (begun_us / 1_000) as i64), clients.world.now()),
        };
        Asked {
            begun_us: *begun_us,
            answered_us: clients.world.now_us(),
            wall: (*begun, answered),
            log,
        }
    }

    /// Makes a call of the service. Returns its number with its result.
    async fn counted<T>(&self, call: impl Future<Output = T>) -> (u64, T) {
        let number = self.clients.engines.brokers.lock().appends.begin();
        (number, calling(number, call).await)
    }

    async fn issue(self, number: u32) {
        let asked = self.clients.clients.lock().get(&number).cloned();
        let Some(Client { request, wait, .. }) = asked else { return };
        let (call, result) = self.counted(self.service.issue(request.clone(), wait)).await;
        self.appended_once(call, &request);
        match result {
            Ok(reply) => {
                self.is_new(&reply.request_id);
                self.taken(&request.campaign);
                if reply.answer.is_none() && reply.waited {
                    self.waited(&request.campaign, &reply.request_id, wait.unwrap_or_default());
                }
                let told = self.clients.told(request, reply.request_id.clone());
                if let Some(client) = self.clients.clients.lock().get_mut(&number) {
                    client.is_answered = true;
                    client.request_id = Some(reply.request_id);
                }
                self.clients.tell(Told { answer: reply.answer, ..told });
            }
            Err(ServiceError::CertainRejection(reason)) => {
                let partition = self.clients.engines.codec.partition_of(&request.campaign);
                let end = self.clients.engines.brokers.lock().end(partition);
                self.clients.world.trace_text(reason.name());
                self.clients.evidence.lock().refusals.push(Refusal {
                    asked: self.asked(),
                    campaign: request.campaign,
                    reason: reason.name(),
                    has_key: request.idempotency_key.is_some(),
                    end,
                });
            }
            Err(error) => {
                self.denied(call, &request.campaign, true, &error);
                self.failed(&request.campaign, &error);
            }
        }
    }

    fn taken(&self, campaign: &CampaignId) {
        let (campaign, node, begun_us) = (campaign.clone(), self.address.node, self.begun_us);
        self.clients.evidence.lock().taken.push(Taken { campaign, node, begun_us });
    }

    /// Notes that a client waited in vain, if it waited for as long as it asked to.
    fn waited(&self, campaign: &CampaignId, request_id: &str, wait: Duration) {
        let Clients { engines, evidence, world, .. } = &self.clients;
        let until_us = world.now_us();
        let Some(position) = engines.position(request_id) else { return };
        if u128::from(until_us - self.begun_us) >= wait.as_micros() * 9 / 10 {
            let (campaign, node) = (campaign.clone(), self.address.node);
            let wait = Wait { campaign, position, node, until_us };
            evidence.lock().waits.push(wait);
        }
    }

    /// INV-4: a request is appended once, however its append goes.
    fn appended_once(&self, call: u64, request: &Request) {
        let times =
            self.clients.engines.brokers.lock().appends.of(call).map_or(0, |sent| sent.times);
        if times > 1 {
            let detail = format!("{request:?} was appended {times} times");
            self.clients.evidence.lock().broken("INV-4", detail);
        }
    }

    /// INV-12: no request is taken at a position that its node knew to be decided already.
    fn is_new(&self, request_id: &str) {
        let Clients { engines, evidence, .. } = &self.clients;
        let Some(Position { partition, offset, .. }) = engines.position(request_id) else { return };
        // What has just arrived may not have been heard yet.
        let heard = engines.topic.lock().heard(self.address, partition, self.begun_us);
        if offset < heard {
            let detail = format!("{offset} of partition {partition} was taken, below {heard}");
            evidence.lock().broken("INV-12", detail);
        }
    }

    /// Notes an error by which nothing of a call is in the log.
    fn denied(&self, call: u64, campaign: &CampaignId, is_request: bool, error: &ServiceError) {
        if !matches!(error, ServiceError::OutcomeUnknown { .. }) {
            let (campaign, error) = (campaign.clone(), error.to_string());
            let denial = Denial { call, campaign, is_request, error };
            self.clients.evidence.lock().denials.push(denial);
        }
    }

    fn failed(&self, campaign: &CampaignId, error: &ServiceError) {
        let text = error.to_string();
        self.clients.world.trace_text(&text);
        self.clients.world.say(|| format!("node {} answers: {text}", self.address.node));
        let Clients { engines, evidence, .. } = &self.clients;
        let mut evidence = evidence.lock();
        // INV-5: no node says that a campaign is unknown once it was said to be in effect.
        let is_known =
            evidence.in_effect.iter().any(|(of, us, _)| of == campaign && *us < self.begun_us);
        if *error == ServiceError::UnknownCampaign
            && is_known
            && !engines.rows.was_set_back()
            && !evidence.is_lost(engines, campaign)
        {
            evidence.broken("INV-5", format!("{campaign} was defined, and is unknown later"));
        }
    }

    async fn find(self, number: u32, wait: Duration) {
        let asked = self.clients.clients.lock().get(&number).cloned();
        let Some(Client { request, request_id: Some(id), .. }) = asked else { return };
        match self.service.find(&id, None, wait).await {
            Ok(view) => {
                let told = self.clients.told(request, id);
                let answer = match view.status {
                    RequestStatus::Decided(answer) => Some(answer),
                    RequestStatus::Pending { queue_ahead } => {
                        self.waits(&told, queue_ahead);
                        self.waited(&told.request.campaign, &told.request_id, wait);
                        None
                    }
                };
                self.clients.tell(Told { answer, ..told });
            }
            Err(ServiceError::Skipped) => self.clients.skipped(&id),
            Err(error) => self.failed(&request.campaign, &error),
        }
    }

    /// A client is told how many records are before its own: no fewer than those that no owner has
    /// published or stored to be decided, and no more than its node has not heard of.
    fn waits(&self, told: &Told, queue_ahead: u64) {
        let Clients { engines, evidence, .. } = &self.clients;
        let Some(position) = engines.position(&told.request_id) else { return };
        let published = engines.topic.lock().decided_below(position.partition);
        let progress = engines.rows.store.rows.lock().progress.get(&position.partition).cloned();
        let decided = progress.map_or(0, |progress| progress.next).max(published);
        let least = position.offset.saturating_sub(decided);
        let heard = engines.topic.lock().heard(self.address, position.partition, self.begun_us);
        let most = position.offset.saturating_sub(heard);
        let mut evidence = evidence.lock();
        let is_so = (least..=most).contains(&queue_ahead);
        if !is_so && !evidence.is_lost(engines, &told.request.campaign) {
            let detail =
                format!("{queue_ahead} records before {position:?}, not {least} to {most}");
            evidence.broken("INV-6", detail);
        }
    }

    fn seen(&self, seen: CampaignView, change: Option<u64>) {
        let partition = self.clients.engines.codec.partition_of(&seen.campaign);
        let end = self.clients.engines.brokers.lock().end(partition);
        self.clients.world.trace_text(seen.state.name());
        let view = View { asked: self.asked(), change, seen, end };
        self.clients.evidence.lock().views.push(view);
    }

    async fn view(self, campaign: CampaignId) {
        match self.service.campaign(&campaign).await {
            Ok(seen) => self.seen(seen, None),
            Err(error) => self.failed(&campaign, &error),
        }
    }

    async fn browse(self) {
        if let Ok(list) = self.service.campaigns().await {
            let page = list.shown_to(Audience::Public).take(PAGE).cloned();
            page.for_each(|seen| self.seen(seen, None));
        }
    }

    async fn list(self, campaign: CampaignId, user: UserId) {
        match self.service.coupons_of(&campaign, &user).await {
            Ok(list) => {
                self.clients.world.trace(list.coupons.len() as u64, list.as_of.offset);
                let listed = Listed { campaign, user, list };
                self.clients.evidence.lock().lists.push(listed);
            }
            Err(error) => self.failed(&campaign, &error),
        }
    }

    /// An operator is told that a change is in effect, or why not.
    fn changed(
        &self,
        campaign: &CampaignId,
        (call, result): (u64, Result<CampaignView, ServiceError>),
    ) {
        match result {
            Ok(seen) => {
                let now_us = self.clients.world.now_us();
                let fact = (seen.campaign.clone(), now_us, seen.definition.clone());
                self.clients.evidence.lock().in_effect.push(fact);
                self.seen(seen, Some(call));
            }
            Err(error) => {
                self.denied(call, campaign, false, &error);
                self.failed(campaign, &error);
            }
        }
    }

    async fn define(self, campaign: CampaignId, terms: Terms) {
        loop {
            let defined = self.service.define(campaign.clone(), terms.clone(), Basis::InEffect, BY);
            let (call, result) = self.counted(defined).await;
            let is_unknown = matches!(
                result,
                Err(ServiceError::OutcomeUnknown { .. }
                    | ServiceError::Overloaded { .. }
                    | ServiceError::Unavailable { .. })
            );
            self.changed(&campaign, (call, result.map(|changed| changed.view)));
            if !is_unknown {
                return;
            }
            self.clients.world.wait(AGAIN_US, None).await;
        }
    }

    async fn amend(self, campaign: CampaignId, amendment: Amendment) {
        let amended = self.service.amend(&campaign, amendment.clone(), Basis::InEffect, BY);
        let (call, result) = self.counted(amended).await;
        let result = result.map(|changed| changed.view);
        if let Ok(seen) = &result
            && amendment.quota.is_some_and(|quota| quota != seen.definition.terms.quota)
            && !self.was_amended(&campaign, &amendment)
        {
            let mut evidence = self.clients.evidence.lock();
            if !evidence.is_lost(&self.clients.engines, &campaign) {
                let detail = format!("{campaign} was not amended: {amendment:?} gave {seen:?}");
                evidence.broken("INV-6", detail);
            }
        }
        self.changed(&campaign, (call, result));
    }

    /// Whether some version has the quota of the amendment: a later one may be in effect by now.
    fn was_amended(&self, campaign: &CampaignId, amendment: &Amendment) -> bool {
        let rows = self.clients.engines.rows.store.rows.lock();
        let mut versions = rows.versions.values().filter(|version| version.campaign == *campaign);
        versions.any(|version| Some(version.definition.terms.quota) == amendment.quota)
    }

    async fn control(self, campaign: CampaignId, verb: ControlVerb) {
        let changed =
            self.counted(self.service.control(&campaign, verb, Basis::InEffect, BY)).await;
        self.changed(&campaign, changed);
    }
}
