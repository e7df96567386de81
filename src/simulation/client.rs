//! What clients and operators do, and what they are told. A call ends with its node.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{
    act::{Act, Verb},
    evidence::{Asked, Evidence, Refusal, Told, View},
    node::{Engines, Node},
    world::{BEGIN_MS, World},
};
use crate::{
    answer::request_id::RequestIds,
    api::service::{
        CampaignView, ChangeCampaigns, ControlVerb, FindRequests, IssueCoupons, NodeService,
        RequestStatus, ServiceError, ShowCampaigns,
    },
    domain::{
        definition::{Amendment, Audience, Terms},
        ids::{CampaignId, IdempotencyKey, Timestamp, UserId},
        record::Request,
    },
};

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
    node: usize,
    begun_us: u64,
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
            let (node, begun_us) = (address.node, clients.world.now_us());
            let begun = clients.world.wall(node);
            ask(Question { clients, service, node, begun_us, begun }).await;
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

    pub(super) fn told(&self, request: Request, request_id: String) -> Told {
        let landed = self.engines.rows.landed();
        Told { at: self.world.now(), landed, request, request_id, answer: None, is_final: false }
    }
}

impl Question {
    fn asked(&self) -> Asked {
        let Self { clients, node, begun_us, begun, .. } = self;
        Asked { begun_us: *begun_us, begun: *begun, wall: clients.world.wall(*node) }
    }

    async fn issue(self, number: u32) {
        let asked = self.clients.clients.lock().get(&number).cloned();
        let Some(Client { request, wait, .. }) = asked else { return };
        let result = self.service.issue(request.clone(), wait).await;
        match result {
            Ok(reply) => {
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
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &ServiceError) {
        let text = error.to_string();
        self.clients.world.trace_text(&text);
        self.clients.world.say(|| format!("node {} answers: {text}", self.node));
    }

    async fn find(self, number: u32, wait: Duration) {
        let asked = self.clients.clients.lock().get(&number).cloned();
        let Some(Client { request, request_id: Some(id), .. }) = asked else { return };
        match self.service.find(&id, wait).await {
            Ok(view) => {
                let told = self.clients.told(request, id);
                let answer = match view.status {
                    RequestStatus::Decided(answer) => Some(answer),
                    RequestStatus::Pending { queue_ahead } => {
                        self.waits(&told, queue_ahead);
                        None
                    }
                };
                self.clients.tell(Told { answer, ..told });
            }
            Err(error) => self.failed(&error),
        }
    }

    /// A client is told how many records are before its own. Nobody knows of fewer than those that
    /// no owner has published or stored to be decided.
    fn waits(&self, told: &Told, queue_ahead: u64) {
        let Clients { engines, evidence, .. } = &self.clients;
        let ids = RequestIds::new(&engines.keys, &engines.layout.instance);
        let Some(position) = ids.open(&told.request_id).map(|content| content.position) else {
            return;
        };
        let published = engines.topic.lock().decided_below(position.partition);
        let progress = engines.rows.store.rows.lock().progress.get(&position.partition).cloned();
        let decided = progress.map_or(0, |progress| progress.next).max(published);
        let least = position.offset.saturating_sub(decided);
        let mut evidence = evidence.lock();
        let is_so = (least..=position.offset).contains(&queue_ahead);
        if !is_so && !evidence.is_lost(engines, &told.request.campaign) {
            let detail = format!("{queue_ahead} records before {position:?}, at least {least} are");
            evidence.broken("INV-6", detail);
        }
    }

    fn seen(&self, seen: CampaignView) {
        let partition = self.clients.engines.codec.partition_of(&seen.campaign);
        let end = self.clients.engines.brokers.lock().end(partition);
        self.clients.world.trace_text(seen.state.name());
        let view = View { asked: self.asked(), seen, end };
        self.clients.evidence.lock().views.push(view);
    }

    async fn view(self, campaign: CampaignId) {
        match self.service.campaign(&campaign).await {
            Ok(seen) => self.seen(seen),
            Err(error) => self.failed(&error),
        }
    }

    async fn browse(self) {
        match self.service.campaigns(Audience::Public, None, PAGE).await {
            Ok(page) => page.campaigns.into_iter().for_each(|seen| self.seen(seen)),
            Err(error) => self.failed(&error),
        }
    }

    async fn list(self, campaign: CampaignId, user: UserId) {
        match self.service.coupons_of(&campaign, &user).await {
            Ok(coupons) => {
                self.clients.world.trace(coupons.len() as u64, 0);
                let listed = coupons.into_iter().map(|face| (campaign.clone(), user.clone(), face));
                self.clients.evidence.lock().lists.extend(listed);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// An operator is told that a change is in effect.
    fn changed(&self, result: Result<CampaignView, ServiceError>) {
        match result {
            Ok(seen) => {
                let now_us = self.clients.world.now_us();
                let fact = (seen.campaign.clone(), now_us, seen.definition.clone());
                self.clients.evidence.lock().in_effect.push(fact);
                self.seen(seen);
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn define(self, campaign: CampaignId, terms: Terms) {
        loop {
            let result = self.service.define(campaign.clone(), terms.clone()).await;
            let is_unknown = matches!(
                result,
                Err(ServiceError::OutcomeUnknown { .. }
                    | ServiceError::Overloaded { .. }
                    | ServiceError::Unavailable { .. })
            );
            if !is_unknown {
                return self.changed(result.map(|(_, seen)| seen));
            }
            self.clients.world.wait(AGAIN_US, None).await;
        }
    }

    async fn amend(self, campaign: CampaignId, amendment: Amendment) {
        let result = self.service.amend(&campaign, amendment.clone()).await;
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
        self.changed(result);
    }

    /// Whether some version has the quota of the amendment: a later one may be in effect by now.
    fn was_amended(&self, campaign: &CampaignId, amendment: &Amendment) -> bool {
        let rows = self.clients.engines.rows.store.rows.lock();
        let mut versions = rows.versions.values().filter(|version| version.campaign == *campaign);
        versions.any(|version| Some(version.definition.terms.quota) == amendment.quota)
    }

    async fn control(self, campaign: CampaignId, verb: ControlVerb) {
        let result = self.service.control(&campaign, verb).await;
        self.changed(result);
    }
}
