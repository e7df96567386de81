//! The Kafka adapters against a real broker.

mod faults;
mod figures;
mod foreign;
mod group;
pub(crate) mod topics;

use std::{sync::OnceLock, time::Duration};

use coupond::{
    config::KafkaConfig,
    domain::{ids::CampaignId, keys::Keys},
    feed::{contract as feed_contract, kafka::KafkaFeed},
    kafka::topics::ensure_topics,
    log::{LogReader, contract as log_contract, kafka::KafkaLog},
    wire::{LogRecord, NewRecord, feed_codec::FeedCodec},
};
use libtest_mimic::Trial;

use crate::{
    engines::{self, Engine},
    trial, trials,
};

/// Limit for an event that must happen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = trials!(&[Engine::Kafka]; the_feed_keeps_its_contract);
    trials.extend(log_contract::checks().into_iter().map(|(name, check)| {
        let name = format!("{}::log_contract::{name}", module_path!());
        trial(name, &[Engine::Kafka], async move || {
            static TOPICS: OnceLock<KafkaConfig> = OnceLock::new();
            let topics = TOPICS.get_or_init(|| shared(log_contract::PARTITIONS)).clone();
            let config = KafkaConfig { group: engines::unique("group"), ..topics };
            check(&log(&config).await).await;
        })
    }));
    trials.extend(topics::trials());
    trials.extend(group::trials());
    trials.extend(foreign::trials());
    trials.extend(faults::trials());
    trials.extend(figures::trials());
    trials
}

/// Runs the checks one after another, because the check of the slow follower causes gaps for all.
async fn the_feed_keeps_its_contract() {
    let feed = feed(&shared(feed_contract::PARTITIONS)).await;
    for (_, check) in feed_contract::checks() {
        check(&feed).await;
    }
}

/// Returns settings for the shared broker, with topics and a group that only one test uses.
fn shared(partitions: u32) -> KafkaConfig {
    let brokers = engines::shared(Engine::Kafka).expect("asked for by the trial");
    on(brokers, partitions)
}

pub(crate) fn on(brokers: &[String], partitions: u32) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_vec(),
        topic_prefix: engines::unique("topic"),
        partitions,
        group: engines::unique("group"),
        ..KafkaConfig::default()
    }
}

async fn log(config: &KafkaConfig) -> KafkaLog {
    ensure_topics(config, None).await.expect("topics are made");
    KafkaLog::connect(config).await.expect("clients are made")
}

async fn feed(config: &KafkaConfig) -> KafkaFeed {
    ensure_topics(config, None).await.expect("topics are made");
    let codec = FeedCodec::new(&Keys::derive(&[7; 32]), "one");
    KafkaFeed::connect(config, codec, config.partitions).await.expect("clients are made")
}

fn record(number: usize) -> NewRecord {
    NewRecord {
        campaign: CampaignId::parse("spring").expect("an id"),
        value: format!(
            r#"{{"v":1,"type":"request","campaign_id":"spring","user_id":"u{number}"}}"#
        )
        .into_bytes(),
        mac: format!("1:{number:032x}").into_bytes(),
    }
}

async fn read_some(reader: &mut dyn LogReader, wanted: usize) -> Vec<LogRecord> {
    let mut records = Vec::new();
    while records.len() < wanted {
        let read = tokio::time::timeout(PATIENCE, reader.read(wanted - records.len())).await;
        records.extend(read.expect("records come").expect("the log is readable"));
    }
    records
}
