//! Panics of a world: those that acts ask for are expected, and every other one is a violation.

use std::{
    cell::{Cell, RefCell},
    panic,
    sync::Once,
};

use super::evidence::Violation;
use crate::domain::invariant::Invariant;

/// Beginnings of the panics that acts ask for.
const EXPECTED: [&str; 2] = ["injected at", "crashed on request"];

thread_local! {
    /// A world runs on this thread.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    /// Unexpected panics of this thread. A world runs on one.
    static UNEXPECTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics of this thread and prints none, until they are taken.
pub(super) fn watch() {
    static ONCE: Once = Once::new();
    WATCHED.set(true);
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !WATCHED.get() {
                return usual(info);
            }
            let payload = info.payload();
            let literal = payload.downcast_ref::<&str>().copied();
            let text = literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("a panic without a message");
            if !EXPECTED.iter().any(|expected| text.starts_with(expected)) {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                UNEXPECTED.with_borrow_mut(|all| all.push(format!("{text} ({place})")));
            }
        }));
    });
}

/// Takes the unexpected panics of this thread. A broken invariant names itself.
pub(super) fn take() -> Vec<Violation> {
    WATCHED.set(false);
    let named = |text: &str| {
        let named = Invariant::ALL.iter().find(|it| text.starts_with(&format!("{it} broken")));
        named.map_or("panic", |invariant| invariant.id())
    };
    UNEXPECTED.take().into_iter().map(|text| Violation::new(named(&text), text)).collect()
}
