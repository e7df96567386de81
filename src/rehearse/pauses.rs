//! Pauses of an engine's JVM: each time that all its threads were stopped.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::Path,
};

/// Pauses during a load.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Pauses {
    /// How many.
    pub(super) count: f64,
    /// The longest, in milliseconds.
    pub(super) longest_ms: f64,
    /// All together, in milliseconds.
    pub(super) total_ms: f64,
}

/// Returns how long a log is now, to read later what follows.
pub(super) fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |its| its.len())
}

/// Reads the pauses of a log from this byte on. None: there is no log.
pub(super) fn read(log: &Path, from: u64) -> Option<Pauses> {
    let mut file = File::open(log).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let mut pauses = Pauses::default();
    for ms in lines.filter_map(|line| total_ms(&line)) {
        pauses.count += 1.0;
        pauses.longest_ms = pauses.longest_ms.max(ms);
        pauses.total_ms += ms;
    }
    Some(pauses)
}

/// Returns the milliseconds of a line `… Safepoint "Name", …, Total: 123456 ns`.
fn total_ms(line: &str) -> Option<f64> {
    let (_, total) = line.rsplit_once("Total:")?;
    let nanoseconds: f64 = total.trim().strip_suffix("ns")?.trim().parse().ok()?;
    Some(nanoseconds / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pauses_of_the_load_count() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let before = "[0.1s][info][safepoint] Safepoint \"Start\", Total: 9000000 ns\n";
        let during = "[1.5s][info][safepoint] Safepoint \"Collect\", Time since last: 7 ns, Reaching \
                      safepoint: 1 ns, At safepoint: 2 ns, Total: 2500000 ns\n[1.6s] other\n\
                      [1.7s][info][safepoint] Safepoint \"Collect\", Total: 500000 ns\n";
        fs::write(log.path(), before).unwrap();
        let from = length(log.path());
        fs::write(log.path(), format!("{before}{during}")).unwrap();
        let expected = Pauses { count: 2.0, longest_ms: 2.5, total_ms: 3.0 };
        assert_eq!(read(log.path(), from), Some(expected));
        assert_eq!(read(Path::new("/nowhere"), 0), None);
    }
}
