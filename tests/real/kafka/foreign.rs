//! Records of other producers, and the log as other clients see it.

use std::time::Duration;

use coupond::{
    config::KafkaConfig,
    kafka::topics::{RecordWithMac, record_with_mac},
    log::{Bounds, ReadError, RequestLog},
    wire::LogRecord,
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
        foreign_records_are_read_as_they_are,
        a_header_that_is_not_utf8_is_ignored,
        transactions_leave_gaps_in_offsets,
        own_records_are_found_by_their_header,
        a_start_below_the_log_is_out_of_range,
        a_dead_letter_names_its_position,
        every_codec_is_read,
        what_is_too_large_is_cut_when_it_is_read,
        a_record_with_its_producers_time_is_unfit,
        a_batch_that_unpacks_too_large_is_unreadable,
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

async fn foreign_records_are_read_as_they_are() {
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
    // A time in the far future, which the broker replaces by its own.
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

/// The header's name is not UTF-8. The client library would panic if it read the name, and cannot
/// write it.
async fn a_header_that_is_not_utf8_is_ignored() {
    let config = shared(1);
    let log = log(&config).await;
    log.append(0, record(1)).await.expect("appended");
    let (broker, topic) = (config.brokers[0].clone(), request_topic(&config));
    let written = tokio::task::spawn_blocking(move || raw::produce(&broker, &topic));
    assert_eq!(written.await.expect("no panic").expect("the broker answers"), 0, "error code");
    log.append(0, record(2)).await.expect("appended");
    let mut reader = log.open(0, 0).await.expect("opened");
    let read = read_some(&mut *reader, 3).await;
    assert_eq!((read[1].key.as_slice(), read[1].value.as_slice()), (&b"k"[..], &b"v"[..]));
    assert_eq!(read[1].mac, None);
    assert_eq!(read[2].mac, Some(record(2).mac));
}

/// Writes a record with a header name that is not UTF-8, with raw requests.
mod raw {
    use std::{
        io::{self, Read, Write},
        net::TcpStream,
        time::Duration,
    };

    pub(super) fn produce(broker: &str, topic: &str) -> io::Result<i16> {
        let mut record = vec![0, 0, 0, 2, b'k', 2, b'v', 2, 4, 0xFF, 0xFE, 2, b'x'];
        record.insert(0, u8::try_from(record.len() * 2).expect("short"));
        // Attributes, last offset delta, two times, no producer id, epoch and sequence, one record.
        let mut checked = vec![0; 2 + 4 + 8 + 8];
        checked.extend([0xFF; 8 + 2 + 4]);
        checked.extend(1_i32.to_be_bytes());
        checked.extend(&record);
        let mut batch = vec![0; 8];
        batch.extend(length(4 + 1 + 4 + checked.len()));
        batch.extend((-1_i32).to_be_bytes());
        batch.push(2);
        batch.extend(crc32c(&checked).to_be_bytes());
        batch.extend(&checked);
        // Produce, version 3, correlation 7, no client id; no transaction, acks=all, 5 s.
        let mut request = vec![0, 0, 0, 3, 0, 0, 0, 7, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
        request.extend(5_000_i32.to_be_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(u16::try_from(topic.len()).expect("short").to_be_bytes());
        request.extend(topic.as_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(0_i32.to_be_bytes());
        request.extend(length(batch.len()));
        request.extend(&batch);

        let mut stream = TcpStream::connect(broker)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&length(request.len()))?;
        stream.write_all(&request)?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(answer)).expect("fits")];
        stream.read_exact(&mut answer)?;
        // Correlation, topics, name, partitions, partition, then the error code.
        let at = 4 + 4 + 2 + topic.len() + 4 + 4;
        Ok(i16::from_be_bytes([answer[at], answer[at + 1]]))
    }

    fn length(bytes: usize) -> [u8; 4] {
        u32::try_from(bytes).expect("short").to_be_bytes()
    }

    fn crc32c(bytes: &[u8]) -> u32 {
        let step = |crc: u32, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
    }
}

async fn transactions_leave_gaps_in_offsets() {
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
        "markers are at 1 and 3"
    );
    assert_eq!(appended.offset, 5);
    let bounds = log.bounds(0).await.expect("bounds");
    assert_eq!(bounds, Bounds { low: 0, high: 6 }, "an open transaction hides nothing");
    // A start inside a hole goes on behind it.
    let mut reader = log.open(0, 3).await.expect("opened");
    assert_eq!(read_some(&mut *reader, 1).await[0].offset, 4);
}

async fn own_records_are_found_by_their_header() {
    let config = shared(2);
    let log = log(&config).await;
    let topic = request_topic(&config);
    let other = producer(&config, &[("transactional.id", &config.group)]);
    other.init_transactions(PATIENCE).expect("initialised");
    // Each run ends with the transaction's marker: no record is directly below the log's end.
    let send = |partition: i32, count: usize| {
        other.begin_transaction().expect("begun");
        for number in 0..count {
            let key = format!("k{number}");
            let record = BaseRecord::to(&topic).partition(partition).key(&key).payload("{}");
            other.send(record).map_err(|(error, _)| error).expect("sent");
        }
        other.commit_transaction(PATIENCE).expect("committed");
    };
    let found = async || record_with_mac(&config, 2).await.expect("the broker answers");
    assert_eq!(found().await, None, "the log is empty");
    send(0, 3);
    send(1, 250);
    assert_eq!(found().await, None, "other producers write no header");

    // Near the end of a partition, below records of other producers.
    log.append(1, record(1)).await.expect("appended");
    send(1, 90);
    assert_eq!(found().await, Some(RecordWithMac { partition: 1, offset: 251 }));
    send(1, 200);
    assert_eq!(found().await, None, "only the ends are searched");
    // At the start.
    let config = shared(1);
    let first = super::log(&config).await;
    first.append(0, record(1)).await.expect("appended");
    let topic = request_topic(&config);
    let many = producer(&config, &[]);
    for _ in 0..250 {
        let record: BaseRecord<'_, str, str> = BaseRecord::to(&topic).partition(0).payload("{}");
        many.send(record).map_err(|(error, _)| error).expect("sent");
    }
    many.flush(PATIENCE).expect("delivered");
    let found = record_with_mac(&config, 1).await.expect("the broker answers");
    assert_eq!(found, Some(RecordWithMac { partition: 0, offset: 0 }));
}

async fn a_start_below_the_log_is_out_of_range() {
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
        // A reader that is dropped unread must not affect the next one.
        let unread = log.open(0, from).await.expect("opened");
        let mut reader = log.open(0, from).await.expect("opened");
        let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
        assert!(
            matches!(read, Err(ReadError::OutOfRange { wanted, .. }) if wanted == from),
            "{from}: {read:?}"
        );
        assert!(matches!(reader.read(1).await, Err(ReadError::Closed)), "the reader has ended");
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

async fn a_dead_letter_names_its_position() {
    let config = shared(3);
    let log = log(&config).await;
    let letter = LogRecord {
        offset: 77,
        time: coupond::domain::ids::Timestamp(5),
        key: b"key".to_vec(),
        value: vec![b'x'; 256 * 1_024],
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
    assert_eq!(length, 256 * 1_024);
    assert_eq!(headers, ["reason=oversized", "partition=2", "offset=77"]);
}

/// The value of a record that compresses well.
fn long(number: usize) -> String {
    format!("{number:04}{}", "x".repeat(400))
}

/// The producer compresses, the topic compresses what others send plain, and the broker packs anew.
async fn every_codec_is_read() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for topic_has in ["uncompressed", "producer", codec] {
            let config = shared(1);
            let log = log(&config).await;
            let topic_has = if topic_has == "none" { "uncompressed" } else { topic_has };
            topics::set(&config, "compression.type", topic_has).await;
            let mut reader = log.open(0, 0).await.expect("opened");
            let topic = request_topic(&config);
            let other = producer(&config, &[("compression.type", codec), ("linger.ms", "100")]);
            for number in 0..60 {
                let value = long(number);
                let record: BaseRecord<'_, str, str> =
                    BaseRecord::to(&topic).partition(0).key("k").payload(&value);
                other.send(record).map_err(|(error, _)| error).expect("sent");
            }
            other.flush(PATIENCE).expect("delivered");
            log.append(0, record(1)).await.expect("appended");
            let read = read_some(&mut *reader, 61).await;
            for (number, read) in read[..60].iter().enumerate() {
                assert_eq!(read.value, long(number).into_bytes(), "{codec}, {topic_has}");
            }
            assert_eq!(read[60].value, record(1).value, "{codec}, {topic_has}");
        }
    }
}

async fn what_is_too_large_is_cut_when_it_is_read() {
    let config = shared(1);
    let log = log(&config).await;
    let topic = request_topic(&config);
    let other = producer(&config, &[]);
    let value = "v".repeat(600_000);
    let large: BaseRecord<'_, str, str> =
        BaseRecord::to(&topic).partition(0).key("k").payload(&value);
    let mac = "1".repeat(900_000);
    let headers = OwnedHeaders::new().insert(Header { key: "coupond-mac", value: Some(&mac) });
    let headed: BaseRecord<'_, str, str> =
        BaseRecord::to(&topic).partition(0).key("k").payload("{}").headers(headers);
    for record in [large, headed] {
        other.send(record).map_err(|(error, _)| error).expect("sent");
    }
    other.flush(PATIENCE).expect("delivered");
    let mut reader = log.open(0, 0).await.expect("opened");
    let read = read_some(&mut *reader, 2).await;
    assert_eq!(read[0].key.len() + read[0].value.len(), 256 * 1_024);
    // One byte more than a MAC has: no record of coupond's.
    assert_eq!(read[1].mac.as_ref().map(Vec::len), Some(35));
}

async fn a_record_with_its_producers_time_is_unfit() {
    let config = shared(1);
    let log = log(&config).await;
    log.append(0, record(1)).await.expect("appended");
    topics::set(&config, "message.timestamp.type", "CreateTime").await;
    let topic = request_topic(&config);
    let other = producer(&config, &[]);
    let dated: BaseRecord<'_, str, str> =
        BaseRecord::to(&topic).partition(0).key("k").payload("v").timestamp(1_000_000_000_000);
    other.send(dated).map_err(|(error, _)| error).expect("sent");
    other.flush(PATIENCE).expect("delivered");
    let mut reader = log.open(0, 0).await.expect("opened");
    assert_eq!(read_some(&mut *reader, 1).await[0].offset, 0);
    let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
    let Err(ReadError::Unfit(halt)) = read else { panic!("{read:?}") };
    assert!(
        halt.to_string().starts_with("record_time: the timestamp of the record at 1"),
        "{halt}"
    );
}

/// A small batch that nobody has memory for. The topic that coupond makes refuses it.
async fn a_batch_that_unpacks_too_large_is_unreadable() {
    let config = shared(1);
    let log = log(&config).await;
    log.append(0, record(1)).await.expect("appended");
    let topic = request_topic(&config);
    let settings = [("compression.type", "zstd"), ("message.max.bytes", "100000000")];
    let other = producer(&config, &settings);
    let value = "0".repeat(40 * 1_024 * 1_024);
    let send = || {
        let bomb: BaseRecord<'_, str, str> =
            BaseRecord::to(&topic).partition(0).key("k").payload(&value);
        other.send(bomb).map_err(|(error, _)| error).expect("sent");
        other.flush(PATIENCE).expect("answered");
    };
    send();
    assert_eq!(log.bounds(0).await.expect("bounds"), Bounds { low: 0, high: 1 }, "it was refused");
    topics::set(&config, "compression.type", "producer").await;
    send();
    log.append(0, record(2)).await.expect("appended");
    for _ in 0..3 {
        let mut reader = log.open(0, 0).await.expect("opened");
        assert_eq!(read_some(&mut *reader, 1).await[0].offset, 0);
        let read = tokio::time::timeout(PATIENCE, reader.read(1)).await.expect("answered");
        assert!(matches!(read, Err(ReadError::Unreadable { wanted: 1, .. })), "{read:?}");
    }
    let mut behind = log.open(0, 2).await.expect("opened");
    assert_eq!(read_some(&mut *behind, 1).await[0].offset, 2);
}
