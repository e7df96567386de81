//! Where faults strike: before and after every call of a port, and at every message of an actor.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    panic,
    sync::{Mutex, Once},
    time::Duration,
};

use coupond::{
    actors::Probe,
    domain::ids::{CampaignId, Partition, Sequence},
};
use tokio::sync::watch;

use super::{Random, lock};

/// What may happen at a point: each once in so many times, 0 for never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(crate) panics: u64,
    /// Panics of the supervisor itself, which end the node.
    pub(crate) supervisor_panics: u64,
    pub(crate) errors: u64,
    pub(crate) delays: u64,
    /// Panics at the point of this number, the first being 1, and nowhere else.
    pub(crate) panic_at: Option<u64>,
}

/// A port call that failed on purpose.
#[derive(Debug, thiserror::Error)]
#[error("injected at {0}")]
pub(crate) struct Injected(pub(crate) &'static str);

struct State {
    plan: Plan,
    random: Random,
    points: u64,
    panics: u64,
    /// How often each kind of point was passed, and how often it panicked.
    places: BTreeMap<(&'static str, &'static str), (u64, u64)>,
    /// Panics at every point of this actor and message.
    poison: Option<(&'static str, &'static str)>,
}

/// A row that somebody damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Spoiled {
    CouponOf(CampaignId),
    /// It is gone, and stays so when it is written again, as in CQL.
    Deleted(CampaignId, Sequence),
    HoldOf(Partition),
}

/// The faults of one world.
pub(crate) struct Faults {
    state: Mutex<State>,
    /// Campaigns whose calls hang until they are let go.
    hung: watch::Sender<Vec<CampaignId>>,
    /// Campaigns whose every call panics.
    cursed: Mutex<Vec<CampaignId>>,
    /// Campaigns whose every call fails.
    broken: Mutex<Vec<CampaignId>>,
    spoiled: Mutex<Option<Spoiled>>,
}

impl Faults {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let state = State {
            plan,
            random: Random(seed),
            points: 0,
            panics: 0,
            places: BTreeMap::new(),
            poison: None,
        };
        let (hung, _) = watch::channel(Vec::new());
        Self {
            state: Mutex::new(state),
            hung,
            cursed: Mutex::default(),
            broken: Mutex::default(),
            spoiled: Mutex::default(),
        }
    }

    /// From now on this happens.
    pub(crate) fn plan(&self, plan: Plan) {
        lock(&self.state).plan = plan;
    }

    /// Nothing fails from now on.
    pub(crate) fn heal(&self) {
        self.plan(Plan::default());
        lock(&self.state).poison = None;
        lock(&self.cursed).clear();
        lock(&self.broken).clear();
        *lock(&self.spoiled) = None;
        self.hang(Vec::new());
    }

    /// The calls for these campaigns hang, and those of no other.
    pub(crate) fn hang(&self, campaigns: Vec<CampaignId>) {
        let _ = self.hung.send_replace(campaigns);
    }

    /// Every call for this campaign panics from now on.
    pub(crate) fn curse(&self, campaign: CampaignId) {
        lock(&self.cursed).push(campaign);
    }

    /// Nothing panics any more for this campaign.
    pub(crate) fn absolve(&self, campaign: &CampaignId) {
        lock(&self.cursed).retain(|cursed| cursed != campaign);
    }

    /// Every call for this campaign fails from now on.
    pub(crate) fn break_off(&self, campaign: CampaignId) {
        lock(&self.broken).push(campaign);
    }

    /// From now on that row is not what was written. There is one such row at a time.
    pub(crate) fn spoil(&self, row: Spoiled) {
        *lock(&self.spoiled) = Some(row);
    }

    pub(crate) fn is_spoiled(&self, row: &Spoiled) -> bool {
        lock(&self.spoiled).as_ref() == Some(row)
    }

    /// Every such message makes its actor panic from now on.
    pub(crate) fn poison(&self, actor: &'static str, message: &'static str) {
        lock(&self.state).poison = Some((actor, message));
    }

    pub(crate) fn points(&self) -> u64 {
        lock(&self.state).points
    }

    pub(crate) fn panics(&self) -> u64 {
        lock(&self.state).panics
    }

    /// How often each kind of point was passed and panicked.
    pub(crate) fn places(&self) -> BTreeMap<(&'static str, &'static str), (u64, u64)> {
        lock(&self.state).places.clone()
    }

    /// A point where nothing but a panic can happen.
    fn strike(&self, part: &'static str, place: &'static str) {
        let mut state = lock(&self.state);
        state.points += 1;
        let plan = state.plan;
        let chance = if part == "supervisor" { plan.supervisor_panics } else { plan.panics };
        let strikes = plan.panic_at == Some(state.points)
            || state.poison == Some((part, place))
            || state.random.one_in(chance);
        let counts = state.places.entry((part, place)).or_default();
        counts.0 += 1;
        if strikes {
            counts.1 += 1;
            state.panics += 1;
            drop(state);
            panic!("injected at {part} {place}");
        }
    }

    /// A point where a call may wait, fail or panic.
    pub(crate) async fn point(
        &self,
        part: &'static str,
        place: &'static str,
        about: Option<&CampaignId>,
    ) -> Result<(), Injected> {
        if let Some(campaign) = about {
            let mut hung = self.hung.subscribe();
            // The sender lives as long as this call.
            let _ = hung.wait_for(|hung| !hung.contains(campaign)).await;
            if lock(&self.cursed).contains(campaign) {
                lock(&self.state).panics += 1;
                panic!("injected at {part} {place} for {campaign}");
            }
            if lock(&self.broken).contains(campaign) {
                return Err(Injected(place));
            }
        }
        let (delay, error) = {
            let mut state = lock(&self.state);
            let plan = state.plan;
            let delayed = state.random.one_in(plan.delays);
            let delay = delayed.then(|| Duration::from_millis(1 + state.random.below(300)));
            (delay, state.random.one_in(plan.errors))
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.strike(part, place);
        if error { Err(Injected(place)) } else { Ok(()) }
    }
}

impl Probe for Faults {
    fn handled(&self, actor: &'static str, message: &'static str) {
        self.strike(actor, message);
    }
}

thread_local! {
    /// Panics of this thread that nobody injected. A world lives on one thread.
    static UNASKED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics of this world that nobody injected, since this was last asked.
pub(crate) fn unasked_panics() -> Vec<String> {
    UNASKED.take()
}

/// Keeps the noise of injected panics off the screen, and remembers all others.
pub(crate) fn silence_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let text = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or_default();
            if !text.starts_with("injected at") && text != "crashed on request" {
                UNASKED.with_borrow_mut(|unasked| unasked.push(info.to_string()));
                usual(info);
            }
        }));
    });
}
