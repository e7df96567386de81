//! Waiting for a decision on an API node: from the feed, and from the store where the feed may
//! have lost it. Progress is read first, then holds, then rows, each at a moment of its own.

use std::rc::Rc;

use super::{
    act::Act,
    owner::RETRY_MS,
    store::number_of,
    world::{LOG_EPOCH, Ms, World},
};
use crate::{
    answer::{
        admission::{AdmissionView, Unusable},
        follower::{Place, Registered},
        request_id::RequestContent,
        rows::{self, FromRows},
    },
    domain::{answer::Answer, coupon::Coupon, ids::Position, record::Control, rows::PartitionRows},
    wire::feed_message::{FeedDecision, FeedMessage},
};

/// Pause between two looks at the store.
const ASK_AGAIN_MS: Ms = 100;

/// How often a waiter looks whether the owner is still heard of.
const SILENCE_MS: Ms = 1_000;

/// A decision in a message of the feed.
#[derive(Debug, Clone)]
pub(super) struct Told(pub(super) Rc<FeedMessage>, pub(super) usize);

impl Told {
    fn settled(&self) -> &FeedDecision {
        &self.0.decisions[self.1]
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        self.settled() == other.settled()
    }
}

/// A position whose decision is wanted.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Request(Rc<RequestContent>),
    Control(Position, Rc<Control>),
}

/// Who wants to know.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    /// A client that waits for the answer to its request: which ask, and which kept request.
    Ask(usize, usize),
    /// Somebody with a request id; `is_final` once everything is settled.
    Get {
        kept: usize,
        is_final: bool,
    },
    Errand(usize),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Concluded {
    Answer(Answer),
    NotYet,
    /// Log and store contradict each other.
    Halted,
}

/// A question that a node works on.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) node: usize,
    life: u32,
    wanted: Wanted,
    pub(super) asker: Asker,
    place: Option<Place>,
    /// Asked of the store once, and no more.
    is_once: bool,
    is_asking: bool,
    is_first: bool,
    step: Step,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Partition,
    Campaign(Rc<PartitionRows>),
    Coupons(bool, Rc<AdmissionView>),
}

impl Wanted {
    fn position(&self) -> Position {
        match self {
            Self::Request(content) => content.position,
            Self::Control(position, _) => *position,
        }
    }

    fn is_of(&self, settled: &FeedDecision) -> bool {
        match self {
            Self::Request(content) => rows::is_of(settled, &content.campaign, Some(&content.user)),
            Self::Control(_, control) => rows::is_of(settled, &control.campaign, None),
        }
    }

    fn campaign(&self) -> usize {
        let name = match self {
            Self::Request(content) => content.campaign.as_str(),
            Self::Control(_, control) => control.campaign.as_str(),
        };
        usize::from(number_of(name))
    }
}

impl World {
    /// Waits up to `wait` on `node`; without a wait only what is known now, and the store once.
    pub(super) fn question(&mut self, node: usize, wanted: Wanted, asker: Asker, wait: Ms) {
        let Position { partition, offset, .. } = wanted.position();
        let number = self.questions.len();
        let life = self.nodes[node].life;
        let until = self.now + wait;
        let mut question = Question {
            node,
            life,
            wanted,
            asker,
            place: None,
            is_once: wait == 0,
            is_asking: false,
            is_first: true,
            step: Step::Partition,
        };
        let moment = self.moment(node);
        let follower = &mut self.nodes[node].api.follower;
        let is_silent = follower.is_silent(moment, partition);
        let mut to_come = false;
        if wait > 0 {
            let reserved = matches!(asker, Asker::Errand(_));
            match follower.register(partition, offset, number, reserved) {
                Registered::Known(told) => return self.concluded_by_feed(&question, &told),
                Registered::Full => question.is_once = true,
                Registered::Waiting { place, ask_store } => {
                    question.place = Some(place);
                    question.is_asking = ask_store || is_silent;
                }
            }
        } else {
            if let Some(told) = follower.decision(partition, offset).cloned() {
                return self.concluded_by_feed(&question, &told);
            }
            to_come = follower.watermark(partition).is_some_and(|mark| offset >= mark);
        }
        let is_followed = self.now >= self.nodes[node].follows_from;
        if question.is_once && to_come && is_followed && !is_silent {
            return self.conclude(&question, Concluded::NotYet);
        }
        let asks = question.is_asking || question.is_once;
        let waits = !question.is_once;
        self.questions.push(Some(Box::new(question)));
        if asks {
            let delay = self.network_ms();
            self.after(delay, Act::Question(number));
        }
        if waits {
            self.at(until, Act::QuestionEnds(number));
            self.after(SILENCE_MS, Act::Silence(number));
        }
    }

    /// The feed told the decision that a question waits for.
    pub(super) fn told(&mut self, number: usize, told: &Told) {
        if let Some(question) = self.questions[number].take() {
            self.concluded_by_feed(&question, told);
        }
    }

    fn concluded_by_feed(&mut self, question: &Question, told: &Told) {
        let settled = told.settled();
        let concluded = match question.wanted.is_of(settled) {
            true => Concluded::Answer(settled.answer.clone()),
            false => Concluded::Halted,
        };
        self.conclude(question, concluded);
    }

    /// The feed passed the position without a decision: the store must be asked.
    pub(super) fn ask_store_now(&mut self, number: usize) {
        let Some(question) = &mut self.questions[number] else { return };
        if !question.is_asking {
            question.is_asking = true;
            let delay = self.network_ms();
            self.after(delay, Act::Question(number));
        }
    }

    pub(super) fn silence(&mut self, number: usize) {
        let Some(question) = &self.questions[number] else { return };
        let (node, partition) = (question.node, question.wanted.position().partition);
        let moment = self.moment(node);
        if self.nodes[node].api.follower.is_silent(moment, partition) {
            self.ask_store_now(number);
        }
        self.after(SILENCE_MS, Act::Silence(number));
    }

    pub(super) fn question_ends(&mut self, number: usize) {
        if let Some(question) = self.questions[number].take() {
            if let Some(place) = question.place
                && self.is_life(question.node, question.life)
            {
                self.nodes[question.node].api.follower.leave(place);
            }
            self.conclude(&question, Concluded::NotYet);
        }
    }

    /// One step of asking the store.
    pub(super) fn asks(&mut self, number: usize) {
        let Some(mut question) = self.questions[number].take() else { return };
        if !self.is_life(question.node, question.life) {
            if let Asker::Get { is_final: true, .. } = question.asker {
                self.conclude(&question, Concluded::NotYet);
            }
            return;
        }
        let delay = self.store_ms();
        let step = std::mem::take(&mut question.step);
        match self.step_of(&mut question, step) {
            Some(Ok(concluded)) => {
                if let Some(place) = question.place {
                    self.nodes[question.node].api.follower.leave(place);
                }
                self.conclude(&question, concluded);
            }
            Some(Err(again)) => {
                question.step = Step::Partition;
                question.is_first &= !again;
                let pause = if again { ASK_AGAIN_MS } else { RETRY_MS };
                self.questions[number] = Some(question);
                self.after(pause, Act::Question(number));
            }
            None => {
                self.questions[number] = Some(question);
                self.after(delay, Act::Question(number));
            }
        }
    }

    /// None: the next step follows. `Err(true)`: there is no answer yet; `Err(false)`: the store
    /// did not answer.
    fn step_of(&mut self, question: &mut Question, step: Step) -> Option<Result<Concluded, bool>> {
        let node = question.node;
        let position = question.wanted.position();
        let campaign = question.wanted.campaign();
        let not_yet = match question.is_once {
            true => Ok(Concluded::NotYet),
            false => Err(true),
        };
        match step {
            Step::Partition => {
                let Some(rows) = self.shared_read(node, position.partition) else {
                    return Some(Err(false));
                };
                if !question.is_first && !self.settled_by(&rows, campaign, position) {
                    return Some(not_yet);
                }
                question.step = Step::Campaign(rows);
                None
            }
            Step::Campaign(rows) => {
                let settled = self.settled_by(&rows, campaign, position);
                let is_request = matches!(question.wanted, Wanted::Request(_));
                let kept = self.nodes[node].api.kept(campaign);
                let kept = kept.filter(|edge| {
                    is_request && (!settled || edge.knows_version_at(position.offset))
                });
                let edge = match kept {
                    Some(edge) => edge,
                    None => {
                        // A read of the campaign begins with progress of its own.
                        if self.read_fails() {
                            return Some(Err(false));
                        }
                        let Some(fresh) = self.shared_read(node, position.partition) else {
                            return Some(Err(false));
                        };
                        match self.keep_campaign(node, campaign, self.now, &fresh) {
                            Ok(edge) => edge,
                            Err(Unusable::Unknown) if !settled => {
                                return Some(not_yet);
                            }
                            Err(Unusable::Unknown) => return self.answer_undefined(question),
                            Err(Unusable::Altered(_)) => {
                                return Some(Ok(Concluded::Halted));
                            }
                        }
                    }
                };
                if let Wanted::Control(position, control) = &question.wanted {
                    let answer = rows::control_answer(
                        *position,
                        control,
                        settled,
                        &edge.versions,
                        edge.issued(),
                    );
                    return Some(answer.map_or(not_yet, |it| Ok(Concluded::Answer(it))));
                }
                question.step = Step::Coupons(settled, edge);
                None
            }
            Step::Coupons(settled, edge) => {
                let Wanted::Request(content) = &question.wanted else { return Some(not_yet) };
                if self.read_fails() {
                    return Some(Err(false));
                }
                let user = number_of(content.user.as_str());
                let coupons = self.store.of_user(campaign, user);
                Some(self.rows_say(content, settled, &edge, &coupons).unwrap_or(not_yet))
            }
        }
    }

    /// A settled position of a campaign that the store does not know.
    fn answer_undefined(&self, question: &Question) -> Option<Result<Concluded, bool>> {
        let Wanted::Control(position, control) = &question.wanted else {
            return Some(Ok(Concluded::Halted));
        };
        let answer = rows::control_answer(*position, control, true, &[], 0);
        Some(answer.map_or(Ok(Concluded::NotYet), |it| Ok(Concluded::Answer(it))))
    }

    fn settled_by(&self, rows: &PartitionRows, campaign: usize, position: Position) -> bool {
        rows::is_settled(rows, LOG_EPOCH, &self.shared.campaigns[campaign], position.offset)
    }

    /// None: not yet.
    fn rows_say(
        &self,
        content: &RequestContent,
        settled: bool,
        edge: &AdmissionView,
        coupons: &[Coupon],
    ) -> Option<Result<Concluded, bool>> {
        let RequestContent { campaign, user, .. } = content;
        if rows::unsound(coupons, campaign, user, &self.shared.keys).is_some() {
            return Some(Ok(Concluded::Halted));
        }
        match rows::request_answer(content, settled, &edge.versions, coupons) {
            FromRows::Answer(answer) => Some(Ok(Concluded::Answer(answer))),
            FromRows::NotYet => None,
            FromRows::Undefined => Some(Ok(Concluded::Halted)),
            FromRows::UnknownRules(_) => Some(Err(false)),
        }
    }

    fn conclude(&mut self, question: &Question, concluded: Concluded) {
        let partition = question.wanted.position().partition;
        let is_sound = !self.log.shelf(partition).is_damaged
            && self.trouble.damaged.is_none_or(|(it, _)| it != question.wanted.campaign());
        if concluded == Concluded::Halted && is_sound {
            let at = question.wanted.position().offset;
            return self.broken("INV-12", format!("a node contradicts {partition}/{at}"));
        }
        match question.asker {
            Asker::Ask(ask, kept) => self.waited(ask, kept, concluded),
            Asker::Get { kept, is_final } => self.got(kept, concluded, is_final),
            Asker::Errand(errand) => self.change_decided(errand, concluded),
        }
    }
}
