//! Sums up log lines that clients, producers or stored data can cause at any rate: of each kind one
//! line a second, and one that says how many more there were.
//!
//! An event is of that sort if it has the field `summed`. Its kind is its place in the source.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Event, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::layer::{Context, Layer};

/// The field that marks an event.
const FIELD: &str = "summed";

/// Time within which one line of a kind is written.
pub(super) const WITHIN: Duration = Duration::from_secs(1);

/// The lines of one kind since the last that was written.
struct Kind {
    metadata: &'static Metadata<'static>,
    written_at: Instant,
    more: u64,
}

/// The kinds of which a line was written within the last second.
#[derive(Default)]
pub(super) struct Sums(Mutex<HashMap<Identifier, Kind>>);

impl Sums {
    /// Returns whether a line is written now.
    fn is_written(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut kinds = self.0.lock();
        match kinds.get_mut(&metadata.callsite()) {
            Some(kind) => {
                kind.more += 1;
                false
            }
            None => {
                kinds.insert(metadata.callsite(), Kind { metadata, written_at: now, more: 0 });
                true
            }
        }
    }

    /// Returns the kinds whose second is over: where each line comes from, and how many more there
    /// were. The next line of these kinds is written again.
    fn over(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let is_over = |kind: &Kind| now.saturating_duration_since(kind.written_at) >= WITHIN;
        let mut kinds = self.0.lock();
        let over = kinds.extract_if(|_, kind| is_over(kind));
        over.map(|(_, kind)| (kind.metadata, kind.more)).filter(|(_, more)| *more > 0).collect()
    }

    /// Writes a line for each kind whose second is over and of which there were more.
    pub(super) fn write(&self) {
        for (metadata, more) in self.over(Instant::now()) {
            let (from, line) = (metadata.target(), metadata.line());
            tracing::warn!(from, line, more, "log lines left out within a second");
        }
    }
}

impl<S: Subscriber> Layer<S> for &'static Sums {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        metadata.fields().field(FIELD).is_none() || self.is_written(metadata, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Counts the events that pass.
    struct Counter(&'static Mutex<u64>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            *self.0.lock() += 1;
        }
    }

    #[test]
    fn of_each_kind_one_line_a_second_is_written() {
        static SUMS: LazyLock<Sums> = LazyLock::new(Sums::default);
        static WRITTEN: Mutex<u64> = Mutex::new(0);
        let subscriber = tracing_subscriber::registry().with(Counter(&WRITTEN)).with(&*SUMS);
        let written = || std::mem::take(&mut *WRITTEN.lock());
        tracing::subscriber::with_default(subscriber, || {
            let often = || tracing::warn!(summed = true, "often");
            (0..1_000).for_each(|_| often());
            assert_eq!(written(), 1);
            (0..3).for_each(|_| tracing::warn!("each of these says something else"));
            tracing::warn!(summed = true, "another kind");
            assert_eq!(written(), 4);
            let over = SUMS.over(Instant::now() + WITHIN);
            assert_eq!(over.iter().map(|(_, more)| *more).collect::<Vec<_>>(), [999]);
            often();
            assert_eq!(written(), 1);
            assert_eq!(SUMS.over(Instant::now() + WITHIN).len(), 0);
        });
    }
}
