//! Panics of actors at their messages.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::world::{Address, World};
use crate::actors::Probe;

/// A kind of actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ActorKind {
    Supervisor,
    Consumer,
    Coupon,
}

impl ActorKind {
    pub(super) const ALL: [Self; 3] = [Self::Supervisor, Self::Consumer, Self::Coupon];

    /// Its name, as actors tell it to their probe.
    fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Consumer => "consumer",
            Self::Coupon => "coupon",
        }
    }

    /// Name of its panics in the table of what happened.
    pub(super) fn panic_kind(self) -> String {
        format!("{}-panics", self.name())
    }
}

/// A panic that waits for its message.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArmedPanic {
    pub(super) node: Option<usize>,
    pub(super) actor: ActorKind,
    /// Messages that are handled before.
    pub(super) after: u32,
}

/// Sees every message of the actors of one life of a node.
pub(super) struct MessageProbe {
    pub(super) world: Arc<World>,
    pub(super) address: Address,
}

impl Probe for MessageProbe {
    fn handled(&self, actor: &'static str, message: &'static str) {
        let Self { world, address } = self;
        let Some(kind) = ActorKind::ALL.into_iter().find(|kind| kind.name() == actor) else {
            return;
        };
        if !world.is_alive(*address) || !world.panics_now(address.node, kind) {
            return;
        }
        world.count(kind.panic_kind());
        world.say(|| format!("!! {actor} of node {} panics at {message}", address.node));
        if kind == ActorKind::Supervisor {
            // The end of its supervisor ends the node.
            world.end_life(*address);
        }
        panic!("injected at {actor} {message}");
    }
}
