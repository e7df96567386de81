//! The world of one seed: a virtual clock, a queue of what happens next, nodes, a log, a store.
//! One thing happens after the other, and chance comes from the seed alone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    hash::Hasher,
    rc::Rc,
    sync::Arc,
};

use siphasher::sip::SipHasher13;

use super::{
    act::Act,
    admin::Errand,
    api_node::Api,
    asking::Question,
    client::{Ask, Kept},
    evidence::{Evidence, Violation},
    faults::{Fault, Faults, Kinds},
    log::Log,
    owner::Owner,
    store::{Store, Undo},
    writes::Job,
};
use crate::{
    answer::request_id::RequestIds,
    domain::{
        ids::{CampaignId, Offset, Partition, UserId},
        keys::Keys,
    },
    random::Random,
    wire::codec::Codec,
};

/// Virtual milliseconds since the world began.
pub(super) type Ms = u64;

/// Wall-clock time at which every world begins.
pub(super) const EPOCH_MS: i64 = 1_700_000_000_000;

/// Which life of the log a world has.
pub(super) const LOG_EPOCH: u32 = 1;

/// Partitions of a world: two, so that one can halt while the other goes on.
pub(super) const PARTITIONS: u32 = 2;

/// Longest that everything may take to settle once nothing goes wrong any more.
pub(super) const SETTLE_MS: Ms = 40_000;

/// Things that may happen in one world: some fifty times what is usual.
const EVENTS_MAX: u64 = 500_000;

/// What every world shares and nobody changes.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) keys: Arc<Keys>,
    pub(super) codec: Codec,
    pub(super) ids: RequestIds,
    pub(super) campaigns: Vec<CampaignId>,
    pub(super) users: Vec<UserId>,
}

/// What one world is made of.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Everything that happens follows from it.
    pub seed: u64,
    /// Kinds of faults that may strike.
    pub kinds: Kinds,
    /// Requests that clients make, retries aside.
    pub requests: u32,
    /// Firings of faults that are left out, by number.
    pub spared: BTreeSet<u32>,
    /// Whether what happens is written down.
    pub traced: bool,
}

/// A process: API node and owner of partitions.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) life: u32,
    pub(super) is_up: bool,
    pub(super) booted: Ms,
    /// Its wall clock against true time.
    pub(super) skew: i64,
    pub(super) paused_until: Ms,
    pub(super) follows_from: Ms,
    pub(super) api: Api,
}

/// Something that happens at its time; among equals, the one scheduled first.
struct Entry {
    at: Ms,
    number: u64,
    act: Act,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The world.
pub(super) struct World {
    pub(super) now: Ms,
    queue: BinaryHeap<Reverse<Entry>>,
    scheduled: u64,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) shared: Rc<Shared>,
    pub(super) is_embedded: bool,
    pub(super) log: Log,
    pub(super) store: Store,
    /// What a power cut may take back; embedded only.
    pub(super) journal: Option<Vec<Undo>>,
    pub(super) nodes: Vec<Node>,
    pub(super) owners: Vec<Option<Box<Owner>>>,
    /// Who owns each partition, as far as the group knows.
    pub(super) owned: Vec<Option<usize>>,
    pub(super) jobs: BTreeMap<u64, Job>,
    pub(super) jobs_begun: u64,
    pub(super) asks: Vec<Ask>,
    pub(super) kept: Vec<Kept>,
    pub(super) questions: Vec<Option<Box<Question>>>,
    pub(super) errands: Vec<Errand>,
    pub(super) unsynced: VecDeque<super::appends::Unsynced>,
    pub(super) evidence: Evidence,
    pub(super) trouble: Trouble,
    pub(super) finals: usize,
    pub(super) is_final: bool,
    hasher: SipHasher13,
    pub(super) trace: Option<Vec<String>>,
    pub(super) events: u64,
}

/// What goes wrong right now.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) log_away_until: Ms,
    pub(super) store_away_until: Ms,
    pub(super) disk_full_until: Ms,
    pub(super) overload_until: Ms,
    /// A campaign that fails whenever it decides this position, so many more times.
    pub(super) poison: Option<(Partition, Offset, u32)>,
    /// A campaign whose actor at this owner fails always.
    pub(super) cursed: Option<(usize, usize)>,
    /// Record times against true time, until then.
    pub(super) time_skew: (i64, Ms),
    pub(super) snapshot: Option<Box<Store>>,
    pub(super) healed_at: Option<Ms>,
    /// The campaign whose rows were damaged, and since when a hold says so.
    pub(super) damaged: Option<(usize, Option<Ms>)>,
    /// Partitions whose log is no longer what was settled.
    pub(super) halting: [bool; PARTITIONS as usize],
    /// Whether the log forgets what is settled before the last questions.
    pub(super) trims: bool,
    pub(super) flood_until: Ms,
    pub(super) appended_at: Ms,
}

impl World {
    pub(super) fn new(setup: &Setup, shared: Rc<Shared>) -> Self {
        let mut random = Random::of_world(setup.seed);
        let is_embedded = random.one_in(4);
        let faults = Faults::draw(&mut random, is_embedded, &setup.kinds, setup.spared.clone());
        let nodes = if is_embedded { 1 } else { random.between(2, 3) };
        let campaigns = shared.campaigns.len();
        let node = || Node {
            life: 0,
            is_up: true,
            booted: 0,
            skew: 0,
            paused_until: 0,
            follows_from: 0,
            api: Api::new(campaigns, usize::MAX),
        };
        let mut world = Self {
            now: 0,
            queue: BinaryHeap::with_capacity(2_048),
            scheduled: 0,
            random,
            faults,
            is_embedded,
            log: Log::new(PARTITIONS, is_embedded),
            store: Store::new(campaigns, PARTITIONS),
            journal: is_embedded.then(Vec::new),
            nodes: (0..nodes).map(|_| node()).collect(),
            owners: Vec::new(),
            owned: vec![None; PARTITIONS as usize],
            jobs: BTreeMap::new(),
            jobs_begun: 0,
            asks: Vec::new(),
            kept: Vec::new(),
            questions: Vec::new(),
            errands: Vec::new(),
            unsynced: VecDeque::new(),
            evidence: Evidence::default(),
            trouble: Trouble::default(),
            finals: 0,
            is_final: false,
            hasher: SipHasher13::new(),
            trace: setup.traced.then(Vec::new),
            events: 0,
            shared,
        };
        world.set_out(setup.requests);
        world
    }

    /// Makes things happen until everything is over, or an invariant is broken.
    pub(super) fn run(&mut self) -> Result<(), Violation> {
        while let Some(Reverse(Entry { at, number, act })) = self.queue.pop() {
            self.now = self.now.max(at);
            if let Some(until) = self.paused_until(&act) {
                // Under its old number: a mailbox keeps its order over a pause.
                self.queue.push(Reverse(Entry { at: until, number, act }));
                continue;
            }
            self.events += 1;
            let (kind, of) = act.fingerprint();
            self.hasher.write_u64(self.now << 8 | u64::from(kind));
            self.hasher.write_u64(of);
            if self.trace.is_some() {
                let text = act.describe();
                self.note(|| text);
            }
            self.happen(act);
            if let Some(violation) = self.evidence.violation.take() {
                return Err(violation);
            }
            if self.is_over() {
                return self.judge();
            }
            if self.events > EVENTS_MAX {
                return Err(Violation::new("INV-10", "it goes on and on without an end"));
            }
        }
        Err(Violation::new("INV-10", "nothing happens any more, and not everything is settled"))
    }

    /// What stood in the way of settling, and everything that happened, as one number.
    pub(super) fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    fn paused_until(&self, act: &Act) -> Option<Ms> {
        let node = act.node(self)?;
        let until = self.nodes[node].paused_until;
        (until > self.now).then_some(until)
    }

    /// Makes `act` happen at a time, not before now.
    pub(super) fn at(&mut self, at: Ms, act: Act) {
        self.scheduled += 1;
        let entry = Entry { at: at.max(self.now), number: self.scheduled, act };
        self.queue.push(Reverse(entry));
    }

    /// Everything that is to happen, in no order.
    pub(super) fn coming(&self) -> impl Iterator<Item = &Act> {
        self.queue.iter().map(|Reverse(entry)| &entry.act)
    }

    /// Makes `act` happen after so many milliseconds.
    pub(super) fn after(&mut self, delay: Ms, act: Act) {
        self.at(self.now + delay, act);
    }

    /// Whether `fault` strikes at this opportunity.
    pub(super) fn hit(&mut self, fault: Fault) -> bool {
        let hit = self.faults.hit(fault);
        if hit {
            self.note(|| format!("!! {}", fault.name()));
        }
        hit
    }

    /// Writes down what happens, if anybody wants to read it.
    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now:>7} {}", text()));
        }
    }

    /// Time that a message takes.
    pub(super) fn network_ms(&mut self) -> Ms {
        if self.is_embedded { 0 } else { self.random.below(3) }
    }

    /// Time that an operation of the store takes.
    pub(super) fn store_ms(&mut self) -> Ms {
        if self.is_embedded {
            return self.random.below(2);
        }
        if self.hit(Fault::StoreSlow) {
            return self.random.between(100, 2_000);
        }
        self.random.between(1, 4)
    }

    /// Whether a read of the store fails now.
    pub(super) fn read_fails(&mut self) -> bool {
        self.now < self.trouble.store_away_until || self.hit(Fault::ReadFailed)
    }

    /// A node's wall clock.
    pub(super) fn wall(&self, node: usize) -> i64 {
        EPOCH_MS + self.now as i64 + self.nodes[node].skew
    }

    pub(super) fn partition_of(&self, campaign: usize) -> Partition {
        self.shared.codec.partition_of(&self.shared.campaigns[campaign])
    }

    /// Campaigns of a partition.
    pub(super) fn campaigns_of(&self, partition: Partition) -> impl Iterator<Item = usize> + '_ {
        (0..self.shared.campaigns.len()).filter(move |it| self.partition_of(*it) == partition)
    }

    /// A random node that is up, if any.
    pub(super) fn some_node(&mut self) -> Option<usize> {
        let up: Vec<usize> = (0..self.nodes.len()).filter(|it| self.nodes[*it].is_up).collect();
        (!up.is_empty()).then(|| up[self.random.index(up.len())])
    }

    pub(super) fn broken(&mut self, invariant: &'static str, detail: impl Into<String>) {
        if self.evidence.violation.is_none() {
            self.evidence.violation = Some(Violation::new(invariant, detail));
        }
    }
}
