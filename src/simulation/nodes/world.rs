//! Time, chance and events of a world, and who may hear them.
//!
//! One thread runs every node. When none of them can go on, the next event is taken and time jumps
//! to it. Everything that a node waits for is such an event: answers of engines, timers, changes of
//! membership. So a node can be paused (its events are held) or be dead (they are dropped).

use std::{
    collections::BTreeMap,
    future::{Future, pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    clock::{Clock, Sleep},
    domain::ids::Timestamp,
    random::Random,
};

/// Wall-clock time at which every world begins.
pub(super) const BEGIN_MS: i64 = 1_790_000_000_000;

/// Events that now and then happen at one moment: else no two things ever meet.
const TOGETHER_MAX: u64 = 4;

/// One life of a node: each start begins a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) node: usize,
    pub(super) life: u32,
}

/// What a node works with outside of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Engine {
    Log,
    Store,
    Feed,
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
    /// Engines that the node cannot reach.
    cut: Vec<Engine>,
}

struct State {
    now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    numbered: u64,
    random: Random,
    trace: u64,
    happened: u64,
    nodes: Vec<NodeState>,
}

/// A world.
pub(super) struct World {
    state: Mutex<State>,
    base: Instant,
}

impl World {
    pub(super) fn new(seed: u64, nodes: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                now_us: 0,
                events: BTreeMap::new(),
                numbered: 0,
                random: Random::of_world(seed),
                trace: seed,
                happened: 0,
                nodes: (0..nodes).map(|_| NodeState::default()).collect(),
            }),
            // Only differences of instants are used.
            base: Instant::now(),
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
        let world = self.clone();
        runtime.block_on(async move {
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
        })
    }

    /// Lets the next event happen, and now and then a few more at once. Returns whether there was
    /// one.
    pub(super) fn happen(&self) -> bool {
        let together = if self.one_in(4) { 1 + self.below(TOGETHER_MAX) } else { 1 };
        let due = (0..together).map_while(|_| self.next_event()).collect::<Vec<_>>();
        let any = !due.is_empty();
        for event in due {
            if let Some(event) = self.addressed(event) {
                (event.run)();
            }
        }
        any
    }

    fn next_event(&self) -> Option<Event> {
        let mut state = self.state.lock();
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

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.state.lock().random.below(bound)
    }

    pub(super) fn one_in(&self, chance: u64) -> bool {
        chance > 0 && self.below(chance) == 0
    }

    /// Takes part of the course into the trace: two worlds of one seed must have the same.
    pub(super) fn trace(&self, what: &str, number: u64) {
        let mut state = self.state.lock();
        let words = [state.now_us, number].into_iter().chain(what.bytes().map(u64::from));
        let fold = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0000_0100_0000_01B3);
        state.trace = words.fold(state.trace, fold);
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
        *state = NodeState { life, is_alive: true, skew_ms, drift_ppm, ..NodeState::default() };
        Address { node, life }
    }

    /// Ends the life of a node: it hears nothing any more.
    pub(super) fn end_life(&self, node: usize) {
        let mut state = self.state.lock();
        state.nodes[node].is_alive = false;
        state.nodes[node].held.clear();
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

    pub(super) fn cut(&self, node: usize, engine: Engine, is_cut: bool) {
        let cut = &mut self.state.lock().nodes[node].cut;
        cut.retain(|other| *other != engine);
        if is_cut {
            cut.push(engine);
        }
    }

    pub(super) fn is_cut(&self, node: usize, engine: Engine) -> bool {
        self.state.lock().nodes[node].cut.contains(&engine)
    }

    /// Returns the microseconds that have passed by the clocks of a node, and their skew.
    fn local(&self, node: usize) -> (u64, i64) {
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

/// The clocks of one life of a node.
#[derive(Clone)]
pub(super) struct LifeClock {
    pub(super) world: Arc<World>,
    pub(super) address: Address,
}

impl Clock for LifeClock {
    fn now(&self) -> Timestamp {
        let (local_us, skew_ms) = self.world.local(self.address.node);
        Timestamp(BEGIN_MS + skew_ms + (local_us / 1_000) as i64)
    }

    fn instant(&self) -> Instant {
        self.world.base + Duration::from_micros(self.world.local(self.address.node).0)
    }

    fn sleep_until(&self, until: Instant) -> Sleep {
        let clock = self.clone();
        Box::pin(async move {
            loop {
                let left = until.saturating_duration_since(clock.instant());
                if left.is_zero() {
                    return;
                }
                // A slow clock needs more of the world's time: then it is asked again.
                let us = left.as_micros() as u64 + 1;
                clock.world.wait(us, Some(clock.address)).await;
            }
        })
    }
}
