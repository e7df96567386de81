//! `Prefer: wait=N` (RFC 7240), as lenient as the RFC asks: what can't be read is ignored.

use std::borrow::Cow;

use axum::http::HeaderMap;

/// Longest wait for a decision, in seconds: below what common gateways allow a request.
pub(super) const WAIT_SECONDS_MAX: u64 = 30;

/// The whole seconds that the client is willing to wait, if it says so, at most
/// [`WAIT_SECONDS_MAX`]. Of several preferences of this name the first counts, also where its
/// value is one that must be ignored.
pub(super) fn wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").into_iter();
    let value = values.flat_map(|value| preferences(value.as_bytes())).find_map(wait_value)?;
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let seconds: u64 = digits.then(|| std::str::from_utf8(&value).ok()?.parse().ok()).flatten()?;
    (seconds <= WAIT_SECONDS_MAX).then_some(seconds)
}

/// The value of a preference named `wait`, without quotes; empty where it has none.
fn wait_value(preference: &[u8]) -> Option<Cow<'_, [u8]>> {
    let unparameterised = split(preference, b';').next()?;
    let equals = unparameterised.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(at) => (&unparameterised[..at], &unparameterised[at + 1..]),
        None => (unparameterised, &b""[..]),
    };
    name.trim_ascii().eq_ignore_ascii_case(b"wait").then(|| unquoted(value.trim_ascii()))
}

fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => text.extend(bytes.next()),
            byte => text.push(*byte),
        }
    }
    Cow::Owned(text)
}

fn preferences(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    split(value, b',')
}

/// Splits at a separator that stands outside of quoted strings.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        let literal = std::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted => escaped = !literal,
            b'"' if !literal => quoted = !quoted,
            byte => return *byte == separator && !quoted,
        }
        false
    })
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
    fn a_wait_is_found_wherever_the_rfc_allows_it() {
        for (values, seconds) in [
            (&["wait=5"][..], 5),
            (&["wait=0"], 0),
            (&["wait=30"], 30),
            (&["wait=005"], 5),
            (&["WAIT=5"], 5),
            (&["  Wait \t=  5  "], 5),
            (&["wait=\"5\""], 5),
            (&["wait=\"\\5\""], 5),
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
