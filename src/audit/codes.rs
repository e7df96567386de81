//! Digests of coupon codes, to find duplicates over all campaigns.

use siphasher::sip128::SipHasher13;

use crate::domain::ids::Sequence;

/// The digest of one code. 128 bits, so equal digests mean equal codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code {
    pub(super) digest: u128,
    pub(super) campaign: u32,
    pub(super) sequence: Sequence,
}

impl Code {
    /// Returns the digest of a code; the caller sets the campaign's index.
    pub(super) fn of(code: &str, sequence: Sequence) -> Self {
        // A fixed key is enough: codes are derived by the instance, so no attacker picks them.
        let digest = SipHasher13::new().hash(code.as_bytes()).as_u128();
        Self { digest, campaign: 0, sequence }
    }
}
