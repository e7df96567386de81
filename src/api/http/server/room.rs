//! The connections of a listener, and which of them goes first when there is no room for another.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::{sync::Notify, task::AbortHandle};

/// Number of a connection within its listener.
type ConnectionId = u64;

/// The connections of a listener.
///
/// A request is in progress from the moment at which it has arrived completely until its answer has
/// been produced. A connection without one may be closed at any time: nothing was taken from its
/// client, or everything was answered.
pub(super) struct Room {
    /// Most connections without a request in progress.
    idle_max: usize,
    state: Mutex<State>,
    /// Notified when a connection becomes idle while another one waits for room.
    became_idle: Notify,
}

struct State {
    next_id: ConnectionId,
    /// Connections without a request in progress, ordered by the time since when.
    idle: LruCache<ConnectionId, Arc<Place>>,
    is_room_wanted: bool,
}

impl Room {
    pub(super) fn new(idle_max: usize) -> Arc<Self> {
        let idle = LruCache::unbounded();
        let state = Mutex::new(State { next_id: 0, idle, is_room_wanted: false });
        Arc::new(Self { idle_max, state, became_idle: Notify::new() })
    }

    /// Gives a new connection its place. `spawn` starts the task of the connection.
    pub(super) fn admit(self: &Arc<Self>, spawn: impl FnOnce(Occupied) -> AbortHandle) {
        // Held until the place is known: the task may begin a request at once.
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let place = Arc::new(Place {
            room: self.clone(),
            id,
            task: OnceLock::new(),
            requests: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            in_progress: AtomicUsize::new(0),
            has_left: AtomicBool::new(false),
        });
        let task = spawn(Occupied(place.clone()));
        place.task.get_or_init(|| task);
        self.insert(&mut state, place);
    }

    fn insert(&self, state: &mut State, place: Arc<Place>) {
        state.idle.put(place.id, place);
        while state.idle.len() > self.idle_max {
            Self::close_first(state);
        }
        if std::mem::take(&mut state.is_room_wanted) {
            self.became_idle.notify_one();
        }
    }

    fn close_first(state: &mut State) -> bool {
        let Some((_, place)) = state.idle.pop_lru() else { return false };
        place.has_left.store(true, Ordering::Relaxed);
        if let Some(task) = place.task.get() {
            task.abort();
        }
        true
    }

    /// Closes the connection that has been without a request in progress for longest. Returns
    /// `false` if every connection has one: then [`Self::became_idle`] tells when to try again.
    pub(super) fn close_oldest(&self) -> bool {
        let mut state = self.state.lock();
        let closes = Self::close_first(&mut state);
        state.is_room_wanted = !closes;
        closes
    }

    /// Waits until a connection is idle, after [`Self::close_oldest`] found none.
    pub(super) async fn became_idle(&self) {
        self.became_idle.notified().await;
    }
}

/// The place of one connection.
pub(super) struct Place {
    room: Arc<Room>,
    id: ConnectionId,
    task: OnceLock<AbortHandle>,
    /// Requests whose head has arrived.
    requests: AtomicUsize,
    /// Those of them that are not answered yet.
    open: AtomicUsize,
    /// Those of them that have arrived completely. Written under the lock of the room.
    in_progress: AtomicUsize,
    /// Whether the connection has ended or is being closed. Written under the lock of the room.
    has_left: AtomicBool,
}

impl Place {
    /// Returns how many heads of requests have arrived.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns whether no request is being read or answered.
    pub(super) fn is_between(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Notes that the head of a request has arrived.
    pub(super) fn head(self: &Arc<Self>) -> Answered {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        Answered(Asked(Arc::new((self.clone(), AtomicBool::new(false)))))
    }
}

/// A request of a connection.
#[derive(Clone)]
pub(super) struct Asked(Arc<(Arc<Place>, AtomicBool)>);

impl Asked {
    /// Notes that the request has arrived completely. Returns `false` if the connection is being
    /// closed: nothing may be done for the request any more.
    pub(super) fn begin(&self) -> bool {
        let (place, has_begun) = &*self.0;
        let mut state = place.room.state.lock();
        if place.has_left.load(Ordering::Relaxed) {
            return false;
        }
        state.idle.pop(&place.id);
        if !has_begun.swap(true, Ordering::Relaxed) {
            place.in_progress.fetch_add(1, Ordering::Relaxed);
        }
        true
    }
}

/// Ends a request of a connection when dropped.
pub(super) struct Answered(Asked);

impl Answered {
    /// Returns the request, for the part that notes when it has arrived.
    pub(super) fn asked(&self) -> Asked {
        self.0.clone()
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        let (place, has_begun) = &*self.0.0;
        place.open.fetch_sub(1, Ordering::Relaxed);
        let mut state = place.room.state.lock();
        if has_begun.load(Ordering::Relaxed) {
            place.in_progress.fetch_sub(1, Ordering::Relaxed);
        }
        let is_idle = place.in_progress.load(Ordering::Relaxed) == 0;
        if is_idle && !place.has_left.load(Ordering::Relaxed) {
            place.room.insert(&mut state, place.clone());
        }
    }
}

/// Frees a place when dropped, with the task of its connection.
pub(super) struct Occupied(pub(super) Arc<Place>);

impl Drop for Occupied {
    fn drop(&mut self) {
        let mut state = self.0.room.state.lock();
        self.0.has_left.store(true, Ordering::Relaxed);
        state.idle.pop(&self.0.id);
    }
}
