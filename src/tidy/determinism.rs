//! The code that simulated worlds run is deterministic.

use super::{assert_none, below, paths, sources};

/// The shells that a world runs. Time and order in them must depend only on the node's clock and on
/// the order of calls.
const SHELLS: [&str; 2] = ["src/actors", "src/api/service"];

/// Sources of nondeterminism: other clocks, threads, and `watch`, which wakes its receivers in a
/// random order.
const DRAWN: [&str; 4] =
    ["tokio::time", "tokio::sync::watch", "tokio::task::spawn_blocking", "std::time::Instant::now"];

#[test]
fn shells_take_the_same_course_twice() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        if !SHELLS.iter().any(|shell| source.path.starts_with(shell)) {
            continue;
        }
        let code = source.product();
        let drawn = |path: &String| DRAWN.iter().any(|drawn| below(path, drawn));
        let used = paths(&code, "tokio").into_iter().chain(paths(&code, "std")).filter(drawn);
        complaints.extend(used.map(|used| format!("{}: {used}", source.path.display())));
        let unbiased = code.matches("select! {").count() - biased(&code);
        if unbiased > 0 {
            complaints.push(format!("{}: an unbiased select!", source.path.display()));
        }
    }
    assert_none(&complaints, "use the node's clock, `biased` and what keeps its order");
}

fn biased(code: &str) -> usize {
    let bodies = code.split("select! {").skip(1);
    bodies.filter(|body| body.trim_start().starts_with("biased;")).count()
}

#[test]
fn an_unbiased_select_is_seen() {
    assert_eq!(biased("tokio::select! {\n  biased;\n  a = b => {} }"), 1);
    assert_eq!(biased("tokio::select! {\n  a = b => {} }"), 0);
}
