//! Feeds the code that reads bytes from outside with mutated valid inputs and with arbitrary bytes.
//!
//! A target is a test in a module `fuzz` beside the code that it checks. It says what must be true of
//! whatever the code accepts, and returns the name of the outcome. A target that does not reach each of
//! its outcomes fails: it would check nothing.
//!
//! ```sh
//! cargo test --lib fuzz                                                      # 20,000 inputs for each target
//! COUPOND_FUZZ=10000000 cargo test --release --lib fuzz -- --nocapture --test-threads 1
//! ```
//!
//! Each input follows from a seed of its own. A failure prints it: `COUPOND_FUZZ_SEED=S COUPOND_FUZZ=1`
//! repeats that input alone. Requests are the exception: wrong tokens before it may be why one was refused.

use std::{fmt::Write, ops::Range, time::Instant};

use crate::random::Random;

/// Inputs for each target when `COUPOND_FUZZ` does not say how many: all targets take seconds.
const INPUTS: u64 = 20_000;

/// Most changes of one input. More of them rarely leave anything valid.
const CHANGES_MAX: u64 = 4;

/// Bytes to which one input in [`LONG`] is lengthened, beyond every bound of the parsers.
const LONG_BYTES: usize = 10_000;
const LONG: u64 = 2_000;

/// What parsers treat specially: the ends of ranges, separators, escapes, and texts that are no UTF-8.
const TOKENS: &[&[u8]] = &[
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b",",
    b":",
    b"\"\"",
    b"0",
    b"-1",
    b"-0",
    b"1.0",
    b"1e3",
    b"1e400",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"4294967295",
    b"4294967296",
    b"9007199254740993",
    b"18446744073709551615",
    b"18446744073709551616",
    b"\\u0000",
    b"\\ud800",
    b"\\u0061",
    b"\\\"",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b" ",
    b"\t",
    b"\r\n",
    b"\x0c",
    b"%",
    b"%00",
    b"%ff",
    b"%C3%A9",
    b"%2",
    b"+",
    b"&",
    b"=",
    b";",
    b"/",
    b".",
    b"..",
    b"-",
    b"T",
    b"Z",
    b"+00:00",
    b"-23:59",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
];

/// Checks many inputs, made from the `valid` ones. `check` returns one of `outcomes`.
pub(crate) fn run(
    valid: &[Vec<u8>],
    outcomes: &[&'static str],
    mut check: impl FnMut(&[u8], &mut Random) -> &'static str,
) {
    let (inputs, seed) = (number("COUPOND_FUZZ", INPUTS), number("COUPOND_FUZZ_SEED", 0));
    let mut counts = vec![0_u64; outcomes.len()];
    let begun = Instant::now();
    for seed in seed..seed + inputs {
        let mut random = Random::of_world(seed);
        let running = Running { seed, input: input(valid, &mut random) };
        let outcome = check(&running.input, &mut random);
        let at = outcomes.iter().position(|known| *known == outcome);
        counts[at.unwrap_or_else(|| panic!("unknown outcome {outcome:?}"))] += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut line = format!("{inputs} inputs, {:.0} a second:", inputs as f64 / seconds);
    for (outcome, count) in outcomes.iter().zip(&counts) {
        let _ = write!(line, " {outcome} {count},");
    }
    let target = std::thread::current().name().unwrap_or("a target").to_owned();
    say(&format!("{target}: {}", line.trim_end_matches(',')));
    let missed: Vec<_> = outcomes.iter().zip(counts).filter(|(_, count)| *count == 0).collect();
    assert!(inputs < INPUTS || missed.is_empty(), "never reached: {missed:?}");
}

/// Prints the input under way if its check panics.
struct Running {
    seed: u64,
    input: Vec<u8>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, input } = self;
            say(&format!("COUPOND_FUZZ_SEED={seed} COUPOND_FUZZ=1: {}", input.escape_ascii()));
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "rates and failing inputs are for the people who run tests"
)]
fn say(line: &str) {
    eprintln!("{line}");
}

fn number(variable: &str, default: u64) -> u64 {
    let Some(text) = std::env::var_os(variable) else { return default };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("{variable} must be a whole number, not {text:?}"))
}

/// Returns a valid input with a few changes or, one time in eight, arbitrary bytes. One valid input in
/// sixteen stays as it is.
fn input(valid: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    if random.one_in(8) {
        return arbitrary(random);
    }
    let mut input = valid[random.index(valid.len())].clone();
    if !random.one_in(16) {
        for _ in 0..random.between(1, CHANGES_MAX) {
            change(&mut input, valid, random);
        }
    }
    if random.one_in(LONG) {
        let at = random.index(input.len() + 1);
        let filler = input.get(at).copied().unwrap_or(b' ');
        input.splice(at..at, std::iter::repeat_n(filler, LONG_BYTES));
    }
    input
}

fn arbitrary(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.below(64) {
        if random.one_in(3) {
            bytes.extend_from_slice(TOKENS[random.index(TOKENS.len())]);
        } else {
            bytes.push(random.next() as u8);
        }
    }
    bytes
}

/// Returns the range of the word around `at`: a value between the separators of JSON, queries and
/// headers.
fn word(input: &[u8], at: usize) -> Range<usize> {
    let is_separator = |byte: &u8| b"{}[],:;&=\n".contains(byte);
    let start = input[..at].iter().rposition(is_separator).map_or(0, |before| before + 1);
    let end = input[at..].iter().position(is_separator).map_or(input.len(), |length| at + length);
    start..end
}

/// Changes one place.
fn change(input: &mut Vec<u8>, valid: &[Vec<u8>], random: &mut Random) {
    let at = random.index(input.len() + 1);
    let end = (at + random.index(16)).min(input.len());
    match random.below(14) {
        0 | 1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 if at < input.len() => input[at] = random.next() as u8,
        3 => drop(input.drain(at..end)),
        4 => {
            let repeated = input[at..end].to_vec();
            input.splice(end..end, repeated);
        }
        5 => drop(input.splice(at..end, TOKENS[random.index(TOKENS.len())].iter().copied())),
        6 => drop(input.splice(at..at, TOKENS[random.index(TOKENS.len())].iter().copied())),
        7 => input.truncate(at),
        8 => input.extend((0..random.below(40)).map(|_| random.next() as u8)),
        9 | 10 => {
            let token = TOKENS[random.index(TOKENS.len())];
            drop(input.splice(word(input, at), token.iter().copied()));
        }
        11 | 12 => {
            let other = &valid[random.index(valid.len())];
            let other = &other[word(other, random.index(other.len() + 1))];
            drop(input.splice(word(input, at), other.iter().copied()));
        }
        _ => splice(input, at, &valid[random.index(valid.len())], random),
    }
}

/// Replaces what is behind `at` by the end of another valid input or, half of the time, only inserts a
/// part of it.
fn splice(input: &mut Vec<u8>, at: usize, other: &[u8], random: &mut Random) {
    let from = random.index(other.len() + 1);
    if random.one_in(2) {
        input.truncate(at);
        input.extend_from_slice(&other[from..]);
    } else {
        let to = (from + random.index(40)).min(other.len());
        input.splice(at..at, other[from..to].iter().copied());
    }
}
