//! The baseline for a distributed node: an HTTP server that produces to Kafka, consumes, and writes one
//! coupon for each request.
//!
//! `cargo bench --bench bare_http -- ADDRESS BROKERS NODES FORM` serves until it is killed. It answers
//! `POST /coupon/issue` when the coupon is durable. FORM is what it writes of each: `rows` (the row by
//! sequence), `views` (that by user, too, in one bucket) or `marks` (and a mark of the campaign). It has the product's
//! settings of Kafka clients, sizes of batches and numbers in flight, and no decisions, actors or feed.
//! `load/http` compares it with a node.

#[path = "support/bare_cql.rs"]
mod bare_cql;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use bare_cql::{BareCql, Form, batches_of};
use coupond::{
    config::CqlConfig,
    domain::{
        coupon::Coupon,
        ids::{CampaignId, Position, Timestamp, UserId},
    },
    partition::{
        acks::id_hash,
        flow::{BATCH_RECORDS_MAX, BATCHES_MAX},
    },
    store::cql,
};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    message::{Header, Headers, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, ThreadedProducer},
};
use serde::Deserialize;
use tokio::sync::{Semaphore, mpsc, oneshot};

const PARTITIONS: i32 = 12;

/// Header with the number of a request, as long as the product's MAC.
const NUMBER: &str = "number";

#[derive(Deserialize)]
struct Issue<'a> {
    campaign_id: &'a str,
    user_id: &'a str,
}

/// A request that was consumed.
struct Read {
    number: u64,
    campaign: CampaignId,
    user: UserId,
    offset: u64,
    time: Timestamp,
}

struct Server {
    topic: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<u32>>>,
    numbers: AtomicU64,
    issued: Mutex<BTreeMap<CampaignId, u32>>,
    bare: Arc<BareCql>,
    form: Form,
}

async fn issue(State(server): State<Arc<Server>>, body: Bytes) -> (StatusCode, String) {
    let Ok(Issue { campaign_id, user_id }) = serde_json::from_slice(&body) else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let Ok(campaign) = CampaignId::parse(campaign_id) else {
        return (StatusCode::BAD_REQUEST, String::new());
    };
    let number = server.numbers.fetch_add(1, Ordering::Relaxed);
    let (reply, durable) = oneshot::channel();
    server.waiting.lock().insert(number, reply);
    let value = format!(
        r#"{{"v":1,"type":"request","campaign_id":"{campaign_id}","user_id":"{user_id}"}}"#
    );
    let digits = format!("{number:032x}");
    let headers = OwnedHeaders::new().insert(Header { key: NUMBER, value: Some(&digits) });
    // Any spread over partitions will do.
    let partition = id_hash(&campaign) % PARTITIONS as u32;
    let record = BaseRecord::to(&server.topic)
        .partition(partition as i32)
        .key(campaign_id)
        .payload(&value)
        .headers(headers);
    if server.producer.send(record).is_err() {
        server.waiting.lock().remove(&number);
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    }
    let Ok(sequence) = durable.await else {
        return (StatusCode::SERVICE_UNAVAILABLE, String::new());
    };
    let answer = format!(
        r#"{{"campaign_id":"{campaign_id}","user_id":"{user_id}","status":"issued","sequence":{sequence}}}"#
    );
    (StatusCode::OK, answer)
}

/// Polls a consumer of all partitions, and hands each its records.
fn consume(consumer: &BaseConsumer, partitions: &[mpsc::Sender<Read>]) {
    loop {
        let Some(message) = consumer.poll(Duration::from_millis(500)) else { continue };
        let message = message.expect("the broker answers");
        let number = message.headers().and_then(|headers| headers.get(0).value);
        let number = number.and_then(|digits| str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let value = message.payload().expect("it has one");
        let issue: Issue<'_> = serde_json::from_slice(value).expect("it was written here");
        let read = Read {
            number: number.expect("it was written here"),
            campaign: CampaignId::parse(issue.campaign_id).expect("an id"),
            user: UserId::parse(issue.user_id).expect("an id"),
            offset: message.offset() as u64,
            time: Timestamp(message.timestamp().to_millis().expect("it has one")),
        };
        let partition = &partitions[message.partition() as usize];
        partition.blocking_send(read).expect("its task runs");
    }
}

/// Writes the coupons of one partition.
async fn write(server: Arc<Server>, partition: u32, mut records: mpsc::Receiver<Read>) {
    let in_flight = Arc::new(Semaphore::new(BATCHES_MAX));
    let mut batch = Vec::with_capacity(BATCH_RECORDS_MAX);
    loop {
        let permit = in_flight.clone().acquire_owned().await.expect("it is not closed");
        if records.recv_many(&mut batch, BATCH_RECORDS_MAX).await == 0 {
            return;
        }
        let (server, batch) = (server.clone(), std::mem::take(&mut batch));
        let (mut numbers, mut of) = (Vec::new(), BTreeMap::<CampaignId, Vec<Coupon>>::new());
        for read in batch {
            let sequence = {
                let mut issued = server.issued.lock();
                let issued = issued.entry(read.campaign.clone()).or_default();
                *issued += 1;
                *issued
            };
            numbers.push((read.number, sequence));
            of.entry(read.campaign.clone()).or_default().push(coupon(read, partition, sequence));
        }
        tokio::spawn(async move {
            let of_campaigns = of.values().map(|coupons| server.store(coupons));
            futures_util::future::join_all(of_campaigns).await;
            let mut waiting = server.waiting.lock();
            for (number, sequence) in numbers {
                if let Some(reply) = waiting.remove(&number) {
                    let _gone = reply.send(sequence);
                }
            }
            drop(permit);
        });
    }
}

fn coupon(read: Read, partition: u32, sequence: u32) -> Coupon {
    let Read { campaign, user, offset, time, .. } = read;
    Coupon {
        campaign,
        sequence,
        user,
        code: format!("{:026X}", u128::from(sequence).wrapping_mul(0x9E37_79B9_7F4A_7C15)).into(),
        issued_at: time,
        position: Position { log_epoch: 1, partition, offset },
        key_digest: None,
        user_bucket: 0,
        rules_version: 1,
        digest: [sequence as u8; 16],
    }
}

impl Server {
    /// Writes coupons of one campaign.
    async fn store(&self, coupons: &[Coupon]) {
        let writes = batches_of(coupons).map(|batch| self.bare.write_batch(batch, self.form));
        futures_util::future::join_all(writes).await;
    }
}

fn clients(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers).set("client.id", "bare").set("group.id", "bare");
    client
}

fn producer(brokers: &str) -> ThreadedProducer<DefaultProducerContext> {
    let mut settings = clients(brokers);
    settings
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("batch.size", (256 * 1_024).to_string())
        .set("queue.buffering.max.messages", "50000")
        .set("queue.buffering.max.kbytes", (64 * 1_024).to_string());
    settings.create().expect("the settings are valid")
}

/// Makes a topic, and a consumer that reads all of it.
async fn consumer(brokers: &str, topic: &str) -> BaseConsumer {
    let admin: AdminClient<DefaultClientContext> = clients(brokers).create().expect("valid");
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))
        .set("message.timestamp.type", "LogAppendTime");
    let made = admin.create_topics([&new], &AdminOptions::new()).await.expect("a broker answers");
    made.into_iter().for_each(|made| drop(made.expect("it is new")));
    let consumer: BaseConsumer = clients(brokers)
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("fetch.max.bytes", (4 * 1_024 * 1_024).to_string())
        .create()
        .expect("the settings are valid");
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let added = partitions.add_partition_offset(topic, partition, Offset::Beginning);
        added.expect("an offset");
    }
    consumer.assign(&partitions).expect("the topic exists");
    consumer
}

async fn serve(address: &str, brokers: &str, nodes: &str, form: Form) {
    let name = format!("bare_{}", std::process::id());
    let nodes: Vec<_> = nodes.split(',').map(str::to_owned).collect();
    let config = CqlConfig { nodes, keyspace: name.clone(), ..CqlConfig::default() };
    // Makes the tables.
    drop(cql::connect(&config).await.expect("the database answers"));
    let consumer = consumer(brokers, &name).await;
    let server = Arc::new(Server {
        topic: name,
        producer: producer(brokers),
        waiting: Mutex::default(),
        numbers: AtomicU64::new(0),
        issued: Mutex::default(),
        bare: BareCql::connect(&config.nodes, &config.keyspace).await,
        form,
    });
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS as u32 {
        let (records, queue) = mpsc::channel(16_384);
        tokio::spawn(write(server.clone(), partition, queue));
        partitions.push(records);
    }
    std::thread::spawn(move || consume(&consumer, &partitions));
    let listener = tokio::net::TcpListener::bind(address).await.expect("the port is free");
    let router = Router::new().route("/coupon/issue", post(issue)).with_state(server);
    axum::serve(listener, router).await.expect("it serves");
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let form = match arguments.get(3).map(String::as_str) {
        Some("rows") => Form::Rows,
        Some("views") => Form::Views,
        Some("marks") => Form::Marks,
        _ => return println!("give an address, brokers, database nodes and a form; see load/http"),
    };
    let runtime = tokio::runtime::Runtime::new().expect("it starts");
    runtime.block_on(serve(&arguments[0], &arguments[1], &arguments[2], form));
}
