//! Instances of several nodes on one Kafka and one CQL database.

use serde_json::json;

use crate::procs::{Node, until};

/// Returns the settings of an instance of this name on these engines.
pub(crate) fn settings(name: &str, brokers: &[String], database: &[String]) -> Vec<String> {
    let list = |endpoints: &[String]| {
        let quoted: Vec<_> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
        format!("[{}]", quoted.join(","))
    };
    vec![
        "mode=distributed".to_owned(),
        format!("kafka.brokers={}", list(brokers)),
        format!("kafka.topic_prefix={name}"),
        format!("kafka.group={name}"),
        "kafka.partitions=4".to_owned(),
        format!("cql.nodes={}", list(database)),
        format!("cql.keyspace={name}"),
    ]
}

pub(crate) async fn define(node: &Node, campaign: &str, quota: usize) {
    let path = format!("/admin/campaigns/{campaign}");
    // A partition that is being taken over does not answer yet.
    until("the campaign is defined", || async {
        let (status, _) = node.admin("PUT", &path, json!({ "quota": quota })).await;
        matches!(status, 200 | 201).then_some(())
    })
    .await;
}

/// Returns the value of a metric of a node, added up over its labels; 0 if there is none.
pub(crate) async fn metric(node: &Node, name: &str) -> f64 {
    let Ok(answer) = reqwest::get(format!("{}/metrics", node.admin)).await else { return 0.0 };
    let text = answer.text().await.unwrap_or_default();
    let of_name = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    of_name.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
