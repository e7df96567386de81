//! Measures the throughput of the log. Prints figures, and asserts nothing about them.

use std::{sync::Arc, time::Instant};

use coupond::log::RequestLog;
use libtest_mimic::Trial;

use super::{log, read_some, record, shared};
use crate::{engines::Engine, trials};

/// Environment variable that multiplies the work, for measurements: `COUPOND_TEST_FIGURES=20`.
const SCALE: &str = "COUPOND_TEST_FIGURES";

pub(super) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka]; throughput_of_appends_and_reads)
}

async fn throughput_of_appends_and_reads() {
    let scale: usize = std::env::var(SCALE).ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let config = shared(12);
    let log = Arc::new(log(&config).await);
    for in_flight in [1, 256, 10_000] {
        let each = (20_000 * scale).div_ceil(in_flight).min(500 * scale);
        let at = Instant::now();
        let appenders: Vec<_> = (0..in_flight)
            .map(|appender| {
                let log = Arc::clone(&log);
                tokio::spawn(async move {
                    for number in 0..each {
                        let partition = u32::try_from(appender % 12).expect("small");
                        log.append(partition, record(number)).await.expect("appended");
                    }
                })
            })
            .collect();
        for appender in appenders {
            appender.await.expect("no panic");
        }
        let rate = (in_flight * each) as f64 / at.elapsed().as_secs_f64();
        println!("kafka: {in_flight} appends in flight: {rate:.0} records/s");
    }
    let mut starts = Vec::new();
    for _ in 0..10 {
        let at = Instant::now();
        let mut replay = log.open(0, 0).await.expect("opened");
        read_some(&mut *replay, 1).await;
        starts.push(at.elapsed());
    }
    starts.sort();
    println!(
        "kafka: a replay's first record after {:?} (median), {:?} (worst)",
        starts[5], starts[9]
    );
    let at = Instant::now();
    let mut read = 0;
    for partition in 0..12 {
        let high = log.bounds(partition).await.expect("bounds").high;
        let mut reader = log.open(partition, 0).await.expect("opened");
        read += read_some(&mut *reader, usize::try_from(high).expect("small")).await.len();
    }
    let rate = read as f64 / at.elapsed().as_secs_f64();
    println!("kafka: one reader after another: {rate:.0} records/s");
}
