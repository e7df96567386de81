//! Times on the wire: RFC 3339, UTC and milliseconds on the way out.

use jiff::{SignedDuration, civil::DateTime, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};

use crate::domain::ids::Timestamp;

/// What an incoming time must be.
pub(crate) const RULE: &str = "an RFC 3339 time with an offset, in whole milliseconds, from 1970 \
                               to 9999";

/// Civil time counts the milliseconds: `jiff::Timestamp` ends a day before [`Timestamp::MAX`].
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A time that is written as RFC 3339, UTC, with exactly three digits of a second.
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

/// Reads an RFC 3339 time. Any offset is taken. Digits below the millisecond are refused unless
/// they are zeros, and so is a leap second: what would be kept is not what was asked for.
pub(crate) fn parse(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let separators = [(4, b"-".as_slice()), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if separators.iter().any(|(at, allowed)| !bytes.get(*at).is_some_and(|b| allowed.contains(b))) {
        return None;
    }
    let year = number(bytes.get(..4)?)?;
    let [month, day, hour, minute, second] =
        [5, 8, 11, 14, 17].map(|at| bytes.get(at..at + 2).and_then(number));
    let (millis, offset) = fraction(bytes.get(19..)?)?;
    let offset_minutes = offset_minutes(offset)?;
    let (hour, minute, second) = (hour?, minute?, second?);
    if second > 59 {
        return None;
    }
    let local = DateTime::new(
        i16::try_from(year).ok()?,
        i8::try_from(month?).ok()?,
        i8::try_from(day?).ok()?,
        i8::try_from(hour).ok()?,
        i8::try_from(minute).ok()?,
        i8::try_from(second).ok()?,
        0,
    );
    let since = i64::try_from(local.ok()?.duration_since(EPOCH).as_millis()).ok()?;
    let time = Timestamp(since + millis - offset_minutes * 60_000);
    time.is_representable().then_some(time)
}

/// A number of ASCII digits only.
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Splits `.123Z` into milliseconds and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, offset) = text.split_at(length);
    let (kept, dropped) = digits.split_at(length.min(3));
    if dropped.iter().any(|digit| *digit != b'0') {
        return None;
    }
    let scale = [100, 10, 1].get(kept.len().checked_sub(1)?)?;
    Some((number(kept)? * scale, offset))
}

fn offset_minutes(text: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match text {
        b"Z" | b"z" => return Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] if hours.len() == 2 => {
            (*sign, number(hours)?, number(&[*m1, *m2])?)
        }
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let minutes = hours * 60 + minutes;
    Some(if sign == b'-' { -minutes } else { minutes })
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
    fn times_of_any_offset_become_utc_with_milliseconds() {
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
        ] {
            check(text, Some(written));
        }
    }

    #[test]
    fn a_time_out_of_range_is_written_as_the_nearest_in_range() {
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
    fn what_rfc_3339_does_not_write_or_would_be_altered_is_refused() {
        for text in [
            "",
            "now",
            "2026-11-27",
            "2026-11-27T12:00:00",
            "2026-11-27T12:00Z",
            "2026-11-27T12:00:00.Z",
            "2026-11-27T12:00:00.1234Z",
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
            "9999-12-31T23:59:59.999-00:01",
            "0000-01-01T00:00:00Z",
        ] {
            check(text, None);
        }
    }
}
