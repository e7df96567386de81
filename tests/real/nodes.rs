//! Several nodes on one Kafka and one CQL database.

use coupond::config::KafkaConfig;
use libtest_mimic::Trial;
use scylla::{
    client::session_builder::SessionBuilder,
    value::{CqlValue, Row},
};
use serde_json::json;

use crate::{
    engines::{Engine, shared, unique},
    instance::{define, settings},
    kafka::{on, topics},
    procs::{Crowd, Node, until},
    skips, trials,
};

const BOTH: &[Engine] = &[Engine::Kafka, Engine::Cql];

pub(crate) fn trials() -> Vec<Trial> {
    trials!(BOTH;
        every_node_answers_for_every_request,
        a_killed_node_is_replaced_without_loss,
        a_node_with_another_secret_is_refused,
        a_topic_of_another_instance_is_refused,
        a_deleted_row_holds_its_campaign,
        a_log_that_cannot_be_read_is_said_to_be,
    )
}

/// Returns the settings of an instance that no other test uses.
fn instance() -> Vec<String> {
    settings(&unique("nodes"), endpoints(Engine::Kafka), endpoints(Engine::Cql))
}

fn endpoints(engine: Engine) -> &'static [String] {
    shared(engine).expect("the trial asked for it")
}

async fn every_node_answers_for_every_request() {
    let settings = instance();
    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    let campaigns = ["spring", "summer", "autumn", "winter", "eve"];
    for campaign in campaigns {
        define(&one, campaign, 3).await;
    }
    for campaign in campaigns {
        for user in 0..5 {
            let (asked, polled) = if user % 2 == 0 { (&one, &other) } else { (&other, &one) };
            let user = format!("user-{user}");
            let (status, answer) = asked.issue(campaign, &user).await;
            if status == 409 {
                continue; // The edge refused the request: the campaign is sold out.
            }
            assert_eq!(status, 200, "{answer}");
            let id = answer["request_id"].as_str().expect("an id");
            let (status, again) = polled.get(&format!("/coupon/requests/{id}?wait=10")).await;
            assert_eq!((status, &again), (200, &answer));
        }
        for node in [&one, &other] {
            until("the view has caught up", || async {
                let (_, view) = node.get(&format!("/campaigns/{campaign}")).await;
                (view["issued"] == 3 && view["remaining"] == 0).then_some(())
            })
            .await;
        }
    }
    assert_eq!(one.stop().await, Some(0));
}

async fn a_killed_node_is_replaced_without_loss() {
    let settings = instance();
    let one = Node::start(&settings).await;
    let other = Node::start(&settings).await;
    define(&one, "spring", 300).await;
    let crowd = Crowd::new("spring", &[&one, &other]);
    let requests = tokio::spawn(crowd.clone().press(500));
    until("some are answered", || async { (crowd.answered() >= 100).then_some(()) }).await;
    one.kill();
    crowd.use_nodes(&[&other]);
    until("the other goes on", || async { (crowd.answered() >= 250).then_some(()) }).await;
    let back = Node::start(&settings).await;
    crowd.use_nodes(&[&back, &other]);
    requests.await.expect("the crowd ends well");
    crowd.check(&back, 300).await;
    crowd.check(&other, 300).await;
}

async fn a_node_with_another_secret_is_refused() {
    let mut settings = instance();
    let first = Node::start(&settings).await;
    assert_eq!(first.stop().await, Some(0));
    settings.push(format!("secret.key={}", "another-secret-of-thirty-two-bytes"));
    let error = refused(settings).await;
    assert!(error.contains("secret.key"), "{error}");
}

async fn a_topic_of_another_instance_is_refused() {
    let name = unique("used");
    let settings = settings(&name, endpoints(Engine::Kafka), endpoints(Engine::Cql));
    let first = Node::start(&settings).await;
    define(&first, "spring", 3).await;
    assert_eq!(first.stop().await, Some(0));
    let keyspace = format!("cql.keyspace={name}_new");
    let error = refused([settings.as_slice(), &[keyspace]].concat()).await;
    let what = format!("topic {name}.request belongs to another instance: its record at partition");
    assert!(error.contains(&what), "{error}");
    assert!(error.contains("set kafka.topic_prefix to a new name, or cql.keyspace"), "{error}");
    // The instance still starts on its own keyspace.
    let again = Node::start(&settings).await;
    assert_eq!(again.issue("spring", "ada").await.0, 200);
}

/// Starts a node that ends with exit code 2. Returns what it wrote to standard error.
async fn refused(settings: Vec<String>) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coupond"));
    for setting in &settings {
        command.args(["--set", setting]);
    }
    command.args(["--set", "api.listen=127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
    command.args(["--set", "api.drain=0s"]);
    command.current_dir(std::env::temp_dir());
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("it ends").expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    error
}

/// A CQL `DELETE` hides a row even after the row is written again, because the new write has the
/// earlier time of the record.
async fn a_deleted_row_holds_its_campaign() {
    let name = unique("deleted");
    let nodes = endpoints(Engine::Cql);
    let settings = settings(&name, endpoints(Engine::Kafka), nodes);
    let node = Node::start(&settings).await;
    define(&node, "spring", 9).await;
    let mut answers = Vec::new();
    for user in ["ada", "bob", "cid"] {
        let (status, answer) = node.issue("spring", user).await;
        assert_eq!((status, &answer["status"]), (200, &json!("issued")), "{answer}");
        answers.push(answer);
    }
    assert_eq!(node.stop().await, Some(0));
    let database = SessionBuilder::new().known_nodes(nodes).use_keyspace(name, false);
    let database = database.build().await.expect("a session");
    let query = async |text: String, values: Vec<Option<CqlValue>>| {
        database.query_unpaged(text, values).await.expect("the query succeeds")
    };
    let row = "campaign_id = 'spring' AND bucket = 0 AND sequence = 2";
    let cells = "sequence, user_id, code, issued_at, log_epoch, partition, offset, user_bucket, \
                 rules_version, digest";
    let kept = query(format!("SELECT {cells} FROM coupons WHERE {row}"), Vec::new()).await;
    let kept = kept.into_rows_result().expect("rows").first_row::<Row>().expect("a row");
    query(format!("DELETE FROM coupons WHERE {row}"), Vec::new()).await;

    let node = Node::start(&settings).await;
    // A request makes the node load the campaign.
    let body = json!({ "campaign_id": "spring", "user_id": "dan" });
    let asked = reqwest::Client::new().post(format!("{}/coupon/issue", node.api)).json(&body);
    assert_eq!(asked.send().await.expect("the node answers").status(), 202);
    let held = async |why: &str| {
        until(why, || async {
            let (_, view) = node.admin("GET", "/admin/campaigns/spring", json!(null)).await;
            let is_held = view["state"] == "quarantined";
            (is_held && view.to_string().contains(why)).then_some(())
        })
        .await;
    };
    held("coupon 3 follows coupon 1").await;
    let release = async || node.admin("POST", "/admin/campaigns/spring/release", json!(null)).await;
    release().await;
    held("coupon 2 was written but cannot be read back").await;

    let marks = ["?"; 10].join(", ");
    let insert =
        format!("INSERT INTO coupons (campaign_id, bucket, {cells}) VALUES ('spring', 0, {marks})");
    query(insert, kept.columns).await;
    release().await;
    until("the campaign goes on", || async {
        let (status, _) = node.issue("spring", "eve").await;
        (status == 200).then_some(())
    })
    .await;
    for answer in answers {
        let id = answer["request_id"].as_str().expect("an id");
        let (status, again) = node.get(&format!("/coupon/requests/{id}?wait=10")).await;
        assert_eq!((status, again), (200, answer));
    }
    assert_eq!(node.stop().await, Some(0));
}

/// One record that nobody can unpack, then no topic at all.
async fn a_log_that_cannot_be_read_is_said_to_be() {
    let (name, brokers) = (unique("unread"), endpoints(Engine::Kafka));
    let node = Node::start(&settings(&name, brokers, endpoints(Engine::Cql))).await;
    // Two campaigns in two partitions.
    for campaign in ["spring", "eve"] {
        define(&node, campaign, 9).await;
        assert_eq!(node.issue(campaign, "ada").await.0, 200);
    }
    let config = KafkaConfig { topic_prefix: name, ..on(brokers, 4) };
    topics::set(&config, "compression.type", "producer").await;
    skips::bomb(&config, "spring");

    let halted = async |campaign: &str, reason: &str| {
        until(reason, || async {
            let body = json!({ "campaign_id": campaign, "user_id": "bob" });
            let url = format!("{}/coupon/issue", node.api);
            let answer = reqwest::Client::new().post(url).json(&body).send().await.ok()?;
            let (status, text) = (answer.status().as_u16(), answer.text().await.ok()?);
            (status == 503 && text.contains("/halted") && text.contains(reason)).then_some(())
        })
        .await;
    };
    halted("spring", "unreadable: the log cannot be read at").await;
    assert_eq!(node.issue("eve", "bob").await.0, 200, "one partition is not another");
    let ready = reqwest::get(format!("{}/health/ready", node.admin)).await.expect("an answer");
    let (status, text) = (ready.status().as_u16(), ready.text().await.expect("a text"));
    assert!(status == 200 && text.contains("is halted: unreadable"), "{status} {text}");
    let metrics = reqwest::get(format!("{}/metrics", node.admin)).await.expect("an answer");
    let metrics = metrics.text().await.expect("a text");
    let is_counted = |line: &str| line.contains(r#"reason="unreadable""#) && line.ends_with(" 1");
    let lines = metrics.lines().filter(|line| line.starts_with("coupond_partition_halted{"));
    assert_eq!(lines.filter(|line| is_counted(line)).count(), 1, "{metrics}");

    topics::delete(&config, "request").await;
    halted("eve", "topic_missing: ").await;
    assert_eq!(node.stop().await, Some(0));
}
