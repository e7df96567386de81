//! Keyed digests over whole rows and records. They detect altered rows and records.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::{
    change::ChangeRow,
    code::CodeFormat,
    coupon::Coupon,
    decision::Refusal,
    definition::{Definition, DefinitionVersion, Term, TermValue, Terms},
    ids::Position,
    keys::{KEY_ID, Keys},
    record::Change,
};

impl Keys {
    /// Returns the digest over a whole coupon row.
    #[must_use]
    pub fn coupon_digest(&self, coupon: &Coupon) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"coupon");
        hasher.text(coupon.campaign.as_str());
        hasher.write(&coupon.sequence.to_le_bytes());
        hasher.text(coupon.user.as_str());
        hasher.text(&coupon.code);
        let mut rest = [0; 44];
        rest[..8].copy_from_slice(&coupon.issued_at.0.to_le_bytes());
        rest[8..24].copy_from_slice(&position_bytes(coupon.position));
        rest[24] = u8::from(coupon.key_digest.is_some());
        rest[25..41].copy_from_slice(&coupon.key_digest.unwrap_or_default());
        rest[41] = coupon.user_bucket;
        rest[42..].copy_from_slice(&coupon.rules_version.to_le_bytes());
        hasher.write(&rest);
        hasher.finish()
    }

    /// Returns the digest over a whole definition version row.
    #[must_use]
    pub fn version_digest(&self, version: &DefinitionVersion) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"version");
        hasher.text(version.campaign.as_str());
        hasher.position(version.position);
        hasher.write(&version.time.0.to_le_bytes());
        hasher.write(&version.issued.to_le_bytes());
        hasher.definition(&version.definition);
        hasher.finish()
    }

    /// Returns the digest over a whole change row.
    #[must_use]
    pub fn change_digest(&self, row: &ChangeRow) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"change");
        hasher.text(row.campaign.as_str());
        hasher.position(row.position);
        hasher.write(&row.time.0.to_le_bytes());
        hasher.text(&row.by);
        hasher.write(&[u8::from(row.retried)]);
        hasher.change(&row.change);
        for definition in [&row.before, &row.after] {
            hasher.write(&[u8::from(definition.is_some())]);
            definition.iter().for_each(|definition| hasher.definition(definition));
        }
        let (kind, issued) = match row.refusal {
            None => (0, 0),
            Some(Refusal::StaleVersion) => (1, 0),
            Some(Refusal::QuotaBelowIssued { issued }) => (2, issued),
            Some(Refusal::Closed) => (3, 0),
            Some(Refusal::Invalid) => (4, 0),
        };
        hasher.write(&[kind]);
        hasher.write(&issued.to_le_bytes());
        hasher.finish()
    }

    /// Returns the digest of a log record. It detects a rewritten tail of the log.
    #[must_use]
    pub fn record_digest(&self, key: &[u8], value: &[u8]) -> [u8; 16] {
        let mut hasher = self.row_hasher(b"record");
        hasher.write(&(key.len() as u64).to_le_bytes());
        hasher.write(key);
        hasher.write(value);
        hasher.finish()
    }

    fn row_hasher(&self, kind: &[u8]) -> RowHasher {
        let (k0, k1) = self.row;
        let hasher = SipHasher24::new_with_keys(k0, k1);
        let mut hasher = RowHasher { hasher, packed: [0; PACKED_BYTES], len: 0 };
        hasher.write(&[KEY_ID]);
        hasher.write(kind);
        hasher
    }
}

/// Bytes that are packed before they are hashed. A coupon with ids of usual length has about 200.
const PACKED_BYTES: usize = 256;

/// Hashes the fields of a row. Packs them first, because one long input is hashed several times
/// faster than many short ones.
struct RowHasher {
    hasher: SipHasher24,
    packed: [u8; PACKED_BYTES],
    len: usize,
}

impl RowHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        if let Some(room) = self.packed[self.len..].get_mut(..bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
            return;
        }
        self.hasher.write(&self.packed[..self.len]);
        self.hasher.write(bytes);
        self.len = 0;
    }

    fn text(&mut self, text: &str) {
        self.write(&(text.len() as u64).to_le_bytes());
        self.write(text.as_bytes());
    }

    fn position(&mut self, position: Position) {
        self.write(&position_bytes(position));
    }

    /// Hashes the name and value of each term that has a value. Their count comes first and shows
    /// where they end.
    fn terms(&mut self, terms: &Terms) {
        let given = || Term::ALL.iter().filter_map(|term| Some((term.name(), terms.get(*term)?)));
        self.write(&(given().count() as u64).to_le_bytes());
        for (name, value) in given() {
            self.text(name);
            self.value(value);
        }
    }

    fn value(&mut self, value: TermValue) {
        match value {
            TermValue::Whole(number) => self.write(&number.to_le_bytes()),
            TermValue::Time(time) => self.write(&time.0.to_le_bytes()),
            TermValue::Text(text) => self.text(&text),
            TermValue::Flag(flag) => self.write(&[u8::from(flag)]),
            TermValue::Code(CodeFormat { prefix, length, charset, group }) => {
                self.text(&prefix);
                self.write(&length.to_le_bytes());
                self.text(&charset);
                self.write(&group.unwrap_or_default().to_le_bytes());
            }
        }
    }

    fn definition(&mut self, definition: &Definition) {
        let Definition { terms, paused, closed, rules_version, user_buckets } = definition;
        self.terms(terms);
        self.write(&[u8::from(*paused), u8::from(*closed)]);
        self.write(&rules_version.to_le_bytes());
        self.write(&[*user_buckets]);
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Defined { terms } => {
                self.write(&[1]);
                self.terms(terms);
            }
            Change::Amended { amendment } => {
                self.write(&[2]);
                let given = || {
                    Term::AMENDABLE.iter().filter_map(|term| Some((term, amendment.get(*term)?)))
                };
                self.write(&(given().count() as u64).to_le_bytes());
                for (term, value) in given() {
                    self.text(term.name());
                    self.write(&[u8::from(value.is_some())]);
                    value.into_iter().for_each(|value| self.value(value));
                }
            }
            Change::Paused => self.write(&[3]),
            Change::Resumed => self.write(&[4]),
            Change::Closed => self.write(&[5]),
            Change::Released { holds } => {
                self.write(&[6]);
                self.write(&(holds.len() as u64).to_le_bytes());
                for hold in holds {
                    self.write(&hold.from.to_le_bytes());
                    self.write(&hold.number.to_le_bytes());
                }
            }
        }
    }

    fn finish(mut self) -> [u8; 16] {
        self.hasher.write(&self.packed[..self.len]);
        self.hasher.finish128().as_bytes()
    }
}

fn position_bytes(position: Position) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&position.log_epoch.to_le_bytes());
    bytes[4..8].copy_from_slice(&position.partition.to_le_bytes());
    bytes[8..].copy_from_slice(&position.offset.to_le_bytes());
    bytes
}
