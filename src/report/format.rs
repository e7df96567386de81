//! Numbers, targets and times as text.

use super::model::{Bound, Measure, Target, Unit};
use crate::domain::ids::Timestamp;

/// Bytes of a MiB.
const MIB: f64 = 1_048_576.0;

/// Returns a measure with its unit.
pub(super) fn measure(measure: &Measure) -> String {
    match measure {
        Measure::Number { value, unit } => number(*value, *unit),
        Measure::Text(text) => text.clone(),
    }
}

/// Returns a number with its unit.
pub(super) fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => grouped(value, 0),
        Unit::PerSecond => format!("{}/s", scaled(value)),
        Unit::Milliseconds => format!("{} ms", scaled(value)),
        Unit::Seconds => format!("{} s", scaled(value)),
        Unit::Bytes => format!("{} MiB", grouped(value / MIB, 0)),
        Unit::Percent => format!("{} %", grouped(value, 2)),
        Unit::Cores => format!("{} cores", grouped(value, 2)),
    }
}

/// Returns a number of an axis; its unit is in the chart's title.
pub(super) fn tick(value: f64, unit: Unit) -> String {
    let value = if unit == Unit::Bytes { value / MIB } else { value };
    if value == 0.0 || value.abs() >= 10.0 { grouped(value, 0) } else { grouped(value, 2) }
}

/// Returns a target as "≤ 20.0 ms".
pub(super) fn target(target: &Target) -> String {
    let sign = match target.bound {
        Bound::AtLeast => "≥",
        Bound::AtMost => "≤",
    };
    format!("{sign} {}", number(target.value, target.unit))
}

/// Returns how much the second number is above or below the first.
pub(super) fn change(before: f64, after: f64) -> String {
    if before == after {
        return "same".to_owned();
    }
    if before == 0.0 {
        return "–".to_owned();
    }
    format!("{:+.1} %", 100.0 * (after - before) / before)
}

/// Returns a time as `2026-12-01 12:00:00Z`.
pub(super) fn time(at: Timestamp) -> String {
    shown(at, "%Y-%m-%d %H:%M:%SZ")
}

/// Returns the time of day, some seconds after `start`, as `12:00:03Z`.
pub(super) fn clock(start: Timestamp, seconds: f64) -> String {
    shown(Timestamp(start.0 + (seconds * 1_000.0).round() as i64), "%H:%M:%SZ")
}

fn shown(at: Timestamp, form: &str) -> String {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or_else(|_| format!("{} ms", at.0), |time| time.strftime(form).to_string())
}

/// Small numbers with two or one digits after the point, others with none.
fn scaled(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => grouped(value, 2),
        size if size < 1_000.0 => grouped(value, 1),
        _ => grouped(value, 0),
    }
}

/// Returns a number with a comma after each three digits.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |whole| ("-", whole));
    let mut result = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            result.push(',');
        }
        result.push(digit);
    }
    if !fraction.is_empty() {
        result.push('.');
        result.push_str(fraction);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_their_unit() {
        for (value, unit, expected) in [
            (49_330.0, Unit::Count, "49,330"),
            (0.0, Unit::Count, "0"),
            (-1_234.0, Unit::Count, "-1,234"),
            (164.4, Unit::PerSecond, "164.4/s"),
            (51.0, Unit::Milliseconds, "51.0 ms"),
            (4.125, Unit::Milliseconds, "4.12 ms"),
            (944.0 * MIB, Unit::Bytes, "944 MiB"),
            (20.126, Unit::Percent, "20.13 %"),
        ] {
            assert_eq!(number(value, unit), expected);
        }
    }

    #[test]
    fn a_time_carries_its_zone() {
        assert_eq!(time(Timestamp(0)), "1970-01-01 00:00:00Z");
        assert_eq!(clock(Timestamp(0), 61.5), "00:01:01Z");
    }
}
