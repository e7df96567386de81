//! One seed after the other, and what came of each.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use super::{
    evidence::Violation,
    faults::Fault,
    world::{LOG_EPOCH, PARTITIONS, Setup, Shared, World},
};
use crate::{
    answer::request_id::RequestIds,
    domain::{
        ids::{CampaignId, UserId},
        keys::Keys,
    },
    wire::codec::Codec,
};

/// Campaigns and users of a world: few enough that everybody meets everybody.
const CAMPAIGNS: usize = 5;
const USERS: usize = 150;

/// The secret of every world.
const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

/// What came of one seed.
#[derive(Debug)]
pub(crate) struct Report {
    /// How often each kind of fault struck, in the order of [`Fault::ALL`].
    pub fired: [u32; Fault::COUNT],
    /// Firings in all.
    pub firings: u32,
    /// The whole course of the world as one number.
    pub hash: u64,
    /// What was broken, if anything.
    pub violation: Option<Violation>,
    /// Decisions: issued, already issued, rejected.
    pub decisions: [u32; 3],
    /// Things that happened.
    pub events: u64,
    /// What happened, line by line, if that was asked for.
    pub trace: Vec<String>,
}

/// Runs worlds, one at a time.
pub(crate) struct Simulator {
    shared: Rc<Shared>,
}

impl Default for Simulator {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulator {
    /// Prepares what every world shares.
    ///
    /// # Panics
    /// Never: the names that it makes are valid.
    #[must_use]
    pub(crate) fn new() -> Self {
        let keys = Arc::new(Keys::derive(SECRET));
        let campaign = |index: usize| CampaignId::parse(&format!("c{index}"));
        let user = |index: usize| UserId::parse(&format!("u{index}"));
        let shared = Shared {
            codec: Codec::new(keys.clone(), LOG_EPOCH, PARTITIONS),
            ids: RequestIds::new(keys.clone(), "simulation"),
            campaigns: (0..CAMPAIGNS).map(|it| campaign(it).expect("valid")).collect(),
            users: (0..USERS).map(|it| user(it).expect("valid")).collect(),
            keys,
        };
        Self { shared: Rc::new(shared) }
    }

    /// Lives through one world. A panic of the code that it runs is a violation like any other.
    #[must_use]
    pub(crate) fn run(&self, setup: &Setup) -> Report {
        let mut world = World::new(setup, self.shared.clone());
        let ran = catch_unwind(AssertUnwindSafe(|| world.run()));
        let violation = match ran {
            Ok(result) => result.err(),
            Err(panic) => Some(of_panic(&*panic)),
        };
        if let Some(Violation { invariant, detail }) = &violation {
            world.note(|| format!("{invariant}: {detail}"));
        }
        Report {
            fired: world.faults.fired,
            firings: world.faults.firings(),
            hash: world.hash(),
            violation,
            decisions: world.evidence.tally,
            events: world.events,
            trace: world.trace.take().unwrap_or_default(),
        }
    }
}

/// A broken invariant names itself in the panic that stopped it.
fn of_panic(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    let named = crate::domain::invariant::Invariant::ALL
        .iter()
        .find(|invariant| text.starts_with(&format!("{invariant} broken")));
    Violation::new(named.map_or("panic", |invariant| invariant.id()), text)
}
