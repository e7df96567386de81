//! `Prefer: wait=N` (RFC 7240). A preference that cannot be read is ignored, as the RFC asks.

use axum::http::HeaderMap;

/// Longest wait for a decision, in seconds. Common gateways allow a request more.
pub(super) const WAIT_SECONDS_MAX: u64 = 30;

/// Returns the seconds that the client is willing to wait, at most [`WAIT_SECONDS_MAX`]. Of several
/// `wait` preferences the first counts, even if its value must be ignored.
pub(super) fn wait(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all("prefer").into_iter();
    let value = values.find_map(|value| {
        let value = masked(value.as_bytes());
        value.split(',').find_map(|preference| {
            let preference = preference.split(';').next()?;
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let is_wait = name.trim_ascii().eq_ignore_ascii_case("wait");
            is_wait.then(|| value.trim_ascii().to_owned())
        })
    })?;
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let digits = quoted.unwrap_or(&value);
    let seconds: u64 = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse().ok()?,
        false => return None,
    };
    (seconds <= WAIT_SECONDS_MAX).then_some(seconds)
}

/// Replaces every byte of a quoted string that is no digit, so that the separators left are real
/// ones. The backslash of a quoted pair is dropped.
fn masked(value: &[u8]) -> String {
    let (mut text, mut quoted) = (String::with_capacity(value.len()), false);
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        let literal = if byte == b'\\' && quoted { bytes.next() } else { None };
        quoted ^= byte == b'"';
        text.push(match literal.unwrap_or(byte) {
            byte if byte.is_ascii_digit() => char::from(byte),
            b'"' if literal.is_none() => '"',
            _ if quoted => '_',
            byte => char::from(byte),
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(values: &[&str], expected: Option<u64>) {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static("prefer"), value);
        }
        assert_eq!(wait(&headers), expected, "{values:?}");
    }

    #[test]
    fn a_wait_is_found_where_rfc_7240_allows_it() {
        for (values, seconds) in [
            (&["wait=5"][..], 5),
            (&["wait=0"], 0),
            (&["wait=30"], 30),
            (&["wait=005"], 5),
            (&["WAIT=5"], 5),
            (&["  Wait \t=  5  "], 5),
            (&["wait=\"5\""], 5),
            (&["wait=\"\\5\""], 5),
            (&["foo=\"\\\\\", wait=5"], 5),
            (&["wait=5;foo=bar"], 5),
            (&["wait=5; foo; bar=\"x;y,z\""], 5),
            (&["respond-async, wait=5"], 5),
            (&["respond-async,wait=5,handling=lenient"], 5),
            (&["respond-async", "return=minimal, wait=5"], 5),
            (&["foo=\"a, wait=9\", wait=5"], 5),
            (&["foo=\"a\\\", wait=9\", wait=5"], 5),
            (&["foo;wait=9, wait=5"], 5),
            (&[",, wait=5"], 5),
            (&["wait=5, wait=9"], 5),
            (&["wait=5", "wait=9"], 5),
        ] {
            check(values, Some(seconds));
        }
    }

    #[test]
    fn anything_else_is_ignored() {
        for values in [
            &[][..],
            &[""],
            &["wait"],
            &["wait="],
            &["wait=\"\""],
            &["wait=31"],
            &["wait=-1"],
            &["wait=+1"],
            &["wait=5.0"],
            &["wait=5s"],
            &["wait=5 5"],
            &["wait=\"5"],
            &["wait=5\""],
            &["wait=\"5,\""],
            &["\"wait\"=5"],
            &["wait=18446744073709551616"],
            &["waits=5"],
            &["x-wait=5"],
            &["foo=\"wait=5\""],
            &["wait=soon, wait=5"],
            &["wait=31", "wait=5"],
            &["w\u{e4}it=5"],
        ] {
            check(values, None);
        }
    }
}
