//! The group of a world's nodes: who owns which partition, and who hears of it when.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    log::Brokers,
    world::{Address, World},
};
use crate::domain::ids::Partition;

/// Longest time until a member hears of a change of ownership, in microseconds.
const TOLD_WITHIN_US: u64 = 200_000;

/// Time in which a member notices that its node wants to leave, in microseconds.
const NOTICED_WITHIN_US: u64 = 100_000;

/// Lets a member leave when its node has dropped the receiver of changes.
pub(super) fn watch(brokers: &Arc<Mutex<Brokers>>, world: &Arc<World>, address: Address) {
    let (brokers, there) = (brokers.clone(), world.clone());
    world.after(NOTICED_WITHIN_US, None, move || {
        let closed = {
            let brokers = brokers.lock();
            let member = brokers.members.get(&address.node);
            let member = member.filter(|member| member.address == address);
            member.map(|member| member.changes.is_closed())
        };
        // The group hears nothing of a process that has died.
        match closed.filter(|_| there.is_alive(address)) {
            Some(true) => brokers.lock().leave(&there, address),
            Some(false) => watch(&brokers, &there, address),
            None => {}
        }
    });
}

impl Brokers {
    /// Removes a member that is dead, or that was not heard of for too long.
    pub(super) fn leave(&mut self, world: &World, address: Address) {
        if self.members.get(&address.node).is_some_and(|member| member.address == address) {
            let member = self.members.remove(&address.node);
            // Closes the receiver of a live node. A dead node ignores it.
            world.after(TOLD_WITHIN_US, Some(address), move || drop(member));
            self.rebalance(world);
        }
    }

    /// Gives each partition to a member, in turn.
    pub(super) fn rebalance(&mut self, world: &World) {
        let members: Vec<_> = self.members.values().map(|member| member.address).collect();
        if members.is_empty() {
            self.owners.clear();
            return;
        }
        for partition in 0..self.partitions.len() as Partition {
            let owner = members[partition as usize % members.len()];
            self.give(world, partition, owner, 0);
        }
    }

    /// Moves a partition to another member, if there is one. The old owner hears of it that much
    /// later. Returns whether it was moved.
    pub(super) fn move_partition(
        &mut self,
        world: &World,
        partition: Partition,
        told_us: u64,
    ) -> bool {
        let others = self.members.values().map(|member| member.address);
        let owner = self.owners.get(&partition).copied();
        let others: Vec<_> = others.filter(|other| Some(*other) != owner).collect();
        if others.is_empty() {
            return false;
        }
        let owner = others[world.below(others.len() as u64) as usize];
        self.give(world, partition, owner, told_us);
        true
    }

    fn give(&mut self, world: &World, partition: Partition, owner: Address, told_us: u64) {
        let before = self.owners.insert(partition, owner);
        if before == Some(owner) {
            return;
        }
        world.say(|| format!("node {} owns partition {partition}", owner.node));
        // Each hears of it for itself: for a while both own the partition, or neither does.
        let told = before.map(|before| (before, told_us)).into_iter().chain([(owner, 0)]);
        for (address, late) in told {
            let Some(member) = self.members.get_mut(&address.node) else { continue };
            if member.address != address {
                continue;
            }
            member.told_us =
                member.told_us.max(world.now_us() + late + world.below(TOLD_WITHIN_US));
            let changes = match address == owner {
                true => member.owned.assign([partition]),
                false => member.owned.revoke([partition]),
            };
            for change in changes {
                let sender = member.changes.clone();
                world.at(member.told_us, Some(address), move || {
                    let _gone = sender.try_send(change);
                });
            }
        }
    }
}
