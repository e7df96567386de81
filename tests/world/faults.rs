//! Injects faults before and after every call of a port, and at every message of an actor.

use std::{cell::RefCell, collections::BTreeMap, panic, sync::Once, time::Duration};

use coupond::{
    actors::Probe,
    domain::ids::{CampaignId, Partition, Sequence},
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::Random;

/// How often faults happen at a point: each once in so many passes. 0 means never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Plan {
    pub(crate) panics: u64,
    /// Panics of the supervisor, which end the node.
    pub(crate) supervisor_panics: u64,
    pub(crate) errors: u64,
    pub(crate) delays: u64,
    /// Panics only at the point with this number, counted from 1.
    pub(crate) panic_at: Option<u64>,
}

/// An injected failure of a port call.
#[derive(Debug, thiserror::Error)]
#[error("injected at {0}")]
pub(crate) struct Injected(pub(crate) &'static str);

struct State {
    plan: Plan,
    random: Random,
    points: u64,
    panics: u64,
    /// How often each point was passed, and how often it panicked.
    places: BTreeMap<(&'static str, &'static str), (u64, u64)>,
    /// Every message of this name to this actor panics.
    panic_at_message: Option<(&'static str, &'static str)>,
}

/// A damaged row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Damaged {
    /// The coupons of a campaign cannot be decoded.
    CouponOf(CampaignId),
    /// A coupon is missing, and stays missing when it is written again, as after a CQL `DELETE`.
    Deleted(CampaignId, Sequence),
    /// The holds of a partition cannot be decoded.
    HoldOf(Partition),
}

/// The faults of one world.
pub(crate) struct Faults {
    state: Mutex<State>,
    /// Campaigns whose calls hang until they are removed from the list.
    hung: watch::Sender<Vec<CampaignId>>,
    /// Campaigns of which every call panics.
    panicking: Mutex<Vec<CampaignId>>,
    /// Campaigns of which every call fails.
    failing: Mutex<Vec<CampaignId>>,
    damaged: Mutex<Option<Damaged>>,
}

impl Faults {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let state = State {
            plan,
            random: Random(seed),
            points: 0,
            panics: 0,
            places: BTreeMap::new(),
            panic_at_message: None,
        };
        let (hung, _) = watch::channel(Vec::new());
        Self {
            state: Mutex::new(state),
            hung,
            panicking: Mutex::default(),
            failing: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    /// Replaces the plan.
    pub(crate) fn plan(&self, plan: Plan) {
        self.state.lock().plan = plan;
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.plan(Plan::default());
        self.state.lock().panic_at_message = None;
        self.panicking.lock().clear();
        self.failing.lock().clear();
        *self.damaged.lock() = None;
        self.hang(Vec::new());
    }

    /// Makes the calls of exactly these campaigns hang.
    pub(crate) fn hang(&self, campaigns: Vec<CampaignId>) {
        let _ = self.hung.send_replace(campaigns);
    }

    /// Makes every call of this campaign panic from now on.
    pub(crate) fn make_panic(&self, campaign: CampaignId) {
        self.panicking.lock().push(campaign);
    }

    /// Ends the panics of [`Self::make_panic`].
    pub(crate) fn stop_panics(&self, campaign: &CampaignId) {
        self.panicking.lock().retain(|panicking| panicking != campaign);
    }

    /// Makes every call of this campaign fail from now on.
    pub(crate) fn make_fail(&self, campaign: CampaignId) {
        self.failing.lock().push(campaign);
    }

    /// Damages a row, instead of the one that was damaged before.
    pub(crate) fn damage(&self, row: Damaged) {
        *self.damaged.lock() = Some(row);
    }

    pub(crate) fn is_damaged(&self, row: &Damaged) -> bool {
        self.damaged.lock().as_ref() == Some(row)
    }

    /// Makes an actor panic at every message of this name from now on.
    pub(crate) fn panic_at_message(&self, actor: &'static str, message: &'static str) {
        self.state.lock().panic_at_message = Some((actor, message));
    }

    pub(crate) fn points(&self) -> u64 {
        self.state.lock().points
    }

    pub(crate) fn panics(&self) -> u64 {
        self.state.lock().panics
    }

    /// Returns how often each point was passed, and how often it panicked.
    pub(crate) fn places(&self) -> BTreeMap<(&'static str, &'static str), (u64, u64)> {
        self.state.lock().places.clone()
    }

    /// Passes a point at which a panic may happen.
    fn maybe_panic(&self, part: &'static str, place: &'static str) {
        let mut state = self.state.lock();
        state.points += 1;
        let plan = state.plan;
        let chance = if part == "supervisor" { plan.supervisor_panics } else { plan.panics };
        let panics_here = plan.panic_at == Some(state.points)
            || state.panic_at_message == Some((part, place))
            || state.random.one_in(chance);
        let counts = state.places.entry((part, place)).or_default();
        counts.0 += 1;
        if panics_here {
            counts.1 += 1;
            state.panics += 1;
            drop(state);
            panic!("injected at {part} {place}");
        }
    }

    /// Passes a point at which a call may wait, fail or panic.
    pub(crate) async fn point(
        &self,
        part: &'static str,
        place: &'static str,
        about: Option<&CampaignId>,
    ) -> Result<(), Injected> {
        if let Some(campaign) = about {
            let mut hung = self.hung.subscribe();
            // Never fails: `self` keeps the sender.
            let _ = hung.wait_for(|hung| !hung.contains(campaign)).await;
            if self.panicking.lock().contains(campaign) {
                self.state.lock().panics += 1;
                panic!("injected at {part} {place} for {campaign}");
            }
            if self.failing.lock().contains(campaign) {
                return Err(Injected(place));
            }
        }
        let (delay, error) = {
            let mut state = self.state.lock();
            let plan = state.plan;
            let delayed = state.random.one_in(plan.delays);
            let delay = delayed.then(|| Duration::from_millis(1 + state.random.below(300)));
            (delay, state.random.one_in(plan.errors))
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.maybe_panic(part, place);
        if error { Err(Injected(place)) } else { Ok(()) }
    }
}

impl Probe for Faults {
    fn handled(&self, actor: &'static str, message: &'static str) {
        self.maybe_panic(actor, message);
    }
}

thread_local! {
    /// Panics of this thread that were not injected. A world runs on one thread.
    static UNEXPECTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Takes the panics of this world that were not injected.
pub(crate) fn unexpected_panics() -> Vec<String> {
    UNEXPECTED.take()
}

/// Keeps injected panics out of the output, and records all others.
pub(crate) fn hide_injected_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let payload = info.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let text = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or_default();
            if !text.starts_with("injected at") && text != "crashed on request" {
                UNEXPECTED.with_borrow_mut(|unexpected| unexpected.push(info.to_string()));
                usual(info);
            }
        }));
    });
}
