//! Panics of a world: those that acts ask for are expected, and every other one is a violation.

use std::{cell::RefCell, panic, sync::Once};

use super::evidence::Violation;
use crate::domain::invariant::Invariant;

/// Beginnings of the panics that acts ask for.
const EXPECTED: [&str; 2] = ["injected at", "crashed on request"];

thread_local! {
    /// Unexpected panics of this thread. A world runs on one.
    static UNEXPECTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Notes panics of every thread from now on, and prints none.
pub(super) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|info| {
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
    let named = |text: &str| {
        let named = Invariant::ALL.iter().find(|it| text.starts_with(&format!("{it} broken")));
        named.map_or("panic", |invariant| invariant.id())
    };
    UNEXPECTED.take().into_iter().map(|text| Violation::new(named(&text), text)).collect()
}
