//! API nodes: admission, the edge states that they refuse by, views, and the feed that they follow.

use std::{rc::Rc, time::Duration};

use super::{
    act::Act,
    appends::For,
    asking::Told,
    client::Reply,
    evidence::{Refusal, View},
    faults::Fault,
    model::Meant,
    owner::RETRY_MS,
    world::{LOG_EPOCH, Ms, PARTITIONS, World},
};
use crate::{
    answer::{
        Moment,
        admission::{Admission, AdmissionView, EDGE_AGE_MAX, Unusable},
        follower::{Effect, Event, Follower, Limits, Message},
        rate::RateTable,
        rows,
    },
    domain::{
        ids::{Partition, Timestamp},
        record::{Record, Request},
        rows::PartitionRows,
    },
    wire::feed_message::FeedMessage,
};

/// `api.clock_margin`, as it is by default.
const MARGIN: Duration = Duration::from_secs(1);

/// Decisions that a node remembers: few, so that some are forgotten.
const DECISIONS: usize = 96;

/// Waiters of a node; those of changes have a place in any case.
const WAITERS: usize = 64;

/// `admission.max_lag` while a world is overloaded.
const LAG_MAX: u64 = 8;

/// Oldest read of progress and holds that is shared.
pub(super) const SHARED_MS: Ms = 100;

/// What a node knows of one campaign.
#[derive(Debug, Clone)]
struct Known {
    edge: Rc<AdmissionView>,
    tried_at: Ms,
}

/// One read of a campaign under way, with who waits for it.
#[derive(Debug, Default)]
struct Flight {
    is_begun: bool,
    read_at: Ms,
    rows: Option<Rc<PartitionRows>>,
    asks: Vec<usize>,
    /// Asks that came after it had begun: it may tell them yes, never no.
    late: Vec<usize>,
}

/// The API of one life of a node.
#[derive(Debug)]
pub(super) struct Api {
    pub(super) follower: Follower<Told, usize>,
    known: Vec<Option<Known>>,
    flights: Vec<Option<Flight>>,
    reads: Vec<Option<(Ms, Rc<PartitionRows>)>>,
    rates: Option<Box<RateTable>>,
}

impl Api {
    pub(super) fn new(campaigns: usize, waiters: usize) -> Self {
        let limits = Limits { decisions: DECISIONS, waiters: waiters.min(WAITERS) };
        Self {
            follower: Follower::new(PARTITIONS, limits),
            known: vec![None; campaigns],
            flights: (0..campaigns).map(|_| None).collect(),
            reads: vec![None; PARTITIONS as usize],
            rates: None,
        }
    }

    /// The state kept of a campaign, however old.
    pub(super) fn kept(&self, campaign: usize) -> Option<Rc<AdmissionView>> {
        self.known[campaign].as_ref().map(|known| known.edge.clone())
    }
}

impl World {
    /// The node's monotonic clock.
    pub(super) fn moment(&self, node: usize) -> Moment {
        Duration::from_millis(self.now - self.nodes[node].booted)
    }

    pub(super) fn is_life(&self, node: usize, life: u32) -> bool {
        self.nodes[node].is_up && self.nodes[node].life == life
    }

    /// A message of the feed reaches a node.
    pub(super) fn follow(&mut self, node: usize, life: u32, message: &Rc<FeedMessage>) {
        if !self.is_life(node, life) || self.now < self.nodes[node].follows_from {
            return;
        }
        let told = |(index, settled): (usize, &crate::wire::feed_message::FeedDecision)| {
            (settled.offset, Told(message.clone(), index))
        };
        let event = Event::Message(Message {
            partition: message.partition,
            from: message.from,
            to: message.to,
            end: message.end,
            halted: message.halted.clone(),
            decisions: message.decisions.iter().enumerate().map(told).collect(),
        });
        self.follow_event(node, event);
    }

    pub(super) fn gap(&mut self, node: usize, life: u32) {
        if self.is_life(node, life) {
            self.follow_event(node, Event::Gap);
        }
    }

    fn follow_event(&mut self, node: usize, event: Event<Told>) {
        let moment = self.moment(node);
        for effect in self.nodes[node].api.follower.step(moment, event) {
            match effect {
                Effect::Tell(question, told) => self.told(question, &told),
                Effect::AskStore(question) => self.ask_store_now(question),
                Effect::Took(_) => {}
                Effect::Contradiction { partition, offset } => {
                    let damaged = self.log.shelf(partition).is_damaged;
                    if !damaged && self.trouble.damaged.is_none() {
                        let detail = format!("the feed told two decisions of {partition}/{offset}");
                        self.broken("INV-3", detail);
                    }
                }
            }
        }
    }

    /// Progress and holds, from a read at most 100 ms old; none when the store does not answer.
    pub(super) fn shared_read(
        &mut self,
        node: usize,
        partition: Partition,
    ) -> Option<Rc<PartitionRows>> {
        if let Some((at, rows)) = &self.nodes[node].api.reads[partition as usize]
            && self.now - at <= SHARED_MS
        {
            return Some(rows.clone());
        }
        if self.read_fails() {
            return None;
        }
        let rows = Rc::new(self.store.partition(partition, self.campaigns_of(partition)));
        self.nodes[node].api.reads[partition as usize] = Some((self.now, rows.clone()));
        Some(rows)
    }

    /// A request arrives.
    pub(super) fn ask(&mut self, number: usize) {
        let ask = &self.asks[number];
        let (node, campaign, user) = (ask.node, ask.campaign, ask.user);
        if !self.nodes[node].is_up {
            return;
        }
        self.asks[number].life = self.nodes[node].life;
        if self.is_flooded() {
            let moment = self.moment(node);
            let rates = &mut self.nodes[node].api.rates;
            let rates = rates.get_or_insert_with(|| Box::new(RateTable::new(5, 5)));
            let spread = (u64::from(user) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let key = spread.wrapping_add(campaign as u64);
            if rates.take(moment, key).is_err() {
                return self.reply(number, Reply::NotTaken);
            }
        }
        let partition = self.partition_of(campaign);
        let moment = self.moment(node);
        if self.nodes[node].api.follower.halted(moment, partition).is_some() {
            return self.reply(number, Reply::NotTaken);
        }
        let Some(known) = self.nodes[node].api.known[campaign].clone() else {
            return self.fly(node, campaign, Some(number));
        };
        let is_fresh = known.edge.is_fresh(moment);
        if !is_fresh && self.now - known.tried_at > EDGE_AGE_MAX.as_millis() as Ms {
            self.fly(node, campaign, None);
        }
        self.admit(number, &known.edge);
    }

    /// Reads a campaign, unless it is being read.
    fn fly(&mut self, node: usize, campaign: usize, ask: Option<usize>) {
        let now = self.now;
        let api = &mut self.nodes[node].api;
        if let Some(known) = &mut api.known[campaign] {
            known.tried_at = now;
        }
        if let Some(flight) = &mut api.flights[campaign] {
            let waiting = if flight.is_begun { &mut flight.late } else { &mut flight.asks };
            waiting.extend(ask);
            return;
        }
        let asks = ask.into_iter().collect();
        api.flights[campaign] = Some(Flight { asks, ..Flight::default() });
        let life = self.nodes[node].life;
        let delay = self.network_ms();
        self.after(delay, Act::Fly(node, life, campaign, false));
    }

    /// One step of reading a campaign: progress and holds; then its rows.
    pub(super) fn flies(&mut self, node: usize, life: u32, campaign: usize, at_rows: bool) {
        if !self.is_life(node, life) {
            return;
        }
        if self.hit(Fault::StaleEdge) {
            return self.after(500, Act::Fly(node, life, campaign, at_rows));
        }
        let partition = self.partition_of(campaign);
        let delay = self.store_ms();
        if !at_rows {
            let Some(rows) = self.shared_read(node, partition) else {
                return self.after(RETRY_MS, Act::Fly(node, life, campaign, false));
            };
            if let Some(flight) = &mut self.nodes[node].api.flights[campaign] {
                (flight.is_begun, flight.rows) = (true, Some(rows));
                flight.read_at = self.now;
            }
            return self.after(delay, Act::Fly(node, life, campaign, true));
        }
        if self.read_fails() {
            return self.after(RETRY_MS, Act::Fly(node, life, campaign, true));
        }
        let Some(flight) = self.nodes[node].api.flights[campaign].take() else { return };
        let Flight { read_at, rows, asks, late, .. } = flight;
        let rows = rows.expect("it was read before");
        let result = self.keep_campaign(node, campaign, read_at, &rows);
        let (served, left) = match result {
            Ok(_) => (asks.into_iter().chain(late).collect(), Vec::new()),
            Err(_) => (asks, late),
        };
        for ask in served {
            match &result {
                Ok(edge) => self.admit(ask, &edge.clone()),
                Err(Unusable::Unknown) => self.reply(ask, Reply::UnknownCampaign),
                Err(Unusable::Altered(_)) => self.reply(ask, Reply::NotTaken),
            }
        }
        for ask in left {
            self.fly(node, campaign, Some(ask));
        }
    }

    /// Reads a campaign's rows and keeps the state that they give.
    pub(super) fn keep_campaign(
        &mut self,
        node: usize,
        campaign: usize,
        read_at: Ms,
        rows: &PartitionRows,
    ) -> Result<Rc<AdmissionView>, Unusable> {
        let partition = self.partition_of(campaign);
        let progress = rows::progress(rows, LOG_EPOCH);
        let stored_below =
            self.nodes[node].api.follower.watermark(partition).unwrap_or(0).max(progress);
        let moment = Duration::from_millis(read_at - self.nodes[node].booted);
        let read = self.store.campaign(campaign);
        let (id, keys) = (&self.shared.campaigns[campaign], &self.shared.keys);
        let edge = AdmissionView::of_rows(moment, (stored_below, progress), id, read, keys)?;
        let before = self.nodes[node].api.kept(campaign);
        if before.is_some_and(|before| edge.lost_versions(&before)) {
            return Err(Unusable::Altered(0));
        }
        let edge = Rc::new(edge);
        let known = Known { edge: edge.clone(), tried_at: read_at };
        self.nodes[node].api.known[campaign] = Some(known);
        Ok(edge)
    }

    /// A request meets the state of its campaign.
    fn admit(&mut self, number: usize, edge: &Rc<AdmissionView>) {
        let ask = &self.asks[number];
        let (node, campaign) = (ask.node, ask.campaign);
        let key = ask.idempotency_key();
        let (moment, wall) = (self.moment(node), self.wall(node));
        match edge.admission(moment, Timestamp(wall), MARGIN, key.is_some()) {
            Admission::Append => {}
            Admission::Quarantined => return self.reply(number, Reply::NotTaken),
            Admission::Undefined => return self.reply(number, Reply::UnknownCampaign),
            Admission::Refused(reason) => {
                let partition = self.partition_of(campaign);
                let refusal = Refusal {
                    campaign,
                    at: self.now,
                    wall,
                    end: self.log.shelf(partition).next,
                    reason: reason.name(),
                    has_key: key.is_some(),
                };
                self.evidence.refusals.push(refusal);
                return self.reply(number, Reply::Refused);
            }
        }
        let partition = self.partition_of(campaign);
        let is_overloaded = self.now < self.trouble.overload_until;
        if is_overloaded && self.nodes[node].api.follower.lag(partition) > LAG_MAX {
            return self.reply(number, Reply::NotTaken);
        }
        let ask = &self.asks[number];
        let (user, key_number) = (ask.user, ask.key);
        let record = Record::Request(Request {
            campaign: self.id(campaign),
            user: self.shared.users[usize::from(user)].clone(),
            idempotency_key: key,
        });
        let meant = Meant::Request { campaign, user, key: key_number };
        let fresh = self.fresh(&record, meant);
        if !self.send_append(node, For::Ask(number), fresh) {
            self.reply(number, Reply::NotTaken);
        }
    }

    /// A campaign as a node shows it.
    pub(super) fn view(&mut self, node: usize, campaign: usize) {
        if !self.nodes[node].is_up {
            return;
        }
        let moment = self.moment(node);
        let edge = self.nodes[node].api.kept(campaign).filter(|edge| edge.is_fresh(moment));
        let Some(edge) = edge else { return self.fly(node, campaign, None) };
        let Some(figures) = edge.figures(Timestamp(self.wall(node))) else { return };
        let partition = self.partition_of(campaign);
        self.evidence.views.push(View {
            campaign,
            issued: figures.issued,
            remaining: figures.remaining,
            quota: edge.definition().map_or(0, |definition| definition.terms.quota),
            as_of: figures.as_of,
            end: self.log.shelf(partition).next,
        });
    }
}
