//! Request ids: the sealed position and content of a request. Any node can answer an id at any
//! time, and no node stores it.
//!
//! An id is base64url of: format byte and key id in clear, 12 bytes of nonce, and the encrypted
//! content with its tag (AES-256-GCM-SIV). Format, key id and instance are authenticated, so an id
//! of another instance does not open, even under the same secret. The nonce is a MAC of the
//! position, so a request has exactly one id.

use aes_gcm_siv::{
    Aes256GcmSiv, KeyInit, Nonce,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    domain::{
        ids::{CampaignId, Position, Timestamp, UserId},
        keys::{KEY_ID, Keys, Macs},
        record::Request,
    },
    wire::FORMAT,
};

/// Longest id in bytes, as the API promises. Today's longest has 522: a content of 361 bytes, of which
/// 319 are ids, with header, nonce and tag.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 800;

const HEADER_BYTES: usize = 2;
const NONCE_BYTES: usize = 12;
const NONCE_PURPOSE: &str = "request id nonce";

/// The content of a request id: everything that an answer from the store needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestContent {
    /// The request's position in the log.
    pub position: Position,
    /// The request's record time.
    pub time: Timestamp,
    /// The campaign.
    pub campaign: CampaignId,
    /// The user.
    pub user: UserId,
    /// Keyed digest of user and idempotency key, if the request had one.
    pub key_digest: Option<[u8; 16]>,
}

impl RequestContent {
    /// Returns whether `request`, whose record has this time, is the one that the id was made for.
    #[must_use]
    pub(crate) fn is_of(&self, time: Timestamp, request: &Request, keys: &Keys) -> bool {
        let Request { campaign, user, idempotency_key } = request;
        let digest = idempotency_key.as_ref().map(|key| keys.key_digest(user, key).to_le_bytes());
        (self.time, self.key_digest) == (time, digest)
            && self.campaign == *campaign
            && self.user == *user
    }
}

/// Seals and opens the request ids of one instance.
#[derive(Clone)]
pub(crate) struct RequestIds {
    cipher: Aes256GcmSiv,
    macs: Macs,
    authenticated: Vec<u8>,
}

impl std::fmt::Debug for RequestIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestIds").finish_non_exhaustive()
    }
}

impl RequestIds {
    /// Returns the sealer for `instance` and its keys.
    #[must_use]
    pub(crate) fn new(keys: &Keys, instance: &str) -> Self {
        let cipher = Aes256GcmSiv::new(keys.seal_key().into());
        let mut authenticated = vec![FORMAT, KEY_ID];
        authenticated.extend_from_slice(instance.as_bytes());
        Self { cipher, macs: keys.macs(instance), authenticated }
    }

    /// Returns the id of a request: URL-safe, at most [`REQUEST_ID_BYTES_MAX`] bytes.
    #[must_use]
    pub(crate) fn seal(&self, content: &RequestContent) -> String {
        let nonce = self.nonce(content.position);
        let plain = encode(content);
        let payload = Payload { msg: &plain, aad: &self.authenticated };
        let sealed = self
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a content of some hundred bytes is far below the cipher's limit");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + NONCE_BYTES + sealed.len());
        bytes.extend_from_slice(&self.authenticated[..HEADER_BYTES]);
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Opens `request_id`. Returns `None` if it was altered, belongs to another instance, key or
    /// format, or is no id at all.
    #[must_use]
    pub(crate) fn open(&self, request_id: &str) -> Option<RequestContent> {
        if request_id.len() > REQUEST_ID_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(request_id).ok()?;
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        if header != &self.authenticated[..HEADER_BYTES] {
            return None;
        }
        let payload = Payload { msg: sealed, aad: &self.authenticated };
        let plain = self.cipher.decrypt(&Nonce::from(*nonce), payload).ok()?;
        decode(&plain)
    }

    fn nonce(&self, position: Position) -> [u8; NONCE_BYTES] {
        let Position { log_epoch, partition, offset } = position;
        let mac = self.macs.of(NONCE_PURPOSE, log_epoch, partition, &[&offset.to_le_bytes()]);
        std::array::from_fn(|index| mac[index])
    }
}

pub(super) fn encode(content: &RequestContent) -> Vec<u8> {
    let RequestContent { position, time, campaign, user, key_digest } = content;
    let campaign = campaign.as_str().as_bytes();
    let mut plain = Vec::with_capacity(42 + campaign.len() + user.as_str().len());
    plain.extend_from_slice(&position.log_epoch.to_le_bytes());
    plain.extend_from_slice(&position.partition.to_le_bytes());
    plain.extend_from_slice(&position.offset.to_le_bytes());
    plain.extend_from_slice(&time.0.to_le_bytes());
    plain.push(u8::from(key_digest.is_some()));
    plain.extend_from_slice(key_digest.as_ref().map_or(&[], |digest| digest.as_slice()));
    plain.push(u8::try_from(campaign.len()).expect("a campaign id has at most 64 bytes"));
    plain.extend_from_slice(campaign);
    plain.extend_from_slice(user.as_str().as_bytes());
    plain
}

pub(super) fn decode(plain: &[u8]) -> Option<RequestContent> {
    let (log_epoch, rest) = plain.split_first_chunk()?;
    let (partition, rest) = rest.split_first_chunk()?;
    let (offset, rest) = rest.split_first_chunk()?;
    let (time, rest) = rest.split_first_chunk()?;
    let (has_key, rest) = rest.split_first()?;
    let (key_digest, rest) = match has_key {
        0 => (None, rest),
        1 => rest.split_first_chunk().map(|(digest, rest)| (Some(*digest), rest))?,
        _ => return None,
    };
    let (campaign_bytes, rest) = rest.split_first()?;
    let (campaign, user) = rest.split_at_checked(usize::from(*campaign_bytes))?;
    Some(RequestContent {
        position: Position {
            log_epoch: u32::from_le_bytes(*log_epoch),
            partition: u32::from_le_bytes(*partition),
            offset: u64::from_le_bytes(*offset),
        },
        time: Timestamp(i64::from_le_bytes(*time)),
        campaign: CampaignId::parse(std::str::from_utf8(campaign).ok()?).ok()?,
        user: UserId::parse(std::str::from_utf8(user).ok()?).ok()?,
        key_digest,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(secret: &str, instance: &str) -> RequestIds {
        RequestIds::new(&Keys::derive(secret.as_bytes()), instance)
    }

    fn longest() -> RequestContent {
        RequestContent {
            position: Position { log_epoch: u32::MAX, partition: u32::MAX, offset: u64::MAX },
            time: Timestamp::MAX,
            campaign: CampaignId::parse(&"c".repeat(64)).unwrap(),
            user: UserId::parse(&"U".repeat(UserId::BYTES_MAX)).unwrap(),
            key_digest: Some([7; 16]),
        }
    }

    #[test]
    fn the_longest_id_keeps_length_and_alphabet() {
        let id = ids("secret", &"i".repeat(64)).seal(&longest());
        assert!(id.len() <= REQUEST_ID_BYTES_MAX, "{} bytes", id.len());
        let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        assert!(id.bytes().all(url_safe));
    }

    #[test]
    fn an_id_altered_anywhere_opens_nothing() {
        let ids = ids("secret", "a");
        let id = ids.seal(&longest());
        for at in 0..id.len() {
            let mut altered = id.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(ids.open(&altered), None, "altered at {at}");
        }
        for text in ["", "A", "not an id", &id[..id.len() - 1], &format!("{id}A"), &"A".repeat(801)]
        {
            assert_eq!(ids.open(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_id_opens_only_in_its_instance() {
        let id = ids("secret", "a").seal(&longest());
        assert_eq!(ids("secret", "a").open(&id), Some(longest()));
        assert_eq!(ids("secret", "b").open(&id), None);
        assert_eq!(ids("other", "a").open(&id), None);
    }

    #[test]
    fn an_id_of_another_format_or_key_opens_nothing() {
        let ids = ids("secret", "a");
        let bytes = URL_SAFE_NO_PAD.decode(ids.seal(&longest())).unwrap();
        for at in 0..HEADER_BYTES {
            let mut other = bytes.clone();
            other[at] += 1;
            assert_eq!(ids.open(&URL_SAFE_NO_PAD.encode(other)), None);
        }
    }

    proptest! {
        #[test]
        fn a_sealed_id_opens_to_its_content(
            (log_epoch, partition, offset) in any::<(u32, u32, u64)>(),
            time in any::<i64>(),
            campaign in "[a-z0-9][a-z0-9-]{0,63}",
            user in "[!-~]{3,255}",
            key_digest in any::<Option<[u8; 16]>>(),
        ) {
            let ids = ids("secret", "instance");
            let content = RequestContent {
                position: Position { log_epoch, partition, offset },
                time: Timestamp(time),
                campaign: CampaignId::parse(&campaign).unwrap(),
                user: UserId::parse(&user).unwrap(),
                key_digest,
            };
            let id = ids.seal(&content);
            prop_assert_eq!(ids.seal(&content), id.clone());
            prop_assert_eq!(ids.open(&id), Some(content));
        }
    }
}
