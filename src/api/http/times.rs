//! Times in bodies: RFC 3339; written in UTC with milliseconds.

use jiff::{
    SignedDuration,
    civil::DateTime,
    fmt::temporal::{DateTimePrinter, Pieces},
};
use serde::{Serialize, Serializer};

use crate::domain::ids::Timestamp;

/// The rule for incoming times.
pub(crate) const RULE: &str = "an RFC 3339 time with an offset, from 1970 to 9999";

/// Civil time counts the milliseconds: `jiff::Timestamp` ends a day before [`Timestamp::MAX`].
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A time that is written as RFC 3339, in UTC, with three fractional digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rfc3339(pub(super) Timestamp);

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let since = SignedDuration::from_millis(self.0.0.clamp(0, Timestamp::MAX.0));
        let time = EPOCH.checked_add(since).map_err(serde::ser::Error::custom)?;
        let mut text = String::with_capacity("2026-01-01T12:00:00.000Z".len());
        PRINTER.print_datetime(&time, &mut text).map_err(serde::ser::Error::custom)?;
        text.push('Z');
        serializer.serialize_str(&text)
    }
}

/// Reads an RFC 3339 time of any offset, and cuts it to milliseconds.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    // jiff also takes dates alone, offsets without colon, time zones, and leap seconds, which it
    // moves. A window must open exactly at the time that was written.
    if !has_rfc_3339_shape(text) || text.get(17..19) == Some("60") {
        return None;
    }
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.to_numeric_offset()?.seconds();
    if offset.unsigned_abs() >= 24 * 3_600 {
        return None;
    }
    let local = pieces.date().to_datetime(pieces.time()?);
    let nanos = local.duration_since(EPOCH).as_nanos() - i128::from(offset) * 1_000_000_000;
    let time = Timestamp(i64::try_from(nanos.div_euclid(1_000_000)).ok()?);
    time.is_representable().then_some(time)
}

/// Returns whether the text is `0000-00-00T00:00:00`, 1 to 9 fractional digits if any, and `Z` or
/// `+00:00`, in any digits.
fn has_rfc_3339_shape(text: &str) -> bool {
    let zeros = text.replace(|c: char| c.is_ascii_digit(), "0").to_ascii_uppercase();
    let Some((date, time)) = zeros.split_once(['T', ' ']) else { return false };
    let Some(rest) = time.strip_prefix("00:00:00") else { return false };
    let (fraction, offset) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.len() - rest.trim_start_matches('0').len()),
        None => ("0", rest),
    };
    date == "0000-00-00"
        && (1..=9).contains(&fraction.len())
        && matches!(offset, "Z" | "+00:00" | "-00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let written = parse(text).map(|time| serde_json::to_string(&Rfc3339(time)).unwrap());
        assert_eq!(written.as_deref().map(|text| text.trim_matches('"')), expected, "{text:?}");
    }

    #[test]
    fn times_become_utc_with_milliseconds() {
        for (text, written) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
            ("2026-11-27T12:00:00Z", "2026-11-27T12:00:00.000Z"),
            ("2026-11-27T12:00:00.5z", "2026-11-27T12:00:00.500Z"),
            ("2026-11-27t12:00:00.05Z", "2026-11-27T12:00:00.050Z"),
            ("2026-11-27 12:00:00.123+09:00", "2026-11-27T03:00:00.123Z"),
            ("2026-11-27T12:00:00.123000-00:30", "2026-11-27T12:30:00.123Z"),
            ("2026-11-27T12:00:00-00:00", "2026-11-27T12:00:00.000Z"),
            ("2024-02-29T00:00:00+23:59", "2024-02-28T00:01:00.000Z"),
            ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("2026-11-27T12:00:00.1239Z", "2026-11-27T12:00:00.123Z"),
            ("2026-11-27T12:00:00.123456789Z", "2026-11-27T12:00:00.123Z"),
            ("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999Z"),
        ] {
            check(text, Some(written));
        }
    }

    #[test]
    fn an_out_of_range_time_is_clamped() {
        for (millis, written) in [
            (-1, "1970-01-01T00:00:00.000Z"),
            (i64::MIN, "1970-01-01T00:00:00.000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
        ] {
            let text = serde_json::to_string(&Rfc3339(Timestamp(millis))).unwrap();
            assert_eq!(text.trim_matches('"'), written);
        }
    }

    #[test]
    fn what_is_not_rfc_3339_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-27",
            "2026-11-27T12:00:00",
            "2026-11-27T12:00Z",
            "2026-11-27T12:00:00.Z",
            "2026-11-27T12:00:00.1234567890Z",
            "2026-11-27T12:00:00,5Z",
            "2026-11-27T12:00:60Z",
            "2026-11-27T24:00:00Z",
            "2026-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-11-27T12:00:00+0900",
            "2026-11-27T12:00:00+09",
            "2026-11-27T12:00:00+24:00",
            "2026-11-27T12:00:00+09:60",
            "2026-11-27T12:00:00Z[UTC]",
            "+002026-11-27T12:00:00Z",
            "2026-11-27T1\u{e9}:00:00Z",
            "1969-12-31T23:59:59.999Z",
            "1969-12-31T23:59:59.9999Z",
            "9999-12-31T23:59:59.999-00:01",
            "0000-01-01T00:00:00Z",
        ] {
            check(text, None);
        }
    }
}
