//! The ports of one life of a node: each call lands after a while, or never, and its answer comes
//! back after another while, or never.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::{
    act::{strike_kind, word},
    world::{Address, World, heard},
};
use crate::domain::ids::Partition;

/// How long a node waits for an answer that is lost, in microseconds.
const LOST_AFTER_US: u64 = 1_500_000;

/// What a node works with outside of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Engine {
    Log,
    Store,
    Feed,
}

impl Engine {
    pub(super) const ALL: [Self; 3] = [Self::Log, Self::Store, Self::Feed];
}

/// A call of a node to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Call {
    Append,
    Join,
    Open,
    Read,
    Bounds,
    Find,
    DeadLetter,
    WriteCoupons,
    WriteByUser,
    WriteVersion,
    WriteHold,
    WriteMarks,
    WriteProgress,
    WriteRegister,
    WriteSkip,
    ReadProgress,
    ReadRegister,
    ReadHolds,
    ReadSkips,
    ReadMark,
    ReadVersions,
    ReadCoupons,
    ReadByUser,
    ReadListing,
    WriteNode,
    ReadNodes,
    ForgetNode,
    Publish,
}

impl Call {
    pub(super) const ALL: [Self; 28] = [
        Self::Append,
        Self::Join,
        Self::Open,
        Self::Read,
        Self::Bounds,
        Self::Find,
        Self::DeadLetter,
        Self::WriteCoupons,
        Self::WriteByUser,
        Self::WriteVersion,
        Self::WriteHold,
        Self::WriteMarks,
        Self::WriteProgress,
        Self::WriteRegister,
        Self::WriteSkip,
        Self::ReadProgress,
        Self::ReadRegister,
        Self::ReadHolds,
        Self::ReadSkips,
        Self::ReadMark,
        Self::ReadVersions,
        Self::ReadCoupons,
        Self::ReadByUser,
        Self::ReadListing,
        Self::WriteNode,
        Self::ReadNodes,
        Self::ForgetNode,
        Self::Publish,
    ];

    pub(super) fn engine(self) -> Engine {
        match self {
            Self::Append | Self::Join | Self::Open | Self::Find => Engine::Log,
            Self::Read | Self::Bounds | Self::DeadLetter => Engine::Log,
            Self::Publish => Engine::Feed,
            _ => Engine::Store,
        }
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// It does not land, and the caller knows.
    Refused,
    /// It does not land.
    Lost,
    /// It lands, and its answer is lost.
    AnswerLost,
    /// It lands after the caller has given it up.
    Late {
        ms: u64,
    },
    Slow {
        ms: u64,
    },
    /// It lands, and its answer is on the way for long.
    AnswerSlow {
        ms: u64,
    },
    /// So many hundredths of a write land, from any row on.
    Partial {
        percent: u8,
        from: u8,
    },
    Twice {
        ms: u64,
    },
    /// The node dies before the call lands.
    Dies,
    /// The node dies before it hears that the call has landed.
    LandsAndDies,
    /// The caller panics. Only calls of actors.
    Panics,
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

/// A fate that waits for its call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Armed {
    pub(super) node: Option<usize>,
    pub(super) call: Call,
    pub(super) fate: Fate,
}

/// The way of one life of a node to the engines.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) address: Address,
    /// Longest way of a call, and of its answer, in microseconds.
    pub(super) way_us: (u64, u64),
    /// The engines are in the node: what has not landed when it dies never does.
    pub(super) is_embedded: bool,
}

impl Link {
    /// Takes the fate that waits for such a call.
    pub(super) fn fate(&self, call: Call, partition: Option<Partition>) -> Option<Fate> {
        let (world, node) = (&self.world, self.address.node);
        let fate = world.struck(node, call)?;
        world.count(strike_kind(call, fate));
        world.say(|| format!("!! {} of node {node}: {}", word(&call), word(&fate)));
        let cut = world.is_cut(node, call.engine(), partition);
        // A node that reaches nothing can still die.
        (!cut || matches!(fate, Fate::Dies | Fate::Panics)).then_some(fate)
    }

    /// Calls an engine. `land` happens there, whether the caller still lives or not.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: Call,
        partition: Option<Partition>,
        land: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<T, Failed> {
        let fate = self.fate(call, partition);
        self.carry(call, partition, fate, land).await
    }

    /// Calls an engine with a known fate.
    pub(super) async fn carry<T: Send + 'static>(
        &self,
        call: Call,
        partition: Option<Partition>,
        fate: Option<Fate>,
        land: impl Fn() -> T + Send + Sync + 'static,
    ) -> Result<T, Failed> {
        let (world, to, land) = (&self.world, Some(self.address), Arc::new(land));
        let there_to = self.is_embedded.then_some(self.address);
        let way = |most: u64| 100 + world.below(most);
        let (mut go, mut back) = (way(self.way_us.0), way(self.way_us.1));
        let (answer, answered) = oneshot::channel();
        let number = self.address.node as u64;
        world.trace(call as u64, number);
        #[cfg(test)]
        world.called(self.address.node, call);
        let cut = world.is_cut(self.address.node, call.engine(), partition);
        let fate = fate.or_else(|| cut.then_some(Fate::Lost));
        let later = |us, land: Arc<_>| {
            let land: Arc<dyn Fn() -> T + Send + Sync> = land;
            world.after(us, there_to, move || drop(land()));
        };
        match fate {
            Some(Fate::Panics) => panic!("injected at {}", word(&call)),
            Some(Fate::Dies) => world.end_life(self.address),
            Some(Fate::Refused) => {
                world.after(go, to, move || drop(answer.send(Err(Failed::Refused))));
            }
            Some(Fate::Lost | Fate::AnswerLost | Fate::Late { .. }) => {
                match fate {
                    Some(Fate::AnswerLost) => later(go, land),
                    Some(Fate::Late { ms }) => later(LOST_AFTER_US + ms * 1_000, land),
                    _ => {}
                }
                world.after(LOST_AFTER_US, to, move || drop(answer.send(Err(Failed::NoAnswer))));
            }
            Some(Fate::LandsAndDies) => {
                let (there, address) = (world.clone(), self.address);
                world.after(go, there_to, move || {
                    drop(land());
                    there.end_life(address);
                });
            }
            Some(Fate::Slow { .. } | Fate::AnswerSlow { .. })
            | Some(Fate::Partial { .. } | Fate::Twice { .. })
            | None => {
                match fate {
                    Some(Fate::Slow { ms }) => go += ms * 1_000,
                    Some(Fate::AnswerSlow { ms }) => back += ms * 1_000,
                    Some(Fate::Twice { ms }) => later(go + ms * 1_000, land.clone()),
                    _ => {}
                }
                let there = world.clone();
                world.after(go, there_to, move || {
                    let result = land();
                    there.trace(call as u64, number);
                    there.after(back, to, move || drop(answer.send(Ok(result))));
                });
            }
        }
        heard(answered).await
    }
}
