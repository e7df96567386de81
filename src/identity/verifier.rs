//! Says which user bears a token, and remembers tokens that were verified.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{
    flaw::Flaw,
    key_ring::{KeyRing, Numbered},
    token::{self, Rules, TOKEN_BYTES_MAX, Verified},
};
use crate::{
    clock::SharedClock,
    domain::ids::{Timestamp, UserId},
};

/// Tokens that are remembered; the one that was used longest ago is forgotten. Verifying one again takes
/// about a tenth of a millisecond.
const TOKENS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// Bytes of all remembered tokens, each with its digest, its place in the map and in the order, and a user
/// id of full length.
pub(crate) const TOKENS_BYTES: usize = TOKENS_MAX.get() * (192 + UserId::BYTES_MAX);

/// Why a token names no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Something is wrong with the token.
    Flaw(Flaw),
    /// There is no key set yet.
    NoKeys,
}

/// A token that was verified, and the number of the key set by which it was.
struct Remembered {
    by: u64,
    verified: Verified,
}

/// Verifies tokens.
pub(crate) struct Verifier {
    rules: Rules,
    keys: Arc<KeyRing>,
    clock: SharedClock,
    /// By digest, so that tokens, which are secrets, are not kept.
    tokens: Mutex<LruCache<[u8; 32], Remembered>>,
}

impl Verifier {
    /// Returns a verifier by these rules and keys.
    pub(crate) fn new(rules: Rules, keys: Arc<KeyRing>, clock: SharedClock) -> Self {
        Self { rules, keys, clock, tokens: Mutex::new(LruCache::new(TOKENS_MAX)) }
    }

    /// Returns the user who bears `token`. A token that names an unknown key may wait until the key set was
    /// read again.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) async fn user(&self, token: &str) -> Result<UserId, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Flaw(Flaw::Oversized));
        }
        let keys = self.keys.current().ok_or(Refused::NoKeys)?;
        let digest = Sha256::digest(token).into();
        if let Some(remembered) = self.remembered(&digest, &keys) {
            return remembered.map_err(Refused::Flaw);
        }
        let verified = match self.verified(token, digest, &keys) {
            Err(Flaw::UnknownKey) => match self.keys.newer_than(keys.number).await {
                Some(newer) => self.verified(token, digest, &newer),
                None => Err(Flaw::UnknownKey),
            },
            verified => verified,
        };
        verified.map_err(Refused::Flaw)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn remembered(&self, digest: &[u8; 32], keys: &Numbered) -> Option<Result<UserId, Flaw>> {
        let mut tokens = self.tokens.lock();
        let Remembered { by, verified } = tokens.get(digest)?;
        if *by != keys.number {
            return None;
        }
        let checked = verified.check_time(self.now()).map(|()| verified.user.clone());
        if checked == Err(Flaw::Expired) {
            tokens.pop(digest);
        }
        Some(checked)
    }

    fn verified(&self, token: &str, digest: [u8; 32], keys: &Numbered) -> Result<UserId, Flaw> {
        let verified = token::verify(token, &keys.keys, &self.rules, self.now())?;
        let user = verified.user.clone();
        self.tokens.lock().put(digest, Remembered { by: keys.number, verified });
        Ok(user)
    }

    /// Returns how many tokens are remembered.
    #[cfg(test)]
    pub(super) fn remembered_count(&self) -> usize {
        self.tokens.lock().len()
    }
}
