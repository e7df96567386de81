//! The ports of one life of a node: each call lands after a while, or never, and its answer comes
//! back after another while, or never.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::world::{Address, Engine, World, heard};

/// How long a node waits for an answer that is lost, in microseconds.
const LOST_AFTER_US: u64 = 1_500_000;

/// What may go wrong with calls. Each number is one chance in so many; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// A call is refused and does not land.
    pub(super) refused: u64,
    /// A call never lands, and is not answered.
    pub(super) lost: u64,
    /// A call lands, and its answer is lost.
    pub(super) answer_lost: u64,
    /// A call lands after the node has given it up.
    pub(super) late: u64,
    /// A call takes up to a second.
    pub(super) slow: u64,
    /// A part of a write lands, and it fails.
    pub(super) partial: u64,
    /// A feed message is lost.
    pub(super) message_lost: u64,
    /// A feed message comes late, behind later ones.
    pub(super) message_late: u64,
}

/// Why a call has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failed {
    /// It has not landed and will not.
    #[error("the engine refused the call")]
    Refused,
    /// It may land, or have landed.
    #[error("the engine gave no answer")]
    NoAnswer,
}

/// The way of one life of a node to the engines.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) address: Address,
    pub(super) weather: Arc<parking_lot::Mutex<Weather>>,
}

impl Link {
    pub(super) fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    fn fate(&self, engine: Engine) -> Fate {
        let (world, weather) = (&self.world, self.weather());
        let cut = world.is_cut(self.address.node, engine);
        let drawn = [
            (cut || world.one_in(weather.lost), Fate::Lost),
            (world.one_in(weather.refused), Fate::Refused),
            (world.one_in(weather.answer_lost), Fate::AnswerLost),
            (world.one_in(weather.late), Fate::Late),
        ];
        drawn.into_iter().find(|(is_so, _)| *is_so).map_or(Fate::Answered, |(_, fate)| fate)
    }

    /// Calls an engine. `land` happens there, whether the caller still lives or not.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        engine: Engine,
        name: &'static str,
        land: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        let (world, to) = (&self.world, Some(self.address));
        let slow = if world.one_in(self.weather().slow) { 1_000_000 } else { 3_000 };
        let (go, back) = (100 + world.below(slow), 100 + world.below(2_000));
        let (answer, answered) = oneshot::channel();
        let fate = self.fate(engine);
        let number = self.address.node as u64;
        world.trace(name, number);
        match fate {
            Fate::Refused => world.after(go, to, move || drop(answer.send(Err(Failed::Refused)))),
            Fate::Lost => {
                world.after(LOST_AFTER_US, to, move || drop(answer.send(Err(Failed::NoAnswer))));
            }
            Fate::AnswerLost => {
                world.after(go, None, move || drop(land()));
                world.after(LOST_AFTER_US, to, move || drop(answer.send(Err(Failed::NoAnswer))));
            }
            Fate::Late => {
                let late = LOST_AFTER_US + world.below(4_000_000);
                world.after(late, None, move || drop(land()));
                world.after(LOST_AFTER_US, to, move || drop(answer.send(Err(Failed::NoAnswer))));
            }
            Fate::Answered => {
                let there = world.clone();
                world.after(go, None, move || {
                    let result = land();
                    there.trace(name, number);
                    there.after(back, to, move || drop(answer.send(Ok(result))));
                });
            }
        }
        heard(answered).await
    }
}

/// What becomes of a call.
enum Fate {
    Answered,
    Refused,
    Lost,
    AnswerLost,
    Late,
}
