//! The Kafka adapters against a real broker.

use libtest_mimic::Trial;

use crate::{
    engines::{self, Engine},
    trials,
};

pub(crate) fn trials() -> Vec<Trial> {
    trials!(&[Engine::Kafka]; the_broker_answers)
}

async fn the_broker_answers() {
    let endpoints = engines::shared(Engine::Kafka).expect("asked for by the trial");
    assert!(!endpoints.is_empty());
    println!("{endpoints:?} {}", engines::unique("x"));
}
