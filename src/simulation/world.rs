//! Time, chance and events of a world, and who may hear them.
//!
//! One thread runs every node. When none of them can go on, the next event is taken and time jumps
//! to it. Everything that a node waits for is such an event: answers of engines, timers, changes of
//! membership. So a node can be paused (its events are held) or be dead (they are dropped).

use std::{
    collections::{BTreeMap, VecDeque},
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::{
    act::Delivery,
    link::{Armed, Call, Engine, Fate},
    probe::{ActorKind, ArmedPanic},
};
use crate::{
    domain::ids::{Partition, Timestamp},
    random::Random,
};

/// Wall-clock time at which every world begins.
pub(super) const BEGIN_MS: i64 = 1_790_000_000_000;

/// Events that now and then happen at one moment: else no two things ever meet.
const TOGETHER_MAX: u64 = 4;

/// Longest time between the first and the last of them, in microseconds: a node is never later.
const TOGETHER_US: u64 = 3_000;

/// One life of a node: each start begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) life: u32,
}

type Run = Box<dyn FnOnce() + Send>;

struct Event {
    /// The life that must go on for the event to happen; none for events of the world itself.
    to: Option<Address>,
    run: Run,
}

#[derive(Default)]
struct NodeState {
    life: u32,
    is_alive: bool,
    is_paused: bool,
    /// Events that came while the node was paused, in order.
    held: Vec<Event>,
    /// Difference of the node's wall clock, in milliseconds.
    skew_ms: i64,
    /// How much faster the node's clocks run, in millionths.
    drift_ppm: i64,
    /// Engines that the node cannot reach, in whole or in one partition, with how many cuts last.
    cut: BTreeMap<(Engine, Option<Partition>), u32>,
    /// Fates of the next messages of the feed.
    deliveries: VecDeque<Delivery>,
}

struct State {
    now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbered: u64,
    random: Random,
    trace: u64,
    happened: u64,
    nodes: Vec<NodeState>,
    /// Fates that wait for their calls.
    armed: Vec<Armed>,
    /// Panics that wait for messages of actors.
    panics: Vec<ArmedPanic>,
    /// How often each kind of act struck.
    counts: BTreeMap<String, u64>,
    #[cfg(test)]
    calls: BTreeMap<(usize, Call), usize>,
    /// What happened, with its time, if anybody wants to read it.
    story: Option<Vec<(u64, String)>>,
}

/// A world.
pub(super) struct World {
    state: Mutex<State>,
    pub(super) base: Instant,
    /// A node has died by itself.
    pub(super) died: Notify,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize, is_told: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                now_us: 0,
                events: BTreeMap::new(),
                numbered: 0,
                random: Random::of_world(seed),
                trace: seed,
                happened: 0,
                nodes: (0..nodes).map(|_| NodeState::default()).collect(),
                armed: Vec::new(),
                panics: Vec::new(),
                counts: BTreeMap::new(),
                #[cfg(test)]
                calls: BTreeMap::new(),
                story: is_told.then(Vec::new),
            }),
            // Only differences of instants are used.
            base: Instant::now(),
            died: Notify::new(),
        })
    }

    /// Runs a world until `story` has ended.
    ///
    /// # Panics
    /// If nothing can happen any more before that.
    pub(super) fn run<T: Send + 'static>(
        self: &Arc<Self>,
        story: impl Future<Output = T> + Send + 'static,
    ) -> T {
        // The flag is set when no task can run. Then the next event is due.
        let idle: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
        let parked = idle.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .on_thread_park(move || {
                let mut idle = parked.lock();
                idle.0 = true;
                idle.1.iter().for_each(Waker::wake_by_ref);
            })
            .build()
            .expect("a runtime without I/O and time starts");
        let (world, waker) = (self.clone(), idle.clone());
        let ended = runtime.block_on(async move {
            let mut story = pin!(tokio::spawn(story));
            poll_fn(|context| {
                if let Poll::Ready(ended) = story.as_mut().poll(context) {
                    return Poll::Ready(ended.unwrap_or_else(|error| panic!("the story {error}")));
                }
                let mut idle = idle.lock();
                idle.1 = Some(context.waker().clone());
                if std::mem::take(&mut idle.0) {
                    drop(idle);
                    assert!(world.happen(), "the world stands still");
                }
                Poll::Pending
            })
            .await
        });
        // It is the runtime's own.
        waker.lock().1 = None;
        // Its tasks may still send.
        drop(runtime);
        self.end();
        ended
    }

    /// Drops what will never happen: events hold the engines, which hold the world.
    fn end(&self) {
        let mut state = self.state.lock();
        let events = std::mem::take(&mut state.events);
        let held = state.nodes.iter_mut().map(|node| std::mem::take(&mut node.held));
        let held: Vec<_> = held.collect();
        // Dropping an event may look at the world.
        drop(state);
        drop((events, held));
    }

    /// Lets the next event happen, and now and then a few more at once. Returns whether there was
    /// one.
    pub(super) fn happen(&self) -> bool {
        let together = if self.one_in(4) { 1 + self.below(TOGETHER_MAX) } else { 1 };
        let until = self.state.lock().events.first_key_value().map_or(0, |((due, _), _)| *due);
        let until = until + TOGETHER_US;
        let due: Vec<_> = (0..together).map_while(|_| self.next_event(until)).collect();
        let any = !due.is_empty();
        for event in due {
            if let Some(event) = self.addressed(event) {
                (event.run)();
            }
        }
        any
    }

    fn next_event(&self, until: u64) -> Option<Event> {
        let mut state = self.state.lock();
        state.events.first_key_value().filter(|((due, _), _)| *due <= until)?;
        let ((due, _), event) = state.events.pop_first()?;
        state.now_us = state.now_us.max(due);
        state.happened += 1;
        Some(event)
    }

    /// Returns the event if its node may hear it now.
    fn addressed(&self, event: Event) -> Option<Event> {
        let mut state = self.state.lock();
        let Some(Address { node, life }) = event.to else { return Some(event) };
        let node = &mut state.nodes[node];
        if node.life != life || !node.is_alive {
            return None;
        }
        if node.is_paused {
            node.held.push(event);
            return None;
        }
        Some(event)
    }

    /// Lets `run` happen after `us` microseconds, unless the life `to` has ended by then.
    pub(super) fn after(&self, us: u64, to: Option<Address>, run: impl FnOnce() + Send + 'static) {
        let due_us = self.now_us() + us;
        self.at(due_us, to, run);
    }

    /// Lets `run` happen at a time of the world, unless the life `to` has ended by then. Of two
    /// events of one time, the first one given happens first.
    pub(super) fn at(&self, due_us: u64, to: Option<Address>, run: impl FnOnce() + Send + 'static) {
        let mut state = self.state.lock();
        state.numbered += 1;
        let key = (due_us, state.numbered);
        state.events.insert(key, Event { to, run: Box::new(run) });
    }

    /// Waits for `us` microseconds. Never returns if the life `to` has ended by then.
    pub(super) async fn wait(&self, us: u64, to: Option<Address>) {
        let (wake, woken) = oneshot::channel();
        self.after(us, to, move || {
            let _gone = wake.send(());
        });
        heard(woken).await;
    }

    /// Waits until a time of the world, in microseconds.
    pub(super) async fn wait_until(&self, us: u64) {
        let (wake, woken) = oneshot::channel();
        self.at(us, None, move || {
            let _gone = wake.send(());
        });
        heard(woken).await;
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.state.lock().random.below(bound)
    }

    pub(super) fn one_in(&self, chance: u64) -> bool {
        chance > 0 && self.below(chance) == 0
    }

    /// Takes part of the course into the trace: two worlds of one seed must have the same.
    pub(super) fn trace(&self, what: u64, number: u64) {
        let mut state = self.state.lock();
        let words = [state.now_us, what, number];
        let fold = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        state.trace = words.into_iter().fold(state.trace, fold);
    }

    /// Takes a text into the trace.
    pub(super) fn trace_text(&self, text: &str) {
        self.trace(text.len() as u64, 0);
        text.bytes().for_each(|byte| self.trace(u64::from(byte), 0));
    }

    /// Returns the trace so far, and the number of events that happened.
    pub(super) fn course(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.trace, state.happened)
    }

    pub(super) fn now_us(&self) -> u64 {
        self.state.lock().now_us
    }

    /// Begins a new life of a node.
    pub(super) fn begin_life(&self, node: usize, skew_ms: i64, drift_ppm: i64) -> Address {
        let mut state = self.state.lock();
        let state = &mut state.nodes[node];
        let life = state.life + 1;
        let (cut, deliveries) = (std::mem::take(&mut state.cut), VecDeque::new());
        let (is_alive, is_paused, held) = (true, false, Vec::new());
        *state = NodeState { life, is_alive, is_paused, held, skew_ms, drift_ppm, cut, deliveries };
        Address { node, life }
    }

    /// Ends a life of a node: it hears nothing any more.
    pub(super) fn end_life(&self, address: Address) {
        let mut state = self.state.lock();
        let node = &mut state.nodes[address.node];
        if node.life == address.life && node.is_alive {
            node.is_alive = false;
            node.held.clear();
            self.died.notify_one();
        }
    }

    pub(super) fn is_alive(&self, address: Address) -> bool {
        let node = &self.state.lock().nodes[address.node];
        node.is_alive && node.life == address.life
    }

    pub(super) fn pause(&self, node: usize) {
        self.state.lock().nodes[node].is_paused = true;
    }

    /// Lets a paused node go on: it hears at once what came meanwhile.
    pub(super) fn go_on(&self, node: usize) {
        let mut state = self.state.lock();
        state.nodes[node].is_paused = false;
        for event in std::mem::take(&mut state.nodes[node].held) {
            state.numbered += 1;
            let key = (state.now_us, state.numbered);
            state.events.insert(key, event);
        }
    }

    /// Cuts a node off from an engine, or from one partition of the log. Cuts add up.
    pub(super) fn cut(&self, node: usize, engine: Engine, partition: Option<Partition>) {
        let cut = &mut self.state.lock().nodes[node].cut;
        *cut.entry((engine, partition)).or_default() += 1;
    }

    /// Takes a cut back.
    pub(super) fn mend(&self, node: usize, engine: Engine, partition: Option<Partition>) {
        let cut = &mut self.state.lock().nodes[node].cut;
        cut.entry((engine, partition)).and_modify(|cuts| *cuts = cuts.saturating_sub(1));
    }

    pub(super) fn is_cut(&self, node: usize, engine: Engine, partition: Option<Partition>) -> bool {
        let cut = &self.state.lock().nodes[node].cut;
        let is_cut = |partition| cut.get(&(engine, partition)).is_some_and(|cuts| *cuts > 0);
        is_cut(None) || partition.is_some() && is_cut(partition)
    }

    /// Lets the next such call have this fate.
    pub(super) fn arm(&self, armed: Armed) {
        self.state.lock().armed.push(armed);
    }

    /// Forgets the fates that wait for calls of a node.
    #[cfg(test)]
    pub(super) fn disarm(&self, node: usize) {
        self.state.lock().armed.retain(|armed| armed.node != Some(node));
    }

    #[cfg(test)]
    pub(super) fn called(&self, node: usize, call: Call) {
        *self.state.lock().calls.entry((node, call)).or_default() += 1;
    }

    /// Returns how many calls were made, of those that are asked for.
    #[cfg(test)]
    pub(super) fn calls(&self, asked: impl Fn(usize, Call) -> bool) -> usize {
        let calls = &self.state.lock().calls;
        calls.iter().filter(|((node, call), _)| asked(*node, *call)).map(|(_, count)| count).sum()
    }

    /// Takes the fate that waits for this call of a node.
    pub(super) fn struck(&self, node: usize, call: Call) -> Option<Fate> {
        let armed = &mut self.state.lock().armed;
        let of_call = |it: &Armed| it.call == call && it.node.is_none_or(|of| of == node);
        armed.iter().position(of_call).map(|index| armed.remove(index).fate)
    }

    /// Lets an actor panic at a later message.
    pub(super) fn arm_panic(&self, panic: ArmedPanic) {
        self.state.lock().panics.push(panic);
    }

    /// Whether an actor of a node panics at the message that it is about to handle.
    pub(super) fn panics_now(&self, node: usize, actor: ActorKind) -> bool {
        let panics = &mut self.state.lock().panics;
        let is_its = |it: &ArmedPanic| it.actor == actor && it.node.is_none_or(|of| of == node);
        let Some(index) = panics.iter().position(is_its) else { return false };
        let waits = panics[index].after > 0;
        match waits {
            true => panics[index].after -= 1,
            false => drop(panics.remove(index)),
        }
        !waits
    }

    /// Lets the next feed message to a node have this fate.
    pub(super) fn arm_delivery(&self, node: usize, delivery: Delivery) {
        self.state.lock().nodes[node].deliveries.push_back(delivery);
    }

    pub(super) fn delivery(&self, node: usize) -> Option<Delivery> {
        self.state.lock().nodes[node].deliveries.pop_front()
    }

    /// Ends everything that waits to go wrong, every cut and every pause.
    pub(super) fn heal(&self) {
        let nodes = {
            let mut state = self.state.lock();
            state.armed.clear();
            state.panics.clear();
            for node in &mut state.nodes {
                node.deliveries.clear();
                node.cut.clear();
            }
            state.nodes.len()
        };
        (0..nodes).for_each(|node| self.go_on(node));
    }

    /// Counts an act that struck.
    pub(super) fn count(&self, kind: String) {
        *self.state.lock().counts.entry(kind).or_default() += 1;
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.state.lock().counts.clone()
    }

    /// Writes down what happens, if anybody wants to read it.
    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.state.lock().story.is_none() {
            return;
        }
        let text = text();
        let mut state = self.state.lock();
        let now_us = state.now_us;
        state.story.iter_mut().for_each(|story| story.push((now_us, text.clone())));
    }

    pub(super) fn story(&self) -> Vec<(u64, String)> {
        self.state.lock().story.clone().unwrap_or_default()
    }

    /// Lets the wall clock of a node jump.
    pub(super) fn set_skew(&self, node: usize, ms: i64) {
        self.state.lock().nodes[node].skew_ms = ms;
    }

    /// Returns the difference of a node's wall clock, in milliseconds.
    pub(super) fn skew(&self, node: usize) -> i64 {
        self.state.lock().nodes[node].skew_ms
    }

    /// Returns the wall-clock time of a node.
    pub(super) fn wall(&self, node: usize) -> Timestamp {
        let (local_us, skew_ms) = self.local(node);
        Timestamp(BEGIN_MS + skew_ms + (local_us / 1_000) as i64)
    }

    /// Wall-clock time, as it is.
    pub(super) fn now(&self) -> Timestamp {
        Timestamp(BEGIN_MS + (self.now_us() / 1_000) as i64)
    }

    /// Returns the microseconds that have passed by the clocks of a node, and their skew.
    pub(super) fn local(&self, node: usize) -> (u64, i64) {
        let state = self.state.lock();
        let NodeState { skew_ms, drift_ppm, .. } = &state.nodes[node];
        let drift = (state.now_us / 1_000_000).saturating_mul(drift_ppm.unsigned_abs());
        let local = match *drift_ppm < 0 {
            true => state.now_us.saturating_sub(drift),
            false => state.now_us + drift,
        };
        (local, *skew_ms)
    }
}

/// Waits for a value. Never returns if the sender is dropped.
pub(super) async fn heard<T>(value: oneshot::Receiver<T>) -> T {
    match value.await {
        Ok(value) => value,
        Err(_) => pending().await,
    }
}
