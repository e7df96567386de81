//! Codes of all campaigns, to be told apart.

use siphasher::sip128::SipHasher13;

use crate::domain::ids::Sequence;

/// One code, by a digest that no two codes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Code {
    pub(super) digest: u128,
    pub(super) campaign: u32,
    pub(super) sequence: Sequence,
}

impl Code {
    /// The code of a coupon whose campaign is yet to be numbered.
    pub(super) fn of(code: &str, sequence: Sequence) -> Self {
        // A fixed key: codes are told from each other here, from nobody who chooses them.
        let digest = SipHasher13::new().hash(code.as_bytes()).as_u128();
        Self { digest, campaign: 0, sequence }
    }
}
