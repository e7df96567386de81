//! Times, `Prefer` and queries, each compared with a reader that follows the page of the API word by
//! word.

use std::ops::Range;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, uri::PathAndQuery};

use super::told;
use crate::{
    api::http::{
        edge,
        fields::{campaign_id, digits},
        prefer, public,
        times::{self, Rfc3339},
    },
    domain::{
        definition::Audience,
        ids::{CampaignId, Timestamp},
    },
    fuzz,
};

fn inputs(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

#[test]
fn a_time_is_the_one_that_was_written() {
    let valid = inputs(&[
        "1970-01-01T00:00:00Z",
        "2026-11-27 12:00:00.123456789+09:00",
        "2026-11-27t12:59:59.9z",
        "2024-02-29T23:59:59-23:59",
        "2000-02-29T00:00:00.000-00:00",
        "1969-12-31T23:00:00.1-01:00",
        "9999-12-31T23:59:59.999Z",
        "2026-12-31T00:00:60Z",
    ]);
    fuzz::run(&valid, &["time", "refused"], |input, _| {
        let text = String::from_utf8_lossy(input);
        let read = times::parse(&text);
        assert_eq!(read, documented_time(text.as_bytes()), "{text}");
        let Some(time) = read else { return "refused" };
        let written = serde_json::to_string(&Rfc3339(time)).unwrap();
        assert_eq!(written.len(), "\"2026-01-01T12:00:00.000Z\"".len());
        assert_eq!(times::parse(written.trim_matches('"')), Some(time));
        "time"
    });
}

/// Reads an RFC 3339 time by the positions of its digits, and cuts it to milliseconds.
fn documented_time(text: &[u8]) -> Option<Timestamp> {
    let number = |range: Range<usize>| {
        let digits = text.get(range)?;
        let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
        is_number.then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let has = |at: usize, any: &[u8]| text.get(at).is_some_and(|byte| any.contains(byte));
    if !(has(4, b"-") && has(7, b"-") && has(10, b"Tt ") && has(13, b":") && has(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let days = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let place = usize::try_from(month - 1).ok()?;
    if day < 1 || day > *days.get(place)? || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    let mut millis = 0;
    if has(at, b".") {
        let end = (20..).find(|at| !has(*at, b"0123456789"))?;
        if !(1..=9).contains(&(end - 20)) {
            return None;
        }
        millis = number(20..end.min(23))? * [100, 10, 1][end.min(23) - 21];
        at = end;
    }
    let offset = if has(at, b"Zz") && text.len() == at + 1 {
        0
    } else {
        let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
        let is_offset = has(at, b"+-") && has(at + 3, b":") && text.len() == at + 6;
        if !is_offset || hours > 23 || minutes > 59 {
            return None;
        }
        (hours * 60 + minutes) * if has(at, b"-") { -1 } else { 1 }
    };
    // With its offset, a time of 1969 may be one of 1970; none before is.
    let start = match year {
        ..1969 => return None,
        1969 => -365,
        _ => (1970..year).map(|year| 365 + i64::from(leap(year))).sum(),
    };
    let day_of_year: i64 = days[..place].iter().sum::<i64>() + day - 1;
    let minutes = ((start + day_of_year) * 24 + hour) * 60 + minute - offset;
    let time = Timestamp((minutes * 60 + second) * 1_000 + millis);
    time.is_representable().then_some(time)
}

fn leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[test]
fn a_wait_is_found_as_rfc_7240_says() {
    let valid = inputs(&[
        "wait=5",
        "WAIT = \"30\"",
        "respond-async, wait=005; a=\"b;,c\"",
        "foo=\"a\\\", wait=9\", wait=\"\\7\"",
        "handling=lenient;wait=9\nreturn=minimal, wait=0",
        ",, x;y;z=\"\\\\\" ,wait=31",
        "wait",
        "wait=\"5 \"",
    ]);
    fuzz::run(&valid, &["wait", "ignored", "malformed", "no header"], |input, _| {
        let mut headers = HeaderMap::new();
        for line in input.split(|byte| *byte == b'\n') {
            let Ok(value) = HeaderValue::from_bytes(line) else { return "no header" };
            headers.append(HeaderName::from_static("prefer"), value);
        }
        let found = prefer::wait(&headers);
        assert!(found.is_none_or(|seconds| seconds <= 30), "{found:?}");
        let lines = headers.get_all("prefer").iter().map(HeaderValue::as_bytes);
        let Some(read) = lines.map(preferences).collect::<Option<Vec<_>>>() else {
            return "malformed";
        };
        let wait = read.into_iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case(b"wait"));
        let is_number = |value: &Vec<u8>| !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let digits = wait.map(|(_, value)| value).filter(is_number);
        let seconds = digits.and_then(|digits| String::from_utf8(digits).unwrap().parse().ok());
        assert_eq!(found, seconds.filter(|seconds| *seconds <= 30_u64));
        if found.is_some() { "wait" } else { "ignored" }
    });
}

/// Reads the preferences of a header by the grammar of RFC 7240. `None`: it does not follow it.
fn preferences(line: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rest = Rest(line);
    let mut found = Vec::new();
    loop {
        rest.skip_blanks();
        if let Some(preference) = rest.pair() {
            found.push(preference?);
            rest.skip_blanks();
            while rest.skip(b';') {
                rest.skip_blanks();
                if let Some(parameter) = rest.pair() {
                    parameter?;
                }
                rest.skip_blanks();
            }
        }
        match rest.0 {
            [] => return Some(found),
            [b',', ..] => {
                rest.skip(b',');
            }
            _ => return None,
        }
    }
}

/// The unread rest of a header.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, byte: u8) -> bool {
        let is_next = self.0.first() == Some(&byte);
        self.0 = &self.0[usize::from(is_next)..];
        is_next
    }

    fn skip_blanks(&mut self) {
        while self.skip(b' ') || self.skip(b'\t') {}
    }

    fn token(&mut self) -> Vec<u8> {
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let length = self.0.iter().take_while(|byte| is_token(byte)).count();
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        token.to_vec()
    }

    /// Reads a name and its value. `None`: there is none; `Some(None)`: it is malformed.
    fn pair(&mut self) -> Option<Option<(Vec<u8>, Vec<u8>)>> {
        let name = self.token();
        if name.is_empty() {
            return None;
        }
        self.skip_blanks();
        if !self.skip(b'=') {
            return Some(Some((name, Vec::new())));
        }
        self.skip_blanks();
        let value = if self.skip(b'"') { self.quoted() } else { Some(self.token()) };
        Some(value.map(|value| (name, value)))
    }

    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(text),
                b'\\' => {
                    let (escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    text.push(*escaped);
                }
                byte => text.push(*byte),
            }
        }
    }
}

#[test]
fn a_query_is_read_as_forms_are_or_refused() {
    let valid = inputs(&[
        "limit=5",
        "limit=1000&after=spring-1",
        "after=a",
        "&&limit=%31%30&",
        "after=%61+b&limit=0001",
        "l%69mit=7&after=0-",
        "",
    ]);
    let outcomes = ["page", "refused", "query too long", "no query"];
    fuzz::run(&valid, &outcomes, |input, _| {
        let target = [b"/campaigns?", input].concat();
        let Ok(target) = PathAndQuery::try_from(target.as_slice()) else { return "no query" };
        let uri = Uri::from(target);
        let Some(query) = uri.query() else { return "no query" };
        let is_long = query.len() > 2_048 || query.split('&').count() > 32;
        assert_eq!(edge::check_query(&uri).is_err(), is_long);
        if is_long {
            return "query too long";
        }
        let expected = documented_page(query);
        let mut fields = match public::query(&uri, &["limit", "after"], Audience::Admin) {
            Ok(fields) => fields,
            Err(problem) => {
                assert_eq!(expected, None);
                assert_eq!(told(problem), (422, vec!["query".to_owned()]));
                return "refused";
            }
        };
        let limit = fields.optional("limit", digits(1..=1_000_u64));
        let after = fields.optional("after", campaign_id);
        match fields.finish() {
            Ok(()) => {
                assert_eq!(Some((limit, after)), expected);
                "page"
            }
            Err(problem) => {
                assert_eq!(expected, None);
                let (status, blamed) = told(problem);
                assert_eq!(status, 422);
                let names: Vec<_> = pairs(query).into_iter().map(|(name, _)| name).collect();
                assert!(!blamed.is_empty());
                assert!(blamed.iter().all(|name| names.contains(name)), "{blamed:?}");
                "refused"
            }
        }
    });
}

/// Returns limit and start of a page, or `None` if the query is to be refused.
fn documented_page(query: &str) -> Option<(Option<u64>, Option<CampaignId>)> {
    let (mut limit, mut after) = (None, None);
    for (name, value) in pairs(query) {
        match name.as_str() {
            "limit" if limit.is_none() => {
                let is_number =
                    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
                let number = is_number.then(|| value.parse().ok()).flatten()?;
                limit = Some(number).filter(|number| (1..=1_000).contains(number));
                limit?;
            }
            "after" if after.is_none() => after = Some(CampaignId::parse(&value).ok()?),
            _ => return None,
        }
    }
    Some((limit, after))
}

/// Reads a query as browsers write forms: `+` is a space, and `%` begins two hexadecimal digits or is
/// itself.
fn pairs(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let bytes = text.as_bytes();
        let (mut decoded, mut at) = (Vec::new(), 0);
        while let Some(byte) = bytes.get(at) {
            let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
            let escaped = if *byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
            let (byte, length) = match (escaped, byte) {
                (Some((high, low)), _) => ((high * 16 + low) as u8, 3),
                (None, b'+') => (b' ', 1),
                (None, byte) => (*byte, 1),
            };
            decoded.push(byte);
            at += length;
        }
        String::from_utf8_lossy(&decoded).into_owned()
    };
    let pair = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (decoded(name), decoded(value))
    };
    query.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

/// The models are right where the page of the API gives an example.
#[test]
fn the_readers_of_this_file_read_examples() {
    assert_eq!(documented_time(b"1970-01-01T00:00:00.5+00:00"), Some(Timestamp(500)));
    assert_eq!(documented_time(b"2026-11-27T12:00:00.123Z"), Some(super::super::NOON));
    assert_eq!(documented_time(b"2025-02-29T00:00:00Z"), None);
    let read = preferences(b"a;b=\"x,\\\"\" , wait=\"1\\2\"").unwrap();
    assert_eq!(read[1], (b"wait".to_vec(), b"12".to_vec()));
    assert_eq!(preferences(b"wait=\"5"), None);
    assert_eq!(pairs("&a+b=%2&"), [("a b".to_owned(), "%2".to_owned())]);
}
