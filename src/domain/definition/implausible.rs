//! What is allowed in a definition and is probably a slip. It is told, and changes nothing.

use super::{Terms, Timestamp};

const DAY_MS: i64 = 86_400_000;

/// How far ahead a window is probably meant: few events are announced for longer.
const OPENS_WITHIN_MS: i64 = 366 * DAY_MS;

/// How far ahead a window probably ends.
const CLOSES_WITHIN_MS: i64 = 5 * 366 * DAY_MS;

/// A shorter window is over before most clients have heard of it.
const WINDOW_MS_MIN: i64 = 60_000;

/// A larger quota is probably one digit too long.
const QUOTA_USUAL: u32 = 10_000_000;

impl Terms {
    /// Returns what is implausible in these terms at `now`, as sentences that begin with the field.
    #[must_use]
    pub fn implausible(&self, now: Timestamp) -> Vec<String> {
        let ahead = |time: Option<Timestamp>| time.map(|time| time.0 - now.0);
        let mut found = Vec::new();
        if self.quota == 0 {
            found.push("quota is 0: no coupon is issued until it is raised".to_owned());
        } else if self.quota > QUOTA_USUAL {
            found.push(format!("quota is above {QUOTA_USUAL}: is it a digit too long?"));
        }
        if ahead(self.opens_at).is_some_and(|ahead| ahead > OPENS_WITHIN_MS) {
            found.push("opens_at is more than a year ahead: is the year right?".to_owned());
        }
        match ahead(self.closes_at) {
            Some(ahead) if ahead <= 0 => {
                found.push("closes_at is over: the campaign is closed".to_owned());
            }
            Some(ahead) if ahead > CLOSES_WITHIN_MS => {
                found
                    .push("closes_at is more than five years ahead: is the year right?".to_owned());
            }
            _ => {}
        }
        if let (Some(opens_at), Some(closes_at)) = (self.opens_at, self.closes_at)
            && closes_at.0 - opens_at.0 < WINDOW_MS_MIN
        {
            found.push("closes_at is less than a minute after opens_at".to_owned());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_780_800_000;

    /// Returns the first words of what is implausible in terms with this quota and window, in days from now.
    fn fields(quota: u32, opens: Option<i64>, closes: Option<i64>) -> Vec<String> {
        let time = |days: i64| Timestamp(NOW + days * DAY_MS);
        let (opens_at, closes_at) = (opens.map(time), closes.map(time));
        let terms = Terms { opens_at, closes_at, ..Terms::of(quota) };
        let found = terms.implausible(Timestamp(NOW));
        found.iter().map(|text| text.split(' ').next().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn a_usual_definition_is_plausible() {
        for (opens, closes) in
            [(None, None), (Some(-1), None), (Some(0), Some(1)), (Some(366), Some(1_830))]
        {
            assert_eq!(fields(10_000_000, opens, closes), Vec::<String>::new());
        }
    }

    #[test]
    fn a_slip_is_told() {
        assert_eq!(fields(0, None, None), ["quota"]);
        assert_eq!(fields(10_000_001, None, None), ["quota"]);
        assert_eq!(fields(1, Some(367), None), ["opens_at"]);
        assert_eq!(fields(1, None, Some(0)), ["closes_at"]);
        assert_eq!(fields(1, None, Some(1_831)), ["closes_at"]);
        assert_eq!(fields(0, Some(367), Some(-3)), ["quota", "opens_at", "closes_at", "closes_at"]);
        let short = Terms {
            opens_at: Some(Timestamp(NOW)),
            closes_at: Some(Timestamp(NOW + WINDOW_MS_MIN - 1)),
            ..Terms::of(1)
        };
        assert_eq!(short.implausible(Timestamp(NOW - 1)).len(), 1);
    }
}
