//! Clients: they ask, lose answers, ask again with and without a key, and come back much later,
//! at another node, with nothing but their request id.

use std::rc::Rc;

use super::{
    act::Act,
    appends::Confirmed,
    asking::{Asker, Concluded, Wanted},
    faults::Fault,
    world::{Ms, World},
};
use crate::domain::{
    answer::Answer,
    ids::{IdempotencyKey, Offset, Partition},
};

/// When a client gives up on an answer.
const PATIENCE_MS: Ms = 2_500;

/// Most times that a client asks for one coupon.
const TRIES: u8 = 4;

/// One call of `POST /coupon/issue`.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    pub(super) campaign: usize,
    pub(super) user: u16,
    pub(super) key: Option<u16>,
    pub(super) node: usize,
    pub(super) life: u32,
    wait: Ms,
    sent_at: Ms,
    tries: u8,
    is_done: bool,
}

impl Ask {
    pub(super) fn idempotency_key(&self) -> Option<IdempotencyKey> {
        let key = self.key?;
        IdempotencyKey::parse(&format!("k{key}")).ok()
    }
}

/// A request that was answered 2xx, as its client remembers it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) partition: Partition,
    pub(super) offset: Offset,
    pub(super) campaign: usize,
    pub(super) user: u16,
    pub(super) key: Option<u16>,
    pub(super) request_id: Rc<str>,
    /// Whether the client has heard of it.
    pub(super) is_promised: bool,
    /// Appended when the log was no longer what it had been: not judged.
    pub(super) is_void: bool,
}

/// What a client is told.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// 2xx, with the answer if it was waited for.
    DecodedRecords(usize, Option<Answer>),
    /// 429 or 503: not in the log, and never will be.
    NotTaken,
    /// 503 outcome-unknown.
    Unknown,
    /// 409.
    Refused,
    /// 404.
    UnknownCampaign,
}

impl World {
    /// A client asks for a coupon.
    pub(super) fn begin_ask(&mut self, campaign: usize, user: u16, key: Option<u16>, tries: u8) {
        let node = self.random.index(self.nodes.len());
        let wait = if self.random.one_in(3) { self.random.between(1, 3) * 1_000 } else { 0 };
        let sent_at = self.now;
        let ask = Ask { campaign, user, key, node, life: 0, wait, sent_at, tries, is_done: false };
        self.asks.push(ask);
        let number = self.asks.len() - 1;
        let delay = self.network_ms();
        self.after(delay, Act::Ask(number));
        self.after(wait + PATIENCE_MS, Act::TimedOut(number));
    }

    /// A request is in the log: it is promised, and waited for if its client wants that.
    pub(super) fn request_appended(
        &mut self,
        number: usize,
        confirmed: &Confirmed,
        is_refused: bool,
    ) {
        if is_refused {
            return self.reply(number, Reply::NotTaken);
        }
        let wanted = self.wanted_of(number, confirmed);
        let Wanted::Request(content) = &wanted else { return };
        let ask = &self.asks[number];
        let kept = Kept {
            partition: confirmed.partition,
            offset: confirmed.offset,
            campaign: ask.campaign,
            user: ask.user,
            key: ask.key,
            request_id: self.shared.ids.seal(content).into(),
            is_promised: false,
            is_void: self.log.shelves[confirmed.partition as usize].is_damaged,
        };
        let (node, wait) = (ask.node, ask.wait);
        self.kept.push(kept);
        let kept = self.kept.len() - 1;
        if wait == 0 || self.hit(Fault::WaitersFull) {
            return self.reply(number, Reply::DecodedRecords(kept, None));
        }
        self.question(node, wanted, Asker::Ask(number, kept), wait);
    }

    /// What a waiting client is told.
    pub(super) fn waited(&mut self, ask: usize, kept: usize, concluded: Concluded) {
        if self.hit(Fault::WaiterDropped) {
            return;
        }
        match concluded {
            Concluded::Answer(answer) => self.reply(ask, Reply::DecodedRecords(kept, Some(answer))),
            Concluded::NotYet => self.reply(ask, Reply::DecodedRecords(kept, None)),
            Concluded::Halted => self.reply(ask, Reply::NotTaken),
        }
    }

    /// An answer goes back to its client, with luck.
    pub(super) fn reply(&mut self, ask: usize, reply: Reply) {
        let Ask { node, life, .. } = self.asks[ask];
        if !self.is_life(node, life) || self.hit(Fault::AnswerLost) {
            return;
        }
        let delay = self.network_ms();
        self.after(delay, Act::Reply(ask, reply));
    }

    /// A client hears.
    pub(super) fn hears(&mut self, number: usize, reply: Reply) {
        if std::mem::replace(&mut self.asks[number].is_done, true) {
            return;
        }
        match reply {
            Reply::DecodedRecords(kept, answer) => {
                self.kept[kept].is_promised = true;
                if let Some(answer) = answer {
                    self.heard(kept, &answer);
                }
                self.comes_back(kept);
                if self.asks[number].key.is_some() && self.hit(Fault::KeyRepeated) {
                    self.asks_again(number, true);
                }
            }
            Reply::Unknown => self.tries_again(number),
            Reply::UnknownCampaign => {
                let Ask { campaign, sent_at, .. } = self.asks[number];
                // A store that was set back knows less until its owner has replayed.
                let sound = self.trouble.damaged.is_none_or(|(it, _)| it != campaign)
                    && !self.evidence.was_set_back;
                if self.evidence.was_defined(campaign, sent_at) && sound {
                    self.broken("INV-12", format!("c{campaign} is defined and was denied"));
                }
            }
            Reply::NotTaken | Reply::Refused => {}
        }
    }

    pub(super) fn timed_out(&mut self, number: usize) {
        if !std::mem::replace(&mut self.asks[number].is_done, true) {
            self.tries_again(number);
        }
    }

    fn tries_again(&mut self, number: usize) {
        let has_key = self.asks[number].key.is_some();
        if has_key && self.hit(Fault::RetryWithKey) {
            self.asks_again(number, true);
        } else if !has_key && self.hit(Fault::RetryWithoutKey) {
            self.asks_again(number, false);
        }
    }

    fn asks_again(&mut self, number: usize, with_key: bool) {
        let Ask { campaign, user, key, tries, .. } = self.asks[number];
        if tries < TRIES {
            let key = key.filter(|_| with_key);
            self.begin_ask(campaign, user, key, tries + 1);
        }
    }

    /// A client that knows its request id comes back for the answer.
    fn comes_back(&mut self, kept: usize) {
        if self.faults.is_over() {
            return;
        }
        if self.random.one_in(2) {
            let node = self.random.index(self.nodes.len());
            let wait = if self.random.one_in(2) { 1_000 } else { 0 };
            let delay = self.random.between(1, 600);
            self.after(delay, Act::Get { kept, node, wait, is_final: false });
        }
        if self.hit(Fault::AskedLater) {
            let node = self.random.index(self.nodes.len());
            let delay = self.random.between(2_000, 12_000);
            self.after(delay, Act::Get { kept, node, wait: 0, is_final: false });
        }
        if self.hit(Fault::AskedElsewhere) {
            for node in 0..self.nodes.len() {
                let delay = self.random.between(1, 3_000);
                self.after(delay, Act::Get { kept, node, wait: 0, is_final: false });
            }
        }
    }

    /// `GET /coupon/requests/{id}` arrives.
    pub(super) fn get(&mut self, kept: usize, node: usize, wait: Ms, is_final: bool) {
        if !self.nodes[node].is_up {
            return;
        }
        let request_id = self.kept[kept].request_id.clone();
        let Some(content) = self.shared.ids.open(&request_id) else {
            return self.broken("INV-7", format!("request {kept} is not known by its id"));
        };
        let asker = Asker::Get { kept, is_final };
        self.question(node, Wanted::Request(Rc::new(content)), asker, wait);
    }

    /// Whether every client has its answer, or has given up.
    pub(super) fn clients_are_done(&self) -> bool {
        self.asks.iter().all(|ask| ask.is_done)
    }

    /// What came of it.
    pub(super) fn got(&mut self, kept: usize, concluded: Concluded, is_final: bool) {
        if is_final {
            self.finals = self.finals.saturating_sub(1);
        }
        match concluded {
            Concluded::Answer(answer) => self.heard(kept, &answer),
            Concluded::NotYet if is_final && !self.is_excused(kept) => {
                let Kept { partition, offset, .. } = self.kept[kept];
                self.broken("INV-4", format!("{partition}/{offset} has no decision at the end"));
            }
            Concluded::NotYet | Concluded::Halted => {}
        }
    }

    /// Whether a request may stay without an answer, for its campaign or partition must halt.
    pub(super) fn is_excused(&self, kept: usize) -> bool {
        let Kept { partition, campaign, is_void, .. } = self.kept[kept];
        is_void || self.must_halt(partition) || self.is_damaged(campaign)
    }

    /// The coupons of a user, as a node lists them.
    pub(super) fn holdings(&mut self, node: usize, campaign: usize, user: u16) {
        let is_damaged = self.trouble.damaged.is_some_and(|(damaged, _)| damaged == campaign);
        if !self.nodes[node].is_up || self.read_fails() || is_damaged {
            return;
        }
        for coupon in self.store.of_user(campaign, user) {
            let issued = (coupon.sequence, coupon.issued_at.0, coupon.code.clone());
            self.evidence.listed.push((campaign, user, issued));
        }
    }
}
