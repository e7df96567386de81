//! Problems of topics and their texts.

use super::*;

fn facts(purpose: Purpose, replication: u32, changes: &[(&str, &str)]) -> TopicFacts {
    let mut settings: HashMap<_, _> = purpose
        .settings(replication)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    settings.insert("max.message.bytes".to_owned(), "1048588".to_owned());
    for (name, value) in changes {
        settings.insert((*name).to_owned(), (*value).to_owned());
    }
    TopicFacts { topic: "t".to_owned(), replicas: vec![replication; 12], settings }
}

/// Names of the settings that are refused, and how many warnings there are.
fn check(facts: &TopicFacts, purpose: Purpose, partitions: u32) -> (Vec<String>, usize) {
    let mut findings = TopicFindings::default();
    let because = "as in the instance's layout";
    facts.check(purpose, Needed { partitions, because }, &mut findings);
    let names = findings.problems.iter().map(|problem| problem.setting.clone()).collect();
    (names, findings.warnings.len())
}

#[test]
fn what_coupond_creates_it_accepts() {
    for purpose in [Purpose::Request, Purpose::Result, Purpose::DeadLetter] {
        for (replication, warnings) in [(1, 1), (2, 1), (3, 0), (5, 0)] {
            let (problems, warned) = check(&facts(purpose, replication, &[]), purpose, 12);
            assert_eq!(problems, Vec::<String>::new(), "{purpose:?} RF {replication}");
            let expected = if purpose == Purpose::Request { warnings } else { 0 };
            assert_eq!(warned, expected, "{purpose:?} RF {replication}");
        }
    }
}

#[test]
fn every_problem_is_told_at_once() {
    let wrong = [
        ("message.timestamp.type", "CreateTime"),
        ("cleanup.policy", "compact,delete"),
        ("retention.ms", "604799999"),
        ("retention.bytes", "1000000000"),
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "4"),
        ("max.message.bytes", "1000"),
    ];
    let (mut problems, _) = check(&facts(Purpose::Request, 3, &wrong), Purpose::Request, 13);
    let mut expected: Vec<_> = wrong.iter().map(|(name, _)| format!("t: {name}")).collect();
    expected.push("t: partitions".to_owned());
    expected.sort();
    problems.sort();
    assert_eq!(problems, expected);
}

#[test]
fn seven_days_and_more_partitions_fit() {
    let kept = facts(Purpose::Request, 3, &[("retention.ms", "604800000")]);
    assert_eq!(check(&kept, Purpose::Request, 4), (Vec::new(), 1));
}

#[test]
fn an_unreplicated_topic_causes_a_warning() {
    for in_sync in ["1", "3"] {
        let found = facts(Purpose::Request, 3, &[("min.insync.replicas", in_sync)]);
        assert_eq!(check(&found, Purpose::Request, 12), (Vec::new(), 1), "{in_sync}");
    }
}
