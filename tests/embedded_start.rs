//! Data folders and disks at the start of an embedded node. A refused start names the reason and
//! changes no file. A node also starts on a full disk.

mod quiet;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use coupond::{
    audit::Meter,
    config::Config,
    node::{self, Node},
};
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use quiet::config;

/// Runs a node that issues one coupon. Returns its settings.
async fn used(folder: &Path) -> Config {
    let config = config(folder);
    let node = Node::start(&config).await.expect("it starts");
    let client = reqwest::Client::new();
    let url = format!("http://{}/admin/campaigns/spring", node.admin);
    let defined = client.put(url).bearer_auth(&node.admin_token).json(&json!({ "quota": 3 }));
    assert_eq!(defined.send().await.expect("the node answers").status(), 201);
    let url = format!("http://{}/coupon/issue", node.api);
    let asked = client.post(url).header("prefer", "wait=20");
    let asked = asked.json(&json!({ "campaign_id": "spring", "user_id": "ada" }));
    let answer: Value = asked.send().await.expect("the node answers").json().await.expect("JSON");
    assert_eq!(answer["status"], "issued", "{answer}");
    node.stop().await;
    config
}

/// Returns the files below `folder` with their content, without those of the database, because
/// opening the database changes them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = all_files(folder);
    found.retain(|path, _| !path.iter().any(|name| name == "database"));
    found
}

/// Returns all files below `folder` with their content.
fn all_files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(all_files(&path));
        } else {
            let bytes = std::fs::read(&path).expect("it is read");
            found.insert(path, bytes);
        }
    }
    found
}

/// Returns the files that differ from `before`.
fn changed(folder: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<PathBuf> {
    let now = files(folder);
    let paths: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let changed = paths.into_iter().filter(|path| before.get(*path) != now.get(*path));
    changed.cloned().collect()
}

/// Starts a node, and returns the number of coupons that it shows.
async fn issued(config: &Config) -> u64 {
    let node = Node::start(config).await.expect("it starts");
    let url = format!("http://{}/campaigns/spring", node.api);
    let view: Value = reqwest::get(url).await.expect("an answer").json().await.expect("JSON");
    node.stop().await;
    view["issued"].as_u64().expect("a number")
}

/// Starts a node that is refused. Returns its exit code and message.
async fn refused(config: &Config) -> (u8, String) {
    match Node::start(config).await {
        Err(error) => (error.exit_code(), error.to_string()),
        Ok(_) => panic!("the node started"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_partition_count_is_no_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = used(folder.path()).await;
    let before = files(folder.path());
    for partitions in [1, 2, 8] {
        config.embedded.partitions = partitions;
        let message = format!(
            "embedded.partitions is {partitions}, but the data folder has 4; set embedded.partitions \
             to 4"
        );
        assert_eq!(refused(&config).await, (2, message.clone()));
        let audit = node::audit(&config, None, Arc::new(Meter::default())).await;
        let error = audit.expect_err("it is not audited");
        assert_eq!((error.exit_code(), error.to_string()), (2, message));
        assert_eq!(changed(folder.path(), &before), Vec::<PathBuf>::new());
    }
    config.embedded.partitions = 4;
    assert_eq!(issued(&config).await, 1);
}

/// Checks that a node and an audit refuse the folder for its format, and that no file in it
/// changes.
async fn refused_for_its_format(config: &Config, found: &str) {
    let before = all_files(&config.embedded.dir);
    let message = format!(
        "data folder {} has {found}; set embedded.dir to a new folder, or start the version that \
         made this one; README \"Moving between formats\" says what can be taken along",
        config.embedded.dir.display()
    );
    assert_eq!(refused(config).await, (2, message.clone()));
    let audit = node::audit(config, None, Arc::new(Meter::default())).await;
    let error = audit.expect_err("it is not audited");
    assert_eq!((error.exit_code(), error.to_string()), (2, message));
    assert!(all_files(&config.embedded.dir) == before, "a file changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_format_1_is_refused_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = used(folder.path()).await;
    let dir = &config.embedded.dir;
    let found = "format 1, this version of coupond reads and writes only format 6";
    // Format 1 had no format file, and its high-water file had another name.
    std::fs::remove_file(dir.join("format")).expect("it is removed");
    std::fs::rename(dir.join("high_water"), dir.join("witness")).expect("it is renamed");
    refused_for_its_format(&config, found).await;

    // A damaged journal is not repaired, and no lock or admin token is created.
    let journal = dir.join("database/0.jnl");
    let bytes = std::fs::read(&journal).expect("it is read");
    std::fs::write(&journal, &bytes[..bytes.len() / 2]).expect("it is written");
    for made in ["lock", "admin.token"] {
        std::fs::remove_file(dir.join(made)).expect("it is removed");
    }
    refused_for_its_format(&config, found).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_another_format_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = used(folder.path()).await;
    let file = config.embedded.dir.join("format");
    let ours = std::fs::read_to_string(&file).expect("it is read");
    std::fs::write(&file, ours.replace("format = 6", "format = 7")).expect("it is written");
    let found = "format 7, this version of coupond reads and writes only format 6";
    refused_for_its_format(&config, found).await;
    std::fs::write(&file, ours).expect("it is written");
    assert_eq!(issued(&config).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_file_that_is_too_short_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let file = config.embedded.dir.join("secret.key");
    std::fs::create_dir(&config.embedded.dir).expect("it is made");
    for content in ["", "hush\n", "31 bytes, which is one too few."] {
        std::fs::write(&file, content).expect("it is written");
        let (code, message) = refused(&config).await;
        let what = format!(
            "{} is {} bytes long, must be text of at least 32 bytes; restore",
            file.display(),
            content.trim().len()
        );
        assert!(code == 2 && message.starts_with(&what), "{code} {message}");
        assert_eq!(std::fs::read_to_string(&file).expect("it is read"), content);
    }
    std::fs::remove_file(&file).expect("it is removed");
    Node::start(&config).await.expect("no data depends on the old secret").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_secret_is_not_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = used(folder.path()).await;
    let file = config.embedded.dir.join("secret.key");
    let secret = std::fs::read_to_string(&file).expect("it was kept");
    std::fs::remove_file(&file).expect("it is removed");
    let message = format!(
        "{} is missing, and the instance was created with it; restore the file, or set \
         secret.key to its content",
        file.display()
    );
    for _ in 0..2 {
        assert_eq!(refused(&config).await, (2, message.clone()));
        assert!(!file.exists(), "a new secret was made");
    }
    config.secret.key = Some(secret.trim().into());
    assert_eq!(issued(&config).await, 1);
    config.secret.key = None;
    std::fs::write(&file, secret).expect("it is written");
    assert_eq!(issued(&config).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_data_folder_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    std::fs::write(&config.embedded.dir, "a file").expect("it is written");
    for token in [None, Some("a-token".into())] {
        config.admin.token = token;
        assert_eq!(refused(&config).await, (1, "opening the data folder".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_admin_token_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path());
    let file = config.embedded.dir.join("admin.token");
    std::fs::create_dir(&config.embedded.dir).expect("it is made");
    std::fs::write(&file, "\n").expect("it is written");
    let message = format!(
        "{} is 0 bytes long, must be text of at least 1 bytes; write a token into the file, or \
         remove it so that a new one is generated",
        file.display()
    );
    assert_eq!(refused(&config).await, (2, message));
    std::fs::remove_file(&file).expect("it is removed");
    Node::start(&config).await.expect("it makes another").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_makes_a_node_unready() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path());
    config.embedded.reserve_bytes = 1 << 60;
    let node = Node::start(&config).await.expect("it starts");
    let health = format!("http://{}/health/ready", node.admin);
    let mut ready = Value::Null;
    for _ in 0..500 {
        let answer = reqwest::get(&health).await.expect("the node answers");
        assert_eq!(answer.status(), 503);
        ready = answer.json().await.expect("JSON");
        // Other components may still be starting.
        if ready["detail"] == "not ready: request_log" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = ready["not_ready"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("low disk space: "), "{ready}");

    let url = format!("http://{}/admin/campaigns/spring", node.admin);
    let defined = reqwest::Client::new().put(url).bearer_auth(&node.admin_token);
    let answer = defined.json(&json!({ "quota": 3 })).send().await.expect("the node answers");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &HeaderValue::from(5))
    );
    let problem: Value = answer.json().await.expect("JSON");
    let message =
        "temporarily unavailable: free space of the data folder is below embedded.reserve_bytes";
    assert_eq!(
        (&problem["type"], &problem["detail"]),
        (&json!("/problems/unavailable"), &json!(message))
    );
    node.stop().await;
}
