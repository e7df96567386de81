//! How user ids are folded before they are compared.

use super::ids::{InvalidId, UserId};

/// What happens to the letters of a user id that a caller of the public listener gives. Fixed at the
/// first start of an instance: with another fold, users would lose their coupons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdentityFold {
    /// Nothing: `Ada` and `ada` are two users.
    #[default]
    None,
    /// Letters are lowered: `Ada` is the user `ada`.
    Lower,
}

impl IdentityFold {
    const ALL: [Self; 2] = [Self::None, Self::Lower];

    /// Returns the name in settings and in the layout.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lower => "lower",
        }
    }

    /// Returns the fold of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fold| fold.name() == name)
    }

    /// Parses the id that a caller gives, and folds it.
    ///
    /// # Errors
    /// As [`UserId::parse`].
    pub fn user(self, text: &str) -> Result<UserId, InvalidId> {
        match self {
            Self::None => UserId::parse(text),
            // User ids are ASCII, so that every letter has one lower case.
            Self::Lower => UserId::parse(&text.to_ascii_lowercase()),
        }
    }

    /// Folds an id.
    #[must_use]
    pub fn of(self, user: UserId) -> UserId {
        // The rule of ids does not look at the case of letters, so that folding breaks none.
        self.user(user.as_str()).unwrap_or(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_letters_are_folded() {
        let folded = |fold: IdentityFold| fold.user("Ada.O'X+1@EXAMPLE.com[Z]").unwrap();
        assert_eq!(folded(IdentityFold::None).as_str(), "Ada.O'X+1@EXAMPLE.com[Z]");
        assert_eq!(folded(IdentityFold::Lower).as_str(), "ada.o'x+1@example.com[z]");
        // The sign of a degree Kelvin has the lower case `k`, and is no ASCII.
        assert!(IdentityFold::Lower.user("\u{212a}").is_err());
    }

    #[test]
    fn folds_have_names() {
        for fold in IdentityFold::ALL {
            assert_eq!(IdentityFold::parse(fold.name()), Some(fold));
        }
        assert_eq!(IdentityFold::parse("upper"), None);
    }
}
