//! An embedded node whose wall clock is set, by the library libfaketime.

use std::path::{Path, PathBuf};

use libtest_mimic::Trial;
use serde_json::json;

use crate::{
    absent,
    procs::{Node, until},
    run,
};

/// Where Debian, Fedora and Arch put the library, for programs with several threads.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_clock_that_is_set_times_no_record", a_clock_that_is_set_times_no_record),
        trial("a_start_with_an_earlier_clock_waits", a_start_with_an_earlier_clock_waits),
    ]
}

fn trial<T: Future<Output = ()> + Send + 'static>(
    name: &str,
    body: impl FnOnce(Faked) -> T + Send + 'static,
) -> Trial {
    let name = format!("{}::{name}", module_path!());
    Trial::ignorable_test(name, move || {
        match LIBRARIES.iter().find(|path| Path::new(path).exists()) {
            Some(library) => run(|| body(Faked::new(library))),
            None => absent("libfaketime is not installed"),
        }
    })
}

/// A data folder, and a wall clock that runs beside the machine's.
struct Faked {
    folder: tempfile::TempDir,
    library: &'static str,
}

impl Faked {
    fn new(library: &'static str) -> Self {
        let faked = Self { folder: tempfile::tempdir().expect("a folder is made"), library };
        faked.set_clock("+0");
        faked
    }

    fn difference(&self) -> PathBuf {
        self.folder.path().join("difference")
    }

    fn set_clock(&self, difference: &str) {
        // Replaced as a whole: the library may read at any moment.
        let draft = self.difference().with_extension("draft");
        std::fs::write(&draft, difference).expect("the folder takes a file");
        std::fs::rename(draft, self.difference()).expect("the folder takes a file");
    }

    async fn start(&self) -> Node {
        let settings = [format!("embedded.dir='{}'", self.folder.path().join("data").display())];
        let difference = self.difference();
        let environment = [
            ("LD_PRELOAD", self.library),
            ("FAKETIME_TIMESTAMP_FILE", difference.to_str().expect("a plain path")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        Node::start_with(&settings, &environment).await
    }
}

/// Returns the time in so many hours, as the API takes it.
fn in_hours(hours: i64) -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours)).to_string()
}

/// Returns how many steps of its clock the node has counted.
async fn steps(node: &Node) -> Option<u64> {
    let answer = reqwest::get(format!("{}/metrics", node.admin)).await;
    let text = answer.expect("the node answers").text().await.expect("it is text");
    let count = text.lines().find_map(|line| line.strip_prefix("coupond_clock_steps_total "));
    count?.parse().ok()
}

async fn define(node: &Node, campaign: &str, window: serde_json::Value) {
    let mut body = json!({ "quota": 100 });
    body.as_object_mut().expect("an object").extend(window.as_object().expect("one").clone());
    let (status, body) = node.admin("PUT", &format!("/admin/campaigns/{campaign}"), body).await;
    assert_eq!(status, 201, "{body}");
}

async fn a_clock_that_is_set_times_no_record(faked: Faked) {
    let node = faked.start().await;
    define(&node, "closing", json!({ "closes_at": in_hours(24) })).await;
    define(&node, "opening", json!({ "opens_at": in_hours(48) })).await;
    assert_eq!(node.issue("closing", "ada").await.1["status"], "issued");

    faked.set_clock("+400d");
    for (campaign, key) in [("closing", None), ("closing", Some("k")), ("opening", Some("k"))] {
        let (status, body) = node.try_issue(campaign, "ben", key).await.expect("it answers");
        // By its own clock the node may say that a campaign is over. It decides nothing by it.
        assert!([409, 503].contains(&status), "{campaign} {key:?}: {body}");
        assert!(key.is_none() || body["type"] == "/problems/unavailable", "{body}");
    }
    let told = until("the node is not ready", || async {
        let (status, body) = node.readiness().await;
        (status == 503).then_some(body)
    })
    .await;
    assert!(told.to_string().contains("the clock was set"), "{told}");
    assert_eq!(steps(&node).await, Some(1));

    faked.set_clock("+0");
    node.is_ready().await;
    assert_eq!(node.issue("closing", "ben").await.1["status"], "issued");
    let (_, early) = node.try_issue("opening", "ben", Some("k")).await.expect("it answers");
    assert_eq!(early["reason"], "not_open_yet", "{early}");
    assert_eq!(node.stop().await, Some(0));
}

async fn a_start_with_an_earlier_clock_waits(faked: Faked) {
    faked.set_clock("+3d");
    let node = faked.start().await;
    define(&node, "sale", json!({ "opens_at": in_hours(73) })).await;
    let (_, early) = node.try_issue("sale", "ada", Some("k")).await.expect("it answers");
    assert_eq!(early["reason"], "not_open_yet", "{early}");
    assert_eq!(node.stop().await, Some(0));

    faked.set_clock("+0");
    // Ready once the clock has stood: it is behind the last record.
    let node = faked.start().await;
    assert_eq!(steps(&node).await, Some(1));
    define(&node, "tomorrow", json!({ "opens_at": in_hours(24), "closes_at": in_hours(240) }))
        .await;
    let (_, early) = node.try_issue("tomorrow", "ada", Some("k")).await.expect("it answers");
    assert_eq!(early["reason"], "not_open_yet", "{early}");
    assert_eq!(node.stop().await, Some(0));
}
