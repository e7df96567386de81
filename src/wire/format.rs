//! The format number of all stored and sent data, and the check of stored data against it.

use crate::domain::identity_fold::IdentityFold;

/// The format number of an instance: of its layout, rows, control records, feed messages, request
/// ids and data folder. Before 1.0, data of any other number is refused and not changed.
///
/// A change that older nodes can ignore, for example a new column, does not raise it.
pub const FORMAT: u8 = 6;

/// Stored data that this version neither reads nor changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtherFormat {
    /// The format number differs.
    #[error("has format {found}, this version of coupond reads and writes only format {FORMAT}")]
    Number {
        /// The stored number.
        found: u32,
    },
    /// User ids are folded in a way that this version does not know.
    #[error(
        "has identity_fold {found:?}, this version of coupond knows only \"none\" and \"lower\""
    )]
    IdentityFold {
        /// The stored fold.
        found: String,
    },
}

/// Refuses a stored format number other than [`FORMAT`].
///
/// # Errors
/// [`OtherFormat::Number`].
pub fn check_number(found: u32) -> Result<(), OtherFormat> {
    if found == u32::from(FORMAT) { Ok(()) } else { Err(OtherFormat::Number { found }) }
}

/// Refuses a stored fold that this version does not know. Whether it is the one of the settings is another
/// question.
///
/// # Errors
/// [`OtherFormat::IdentityFold`].
pub fn check_identity_fold(found: &str) -> Result<(), OtherFormat> {
    let refusal = || OtherFormat::IdentityFold { found: found.to_owned() };
    IdentityFold::parse(found).map(|_| ()).ok_or_else(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_format_is_taken() {
        assert_eq!(check_number(FORMAT.into()), Ok(()));
        for found in [0, 1, 2, 3, 4, 5, 7, 262] {
            assert_eq!(check_number(found), Err(OtherFormat::Number { found }));
        }
        for fold in ["none", "lower"] {
            assert_eq!(check_identity_fold(fold), Ok(()));
        }
        let refused = check_identity_fold("upper").unwrap_err().to_string();
        assert_eq!(
            refused,
            "has identity_fold \"upper\", this version of coupond knows only \"none\" and \"lower\""
        );
    }
}
