//! The memory that a node may take: the sum of its bounds, and how the bounds follow the memory limit.
//!
//! [`Budget::of`] is pure. `limit` reads how much memory there is, `parts` has the bounds and what a unit
//! of each costs.

mod limit;
mod parts;

use std::fmt;

pub(super) use self::limit::MemoryLimit;
use self::parts::{Bound, Scaled};
use super::{ServeError, descriptors::Connections};
use crate::{
    api::service::ServiceBounds,
    config::{Config, Explicit},
    embedded::DatabaseMemory,
    partition::flow::Limits,
};

/// Threads for blocking calls, such as reads of the embedded store: several times as many as cores, as
/// reads wait for the disk. Further calls wait for a free one.
pub const BLOCKING_THREADS_MAX: usize = 64;

/// The bounds take three quarters of the memory limit. The rest is for the users of live campaigns, 54
/// bytes each, and for what the allocator cannot hand out again.
const BOUNDS_SHARE: (u64, u64) = (3, 4);

const MIB: u64 = 1 << 20;

/// The largest parts, named in the log.
const NAMED_MAX: usize = 5;

/// The bounds that a node works with, their sum, and what does not fit.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    pub(super) connections: Connections,
    /// `api.waiters_max` as it is in effect.
    pub(super) waiters: usize,
    /// `admission.inflight_max` as it is in effect.
    pub(super) appends: usize,
    pub(super) limits: Limits,
    pub(super) service: ServiceBounds,
    /// Bytes of large answers that clients have not read yet.
    pub(super) answers: usize,
    pub(super) database: DatabaseMemory,
    /// The most memory that each part takes, the largest first.
    parts: Vec<(&'static str, u64)>,
    limit: Option<MemoryLimit>,
    is_shrunk: bool,
    /// What was set explicitly and does not fit, with the value that fits.
    pub(super) warnings: Vec<String>,
}

/// Returns the memory that a node with these settings may take on this machine, and what does not fit, as
/// lines.
///
/// # Errors
/// [`ServeError::Unfit`] if the process may open too few files for a node.
pub fn memory_bounds(config: &Config, explicit: &Explicit) -> Result<String, ServeError> {
    let limit = MemoryLimit::of_process();
    let budget = Budget::of(config, explicit, Connections::allowed()?, limit);
    let warnings = budget.warnings.iter().map(|warning| format!("\nwarning: {warning}"));
    Ok(budget.to_string() + &warnings.collect::<String>())
}

impl Budget {
    /// Shares out the memory of `limit`, where it is known. Each default that scales gives way in the same
    /// proportion, from its full value down to its floor. What was set explicitly stays as it is.
    pub(super) fn of(
        config: &Config,
        explicit: &Explicit,
        connections: Connections,
        limit: Option<MemoryLimit>,
    ) -> Self {
        let fixed = parts::fixed(config);
        let scaled = parts::scaled(config, explicit, connections);
        let fixed_sum: u64 = fixed.iter().map(|(_, bytes)| bytes).sum();
        let (share, of) = BOUNDS_SHARE;
        let available = limit.as_ref().map_or(u64::MAX, |limit| limit.bytes / of * share);
        let counts = shrunk(&scaled, available.saturating_sub(fixed_sum));
        let count = |bound: Bound| {
            let found = scaled.iter().zip(&counts).find(|(row, _)| row.bound == bound);
            usize::try_from(found.map_or(0, |(_, count)| *count)).unwrap_or(usize::MAX)
        };
        let mut parts = fixed;
        for (row, count) in scaled.iter().zip(&counts) {
            match parts.iter_mut().find(|(name, _)| *name == row.part) {
                Some((_, bytes)) => *bytes += count * row.each,
                None => parts.push((row.part, count * row.each)),
            }
        }
        parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let admin = count(Bound::AdminConnections);
        let mut budget = Self {
            connections: Connections { public: count(Bound::Connections), admin },
            waiters: count(Bound::Waiters),
            appends: count(Bound::Appends),
            limits: Limits {
                window_records: count(Bound::Window),
                outstanding_records: count(Bound::Outstanding),
                ..Limits::default()
            },
            service: ServiceBounds {
                listed: count(Bound::Listed),
                decisions: count(Bound::Decisions),
            },
            answers: count(Bound::Answers),
            database: DatabaseMemory {
                cache_bytes: count(Bound::Cache) as u64,
                memtable_bytes: count(Bound::Memtables) as u64,
                recent_bytes: count(Bound::Tails),
            },
            parts,
            is_shrunk: scaled.iter().zip(&counts).any(|(row, count)| *count < row.full),
            limit,
            warnings: Vec::new(),
        };
        budget.warnings = budget.unfit(&scaled, fixed_sum, available);
        budget
    }

    /// Returns the settings with the bounds that are in effect.
    pub(super) fn applied_to(&self, config: &Config) -> Config {
        let mut config = config.clone();
        config.api.waiters_max = self.waiters;
        config.admission.inflight_max = self.appends;
        config
    }

    /// Returns the most memory that all parts take together.
    pub(super) fn sum(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Returns a warning for each setting that does not fit, or for a limit that nothing fits.
    fn unfit(&self, scaled: &[Scaled], fixed: u64, available: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        let explicit: Vec<_> = scaled.iter().filter_map(|row| Some((row.setting?, row))).collect();
        for (setting, row) in &explicit {
            let public = self.connections.public as u64;
            if row.full > public {
                warnings.push(format!(
                    "{setting} is {}, but each of these needs a connection, and there are {public}: \
                     set {setting} to at most {public}, or raise the limit of open files or of memory",
                    row.full
                ));
            }
        }
        let Some(limit) = self.limit.as_ref().filter(|_| self.sum() > available) else {
            return warnings;
        };
        let (share, of) = BOUNDS_SHARE;
        let needed = (self.sum() / share + 1) * of;
        let asked: u64 = explicit.iter().map(|(_, row)| row.full * row.each).sum();
        // What is left once everything else is at its floor.
        let room = available.saturating_sub(self.sum() - asked.min(self.sum()));
        let (mut fits, floors) = (Vec::new(), scaled.iter().map(|row| row.floor * row.each));
        for (setting, row) in &explicit {
            let value = u128::from(row.full) * u128::from(room) / u128::from(asked.max(1));
            let value = u64::try_from(value).unwrap_or(u64::MAX).max(row.floor);
            if value < row.full {
                fits.push(format!("set {setting} to at most {value} (it is {})", row.full));
            }
        }
        let least = ((fixed + floors.sum::<u64>()) / share + 1) * of;
        if fits.is_empty() || least > limit.bytes {
            fits.push(format!("a node with these partitions needs at least {}", Mib(least)));
        }
        warnings.push(format!(
            "the bounds of memory take up to {}, more than three quarters of {limit}: {}; or raise that \
             limit to {} (MemoryMax= for systemd, --memory for a container)",
            Mib(self.sum()),
            fits.join(", "),
            Mib(needed),
        ));
        warnings
    }

    /// Logs the sum with its largest parts, and what does not fit.
    pub(super) fn log(&self) {
        let Connections { public, admin } = self.connections;
        tracing::info!(
            bounds_mib = self.sum().div_ceil(MIB),
            limit_mib = self.limit.as_ref().map(|limit| limit.bytes / MIB),
            shrunk = self.is_shrunk,
            public,
            admin,
            "{self}"
        );
        self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory: at most {} by all bounds", Mib(self.sum()))?;
        match &self.limit {
            Some(limit) => write!(f, ", of {limit}")?,
            None => write!(f, ", the limit is not known")?,
        }
        for (at, (name, bytes)) in self.parts.iter().take(NAMED_MAX).enumerate() {
            write!(f, "{} {name} {}", if at == 0 { ":" } else { "," }, Mib(*bytes))?;
        }
        let rest: u64 = self.parts.iter().skip(NAMED_MAX).map(|(_, bytes)| bytes).sum();
        write!(f, ", others {}; beside 54 bytes for each user of a live campaign", Mib(rest))
    }
}

/// Bytes, shown as whole MiB.
struct Mib(u64);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0.div_ceil(MIB))
    }
}

/// Returns how many units of each row fit into `room` bytes: all of them, or the same part of what each
/// has above its floor.
fn shrunk(rows: &[Scaled], room: u64) -> Vec<u64> {
    let cost = |count: fn(&Scaled) -> u64| -> u128 {
        rows.iter().map(|row| u128::from(count(row)) * u128::from(row.each)).sum()
    };
    let (full, floors) = (cost(|row| row.full), cost(Scaled::least));
    let above = u128::from(room).saturating_sub(floors).min(full - floors);
    let part = |row: &Scaled| {
        let spare = u128::from(row.full - row.least()) * above / (full - floors).max(1);
        row.least() + u64::try_from(spare).unwrap_or(u64::MAX)
    };
    rows.iter().map(part).collect()
}

#[cfg(test)]
mod tests;
