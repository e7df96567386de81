//! What coupond needs of its topics, and what is wrong with those that it finds.

use std::{collections::HashMap, fmt, time::Duration};

use crate::kafka::client;

/// Shortest retention of requests: the longest outage after which a partition must still be able to
/// continue from its progress. Also the least `kafka.retention`.
const RETENTION_MIN: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Retention of the result topic. Nodes read only new messages; a day is for people who debug.
const RESULT_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// Replicas wanted: with three, two can acknowledge while the third is down.
const REPLICATION_WANTED: u32 = 3;

/// Least `max.message.bytes`: twice the largest batch or dead letter that coupond sends.
const MESSAGE_BYTES_MIN: u64 = 512 * 1_024;

/// Greatest `max.message.bytes`: a reader takes no larger batch.
const MESSAGE_BYTES_MAX: u64 = client::BATCH_BYTES_MAX as u64;

/// `max.message.bytes` of new topics, Kafka's default. Brokers may have another one.
const MESSAGE_BYTES: u64 = 1_024 * 1_024;

/// A problem of a topic that prevents a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProblem {
    /// Topic and setting.
    pub setting: String,
    /// Value found.
    pub found: String,
    /// Value needed, as a phrase that follows "must be".
    pub needed: String,
    /// How to change it.
    pub remedy: String,
}

impl fmt::Display for TopicProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setting, found, needed, remedy } = self;
        write!(f, "{setting} is {found}; it must be {needed}: {remedy}")
    }
}

/// A needed number of partitions, and the reason for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needed {
    pub(super) partitions: u32,
    because: &'static str,
}

impl Needed {
    /// Returns what the request topic needs: the layout's partitions or, without a layout, the
    /// configured ones.
    pub(super) fn of_requests(layout: Option<u32>, configured: u32) -> Self {
        match layout {
            Some(partitions) => Self { partitions, because: "as in the instance's layout" },
            None => Self { partitions: configured, because: "as kafka.partitions says" },
        }
    }

    /// Returns over how many partitions campaigns are routed, when the request topic has `found`.
    /// Without a layout these are all partitions of the topic.
    pub(super) fn routed(self, layout: Option<u32>, found: u32) -> Self {
        match layout {
            Some(_) => self,
            None => Self { partitions: self.partitions.max(found), ..self },
        }
    }

    /// Returns what the topic of dead letters needs.
    pub(super) fn of_dead_letters() -> Self {
        Self { partitions: 1, because: "for the dead letters" }
    }
}

/// Returns the number of replicas of a new topic.
///
/// # Errors
/// The configured number is above that of the brokers.
pub(super) fn replication(configured: u32, brokers: u32) -> Result<u32, TopicProblem> {
    match configured {
        0 => Ok(brokers.clamp(1, REPLICATION_WANTED)),
        configured if configured <= brokers => Ok(configured),
        configured => Err(TopicProblem {
            setting: "kafka.replication_factor".to_owned(),
            found: configured.to_string(),
            needed: format!("at most {brokers}, the number of brokers"),
            remedy: "lower it, set it to 0 for min(3, brokers), or start more brokers".to_owned(),
        }),
    }
}

/// The purpose of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    Result,
    DeadLetter,
}

impl Purpose {
    /// Returns the settings for a new topic. Requests and dead letters are kept for `kept`.
    pub(super) fn settings(self, replication: u32, kept: Duration) -> Vec<(&'static str, String)> {
        // All replicas minus one, so that one broker may be down; with fewer than three replicas a
        // second one in sync would make every outage stop appends.
        let in_sync = if replication >= REPLICATION_WANTED { 2 } else { 1 };
        let retention = match self {
            Self::Request | Self::DeadLetter => client::millis(kept),
            Self::Result => client::millis(RESULT_RETENTION),
        };
        let compression = match self {
            // Stored batches are readable by every build, and no small one is unpacked to a large one.
            Self::Request => UNCOMPRESSED,
            Self::Result | Self::DeadLetter => "producer",
        };
        vec![
            ("cleanup.policy", "delete".to_owned()),
            ("compression.type", compression.to_owned()),
            ("max.message.bytes", MESSAGE_BYTES.to_string()),
            ("retention.ms", retention),
            ("retention.bytes", "-1".to_owned()),
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
            ("min.insync.replicas", in_sync.to_string()),
        ]
    }
}

/// `compression.type` of the request topic.
const UNCOMPRESSED: &str = "uncompressed";

/// Problems and warnings of all topics.
#[derive(Debug, Default)]
pub(super) struct TopicFindings {
    pub(super) problems: Vec<TopicProblem>,
    pub(super) warnings: Vec<String>,
}

/// The checked properties of a topic.
#[derive(Debug, Clone)]
pub(super) struct TopicFacts {
    pub(super) topic: String,
    /// Replicas of each partition.
    pub(super) replicas: Vec<u32>,
    pub(super) settings: HashMap<String, String>,
}

impl TopicFacts {
    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.replicas.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn replication(&self) -> u32 {
        self.replicas.iter().copied().min().unwrap_or(0)
    }

    /// Adds what is wrong with the topic to `findings`. `kept` is `kafka.retention`.
    pub(super) fn check(
        &self,
        purpose: Purpose,
        needed: Needed,
        kept: Duration,
        findings: &mut TopicFindings,
    ) {
        self.check_partitions(purpose, needed, findings);
        self.setting(findings, "cleanup.policy", "delete", "delete", |value| value == "delete");
        let needed = format!("between {MESSAGE_BYTES_MIN} and {MESSAGE_BYTES_MAX}");
        self.setting(findings, "max.message.bytes", &needed, &MESSAGE_BYTES.to_string(), |v| {
            v.parse().is_ok_and(|bytes| (MESSAGE_BYTES_MIN..=MESSAGE_BYTES_MAX).contains(&bytes))
        });
        if purpose == Purpose::Request {
            self.check_durability(kept, findings);
            self.check_kept(kept, findings);
            self.check_compression(findings);
        }
        self.check_replication(purpose, findings);
    }

    fn check_partitions(&self, purpose: Purpose, needed: Needed, findings: &mut TopicFindings) {
        let (topic, found) = (&self.topic, self.partitions());
        let Needed { partitions: needed, because } = needed;
        if found < needed {
            findings.problems.push(TopicProblem {
                setting: format!("{topic}: partitions"),
                found: found.to_string(),
                needed: format!("at least {needed}, {because}"),
                remedy: format!("kafka-topics.sh --alter --topic {topic} --partitions {needed}"),
            });
        } else if found > needed && purpose == Purpose::Request {
            findings.warnings.push(format!(
                "{topic} has {found} partitions, but campaigns are routed over {needed}: records \
                 that another producer spreads over all of them become dead letters"
            ));
        }
    }

    /// Returns how long the topic keeps records. None: for ever.
    pub(super) fn retention(&self) -> Option<Duration> {
        let kept = self.settings.get("retention.ms")?.parse().ok()?;
        Some(Duration::from_millis(kept))
    }

    fn check_durability(&self, kept: Duration, findings: &mut TopicFindings) {
        let time = "message.timestamp.type";
        self.setting(findings, time, "LogAppendTime", "LogAppendTime", |value| {
            value == "LogAppendTime"
        });
        let needed = format!("-1 or at least {} (7 days)", client::millis(RETENTION_MIN));
        self.setting(findings, "retention.ms", &needed, &client::millis(kept), is_kept_long_enough);
        self.setting(findings, "retention.bytes", "-1", "-1", |value| value == "-1");
        let unclean = "unclean.leader.election.enable";
        self.setting(findings, unclean, "false", "false", |value| value == "false");
    }

    /// Warns of a retention that is not the configured one: a shorter one leaves less time to end an
    /// outage, and with a longer one the topic grows beyond what was planned. No command shortens one: it
    /// may have been lengthened to save what is not decided.
    fn check_kept(&self, kept: Duration, findings: &mut TopicFindings) {
        let (topic, name) = (&self.topic, "retention.ms");
        let Some(found) = self.settings.get(name).filter(|value| is_kept_long_enough(value)) else {
            // Refused.
            return;
        };
        let wanted = client::millis(kept);
        if *found == wanted {
            return;
        }
        let is_shorter = found.parse().is_ok_and(|found: u128| found < kept.as_millis());
        let shown = if found == "-1" { "-1 (without end)" } else { found.as_str() };
        let remedy = match is_shorter {
            true => format!(
                "set kafka.retention to it, or kafka-configs.sh --alter --entity-type topics \
                 --entity-name {topic} --add-config {name}={wanted}"
            ),
            false => "set kafka.retention to what is meant. A shorter retention of the topic deletes \
                      older records at once, decided or not: shorten it only while GET /health/ready \
                      of every node shows nothing under degraded"
                .to_owned(),
        };
        findings.warnings.push(format!(
            "{topic}: {name} is {shown}, and kafka.retention is {wanted} ms: {remedy}"
        ));
    }

    fn check_compression(&self, findings: &mut TopicFindings) {
        let (topic, name) = (&self.topic, "compression.type");
        let found = self.settings.get(name).map_or("missing", String::as_str);
        if found != UNCOMPRESSED {
            findings.warnings.push(format!(
                "{topic}: {name} is {found}; it should be {UNCOMPRESSED}, because a writer of the \
                 topic can have each node unpack a batch to a thousand times its size, or halt a \
                 partition with one that no node unpacks: kafka-configs.sh --alter --entity-type \
                 topics --entity-name {topic} --add-config {name}={UNCOMPRESSED}"
            ));
        }
    }

    fn check_replication(&self, purpose: Purpose, findings: &mut TopicFindings) {
        let (topic, replication) = (&self.topic, self.replication());
        let name = "min.insync.replicas";
        let needed = format!("at most {replication}, the replicas that there are");
        self.setting(findings, name, &needed, &replication.to_string(), |value| {
            value.parse().is_ok_and(|in_sync: u32| in_sync <= replication)
        });
        let in_sync = self.settings.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        if purpose != Purpose::Request || in_sync > replication {
            return;
        }
        if replication == 1 {
            findings.warnings.push(format!(
                "{topic} has one replica: the loss of that broker's disk loses requests"
            ));
        } else if in_sync == replication {
            findings.warnings.push(format!(
                "{topic} wants all of its {replication} replicas in sync: while one broker is \
                 away, nothing is taken"
            ));
        } else if in_sync == 1 {
            findings.warnings.push(format!(
                "{topic} takes a request with one replica in sync: the loss of that one disk \
                 then loses it; set {name} to 2"
            ));
        } else if replication < REPLICATION_WANTED {
            findings.warnings.push(format!("{topic} has {replication} replicas, fewer than 3"));
        }
    }

    fn setting(
        &self,
        findings: &mut TopicFindings,
        name: &str,
        needed: &str,
        remedy: &str,
        fits: impl Fn(&str) -> bool,
    ) {
        let topic = &self.topic;
        let found = self.settings.get(name);
        if found.is_some_and(|value| fits(value)) {
            return;
        }
        findings.problems.push(TopicProblem {
            setting: format!("{topic}: {name}"),
            found: found.cloned().unwrap_or_else(|| "missing in the broker's answer".to_owned()),
            needed: needed.to_owned(),
            remedy: format!(
                "kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
                 --add-config {name}={remedy}"
            ),
        });
    }
}

/// Returns whether requests may have this `retention.ms`.
fn is_kept_long_enough(value: &str) -> bool {
    let parsed: Option<i128> = value.parse().ok();
    parsed.is_some_and(|kept| {
        kept == -1 || u128::try_from(kept).is_ok_and(|ms| ms >= RETENTION_MIN.as_millis())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = RETENTION_MIN;

    fn facts(purpose: Purpose, replication: u32, changes: &[(&str, &str)]) -> TopicFacts {
        let mut settings: HashMap<_, _> = purpose
            .settings(replication, KEPT)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        for (name, value) in changes {
            settings.insert((*name).to_owned(), (*value).to_owned());
        }
        TopicFacts { topic: "t".to_owned(), replicas: vec![replication; 12], settings }
    }

    /// Names of the settings that are refused, and how many warnings there are.
    fn check(facts: &TopicFacts, purpose: Purpose, partitions: u32) -> (Vec<String>, usize) {
        let mut findings = TopicFindings::default();
        let because = "as in the instance's layout";
        facts.check(purpose, Needed { partitions, because }, KEPT, &mut findings);
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
    fn batches_that_no_reader_takes_are_refused() {
        let large = (MESSAGE_BYTES_MAX + 1).to_string();
        let found = facts(Purpose::Request, 3, &[("max.message.bytes", &large)]);
        let problems = vec!["t: max.message.bytes".to_owned()];
        assert_eq!(check(&found, Purpose::Request, 12), (problems, 0));
    }

    #[test]
    fn compressed_requests_cause_a_warning() {
        for codec in ["producer", "gzip", "zstd"] {
            let found = facts(Purpose::Request, 3, &[("compression.type", codec)]);
            assert_eq!(check(&found, Purpose::Request, 12), (Vec::new(), 1), "{codec}");
        }
        let found = facts(Purpose::DeadLetter, 3, &[("compression.type", "zstd")]);
        assert_eq!(check(&found, Purpose::DeadLetter, 12), (Vec::new(), 0));
    }

    #[test]
    fn more_partitions_fit() {
        assert_eq!(check(&facts(Purpose::Request, 3, &[]), Purpose::Request, 4), (Vec::new(), 1));
    }

    #[test]
    fn another_retention_than_the_setting_causes_a_warning() {
        for kept in ["-1", "604800001", "99999999999999"] {
            let found = facts(Purpose::Request, 3, &[("retention.ms", kept)]);
            assert_eq!(check(&found, Purpose::Request, 12), (Vec::new(), 1), "{kept}");
        }
        for kept in ["604799999", "-2", "0", "week"] {
            let found = facts(Purpose::Request, 3, &[("retention.ms", kept)]);
            let refused = vec!["t: retention.ms".to_owned()];
            assert_eq!(check(&found, Purpose::Request, 12), (refused, 0), "{kept}");
        }
        let letters = facts(Purpose::DeadLetter, 3, &[("retention.ms", "1")]);
        assert_eq!(check(&letters, Purpose::DeadLetter, 1), (Vec::new(), 0));
    }

    #[test]
    fn new_topics_keep_records_for_as_long_as_set() {
        let kept = |purpose: Purpose| {
            let settings = purpose.settings(3, KEPT * 2);
            settings.into_iter().find(|(name, _)| *name == "retention.ms").unwrap().1
        };
        assert_eq!(kept(Purpose::Request), "1209600000");
        assert_eq!(kept(Purpose::DeadLetter), "1209600000");
        assert_eq!(kept(Purpose::Result), "86400000", "nodes read only new messages");
    }

    #[test]
    fn an_unreplicated_topic_causes_a_warning() {
        for in_sync in ["1", "3"] {
            let found = facts(Purpose::Request, 3, &[("min.insync.replicas", in_sync)]);
            assert_eq!(check(&found, Purpose::Request, 12), (Vec::new(), 1), "{in_sync}");
        }
    }

    #[test]
    fn without_a_layout_the_topic_counts() {
        let routed =
            |layout, found| Needed::of_requests(layout, 12).routed(layout, found).partitions;
        assert_eq!(routed(None, 12), 12);
        assert_eq!(routed(None, 24), 24, "campaigns are routed over all partitions");
        assert_eq!(routed(None, 6), 12, "six are too few");
        assert_eq!(routed(Some(8), 24), 8, "campaigns never move");
    }

    #[test]
    fn replicas_follow_the_brokers() {
        assert_eq!([0, 1, 2, 9].map(|brokers| replication(0, brokers).unwrap()), [1, 1, 2, 3]);
        assert_eq!(replication(2, 3).unwrap(), 2);
        assert_eq!(replication(4, 3).unwrap_err().setting, "kafka.replication_factor");
    }
}
