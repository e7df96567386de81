//! Routes campaigns to partitions by the rule of Kafka's Java clients, so that requests of other
//! producers reach the right partition.

use crate::domain::ids::{CampaignId, Partition};

/// Returns the partition of `campaign` in a log of `partitions`: murmur2 of its id, made positive,
/// modulo the count. Apache Kafka's Java clients compute the same for a record with this key.
///
/// # Panics
/// If `partitions` is 0. A layout has at least one.
#[must_use]
pub fn partition_of(campaign: &CampaignId, partitions: u32) -> Partition {
    assert!(partitions > 0, "a layout has at least one partition");
    (murmur2(campaign.as_str().as_bytes()).cast_unsigned() & 0x7FFF_FFFF) % partitions
}

/// Computes the 32-bit `MurmurHash2` with Kafka's seed, like
/// `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(bytes: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by Apache Kafka's own client: key, murmur2, partition of 1, 3, 4, 12, 64, 100.
    const VECTORS: &str = include_str!("murmur2.tsv");

    #[test]
    fn routing_agrees_with_java_producers() {
        let mut checked = 0;
        for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<_> = line.split('\t').collect();
            let key = fields[0];
            assert_eq!(murmur2(key.as_bytes()).to_string(), fields[1], "murmur2 of {key:?}");
            let Ok(campaign) = CampaignId::parse(key) else { continue };
            for (partitions, expected) in [1, 3, 4, 12, 64, 100].into_iter().zip(&fields[2..]) {
                let partition = partition_of(&campaign, partitions);
                assert_eq!(partition.to_string(), **expected, "{key:?} of {partitions}");
            }
            checked += 1;
        }
        assert!(checked >= 10, "only {checked} vectors were checked");
    }
}
