//! Records of other people's producers, and the log seen from outside.

use std::time::Duration;

use coupond::{
    config::KafkaConfig,
    log::{Bounds, LogRecord, ReadError, RequestLog},
};
use libtest_mimic::Trial;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::{PATIENCE, log, read_some, record, shared, topics};
use crate::{engines::Engine, trials};

pub(super) fn trials() -> Vec<Trial> {
    trials!(
        &[Engine::Kafka];
        whatever_somebody_else_writes_is_read_as_it_is,
        transactions_leave_holes_and_hide_nothing,
        a_trimmed_log_is_out_of_range_and_not_skipped,
        a_dead_letter_tells_where_it_came_from,
    )
}

fn request_topic(config: &KafkaConfig) -> String {
    format!("{}.request", config.topic_prefix)
}

fn producer(config: &KafkaConfig, settings: &[(&str, &str)]) -> BaseProducer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", config.brokers.join(","));
    settings.iter().for_each(|(key, value)| {
        client.set(*key, *value);
    });
    client.create().expect("a producer")
}

async fn whatever_somebody_else_writes_is_read_as_it_is() {
    let config = shared(1);
    let log = log(&config).await;
    let topic = request_topic(&config);
    let other = producer(&config, &[("compression.type", "gzip")]);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("x") })
        .insert(Header { key: "coupond-mac", value: None::<&str> });
    let no_key: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(0).payload("{}");
    let no_value: BaseRecord<'_, str, str> =
        BaseRecord::to(&topic).partition(0).key("k").headers(headers);
    // Years ahead of everybody: the broker's time counts.
    let dated: BaseRecord<'_, str, str> =
        BaseRecord::to(&topic).partition(0).key("k").payload("v").timestamp(9_999_999_999_999);
    for record in [no_key, no_value, dated] {
        other.send(record).map_err(|(error, _)| error).expect("sent");
    }
    other.flush(PATIENCE).expect("delivered");
    let mut reader = log.open(0, 0).await.expect("opened");
    let read = read_some(&mut *reader, 3).await;
    let parts = |record: &LogRecord| (record.key.clone(), record.value.clone(), record.mac.clone());
    assert_eq!(parts(&read[0]), (vec![], b"{}".to_vec(), None));
    assert_eq!(parts(&read[1]), (b"k".to_vec(), vec![], Some(vec![])));
    assert_eq!(parts(&read[2]), (b"k".to_vec(), b"v".to_vec(), None));
    let appended = log.append(0, record(1)).await.expect("appended");
    assert!(read[2].time <= appended.time, "{:?} {:?}", read[2].time, appended.time);
    assert!(read[2].time.is_representable());
}

async fn transactions_leave_holes_and_hide_nothing() {
    let config = shared(1);
    let log = log(&config).await;
    let topic = request_topic(&config);
    let id = config.group.clone();
    let other = producer(&config, &[("transactional.id", &id)]);
    let send = |value: &str| {
        let record: BaseRecord<'_, str, str> =
            BaseRecord::to(&topic).partition(0).key("k").payload(value);
        other.send(record).map_err(|(error, _)| error).expect("sent");
        other.flush(PATIENCE).expect("delivered");
    };
    other.init_transactions(PATIENCE).expect("initialised");
    other.begin_transaction().expect("begun");
    send("committed");
    other.commit_transaction(PATIENCE).expect("committed");
    other.begin_transaction().expect("begun");
    send("aborted");
    other.abort_transaction(PATIENCE).expect("aborted");
    other.begin_transaction().expect("begun");
    send("open");
    let appended = log.append(0, record(1)).await.expect("appended");
    let mut reader = log.open(0, 0).await.expect("opened");
    let read = read_some(&mut *reader, 4).await;
    let seen: Vec<_> = read.iter().map(|r| (r.offset, r.value.as_slice())).collect();
    let own = record(1).value;
    assert_eq!(
        seen,
        [(0, &b"committed"[..]), (2, b"aborted"), (4, b"open"), (5, own.as_slice())],
        "markers stand at 1 and 3"
    );
    assert_eq!(appended.offset, 5);
    let bounds = log.bounds(0).await.expect("bounds");
    assert_eq!(bounds, Bounds { low: 0, high: 6 }, "an open transaction hides nothing");
    // A start inside a hole goes on behind it.
    let mut reader = log.open(0, 3).await.expect("opened");
    assert_eq!(read_some(&mut *reader, 1).await[0].offset, 4);
}

async fn a_trimmed_log_is_out_of_range_and_not_skipped() {
    let config = shared(1);
    let log = log(&config).await;
    for number in 0..5 {
        log.append(0, record(number)).await.expect("appended");
    }
    let mut trim = TopicPartitionList::new();
    trim.add_partition_offset(&request_topic(&config), 0, Offset::Offset(3)).expect("an offset");
    topics::admin(&config)
        .delete_records(&trim, &AdminOptions::new())
        .await
        .expect("the broker trims");
    assert_eq!(log.bounds(0).await.expect("bounds"), Bounds { low: 3, high: 5 });
    for from in [2, 100] {
        // One that is dropped unread leaves nothing to the next.
        let unread = log.open(0, from).await.expect("opened");
        let mut reader = log.open(0, from).await.expect("opened");
        let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
        assert!(
            matches!(read, Err(ReadError::OutOfRange { wanted, .. }) if wanted == from),
            "{from}: {read:?}"
        );
        assert!(matches!(reader.read(1).await, Err(ReadError::Closed)), "spent");
        drop((unread, reader));
        let mut readers = Vec::new();
        for _ in 0..2 {
            readers.push(log.open(0, 3).await.expect("opened"));
        }
        for mut reader in readers {
            assert_eq!(read_some(&mut *reader, 2).await[0].offset, 3);
        }
    }
    let mut reader = log.open(0, 5).await.expect("opened");
    let appended = log.append(0, record(9)).await.expect("appended");
    assert_eq!(read_some(&mut *reader, 1).await[0].offset, appended.offset);
}

async fn a_dead_letter_tells_where_it_came_from() {
    let config = shared(3);
    let log = log(&config).await;
    let letter = LogRecord {
        offset: 77,
        time: coupond::domain::ids::Timestamp(5),
        key: b"key".to_vec(),
        value: vec![b'x'; 600_000],
        mac: None,
    };
    log.dead_letter(2, &letter, "oversized").await.expect("kept");
    let topic = format!("{}.dead-letter", config.topic_prefix);
    let seen = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", config.brokers.join(","))
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&topic, 0, Offset::Beginning).expect("an offset");
        consumer.assign(&list).expect("assigned");
        let message = consumer.poll(Duration::from_secs(60)).expect("there").expect("readable");
        let headers = message.headers().expect("it has headers");
        let headers: Vec<_> = headers
            .iter()
            .map(|h| format!("{}={}", h.key, String::from_utf8_lossy(h.value.unwrap_or_default())))
            .collect();
        (message.key().map(<[u8]>::to_vec), message.payload_len(), headers)
    });
    let (key, length, headers) = seen.await.expect("no panic");
    assert_eq!(key, Some(b"key".to_vec()));
    assert_eq!(length, 256 * 1_024 - 3, "as much as fits");
    let expected = ["reason=oversized", "partition=2", "offset=77", "truncated-from=600000"];
    assert_eq!(headers, expected);
}
