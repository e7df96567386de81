//! Tests the audit itself. Good data, made by the product's own fold, must give no finding. Each
//! kind of damage in that data must give the expected finding.

mod corruption;
mod damage_answers;
mod damage_log;
mod damage_rows;
mod good;
mod lines;
#[cfg(test)]
mod unreadable;
mod world;

use std::{fmt::Write as _, io::Cursor, sync::Arc};

use serde::Serialize;

pub use self::corruption::Corruption;
use self::{good::Good, world::AuditWorld};
use super::{AuditError, AuditReport, Audited, Meter, audit};
use crate::columns;

/// The result of auditing damaged data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planted {
    /// Name of the [`Corruption`].
    pub corruption: String,
    /// Id of the invariant that it breaks.
    pub invariant: &'static str,
    /// The kind of finding that it must give.
    pub found_as: &'static str,
    /// Whether the audit gave that finding.
    pub found: bool,
    /// All kinds of findings.
    pub findings: Vec<&'static str>,
}

/// The result of auditing good data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sound {
    /// Name of the data.
    pub data: &'static str,
    /// Number of records.
    pub records: u64,
    /// Number of coupons.
    pub coupons: u64,
    /// Number of answers that clients received.
    pub answers: u64,
    /// The findings. Each is a false alarm.
    pub false_alarms: Vec<String>,
}

/// The result of a self-test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Good data.
    pub sound: Vec<Sound>,
    /// Damaged data.
    pub planted: Vec<Planted>,
}

impl SelfTest {
    /// Returns whether every damage was found, and nothing in good data.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.planted.iter().all(|planted| planted.found)
            && self.sound.iter().all(|sound| sound.false_alarms.is_empty())
    }

    /// Returns the result as tables.
    #[must_use]
    pub fn text(&self) -> String {
        let heading = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut rows: Vec<Vec<String>> = vec![heading(&["CORRUPTION", "BREAKS", "AS", "FOUND"])];
        for it in &self.planted {
            let found = if it.found { "yes" } else { "NO" };
            let cells = [&it.corruption, it.invariant, it.found_as, found];
            rows.push(heading(&cells));
        }
        let mut text = columns::aligned(&rows, |_| false);
        text.push('\n');
        let names = ["GOOD DATA", "RECORDS", "COUPONS", "ANSWERS", "FALSE ALARMS"];
        let mut rows: Vec<Vec<String>> = vec![heading(&names)];
        for it in &self.sound {
            let numbers = [it.records, it.coupons, it.answers, it.false_alarms.len() as u64];
            let numbers = numbers.map(|number| number.to_string());
            rows.push(std::iter::once(it.data.to_owned()).chain(numbers).collect());
        }
        text.push_str(&columns::aligned(&rows, |column| column > 0));
        let found = self.planted.iter().filter(|planted| planted.found).count();
        let alarms: usize = self.sound.iter().map(|sound| sound.false_alarms.len()).sum();
        let all = self.planted.len();
        let _ = writeln!(text, "\n{found} of {all} corruptions found, {alarms} false alarms");
        text
    }
}

/// Audits good data, and the same data after each corruption.
///
/// # Errors
/// [`AuditError`] if an audit fails, which is a bug.
pub async fn self_test() -> Result<SelfTest, AuditError> {
    let mut sound = Vec::new();
    for good in Good::ALL {
        let report = audited(good.make()).await?;
        sound.push(Sound {
            data: good.name(),
            records: report.partitions.iter().map(|it| it.records).sum(),
            coupons: report.campaigns.iter().map(|it| it.rows).sum(),
            answers: report.answers.map_or(0, |answers| answers.lines),
            false_alarms: report.findings.iter().map(|it| format!("{it:?}")).collect(),
        });
    }
    let mut planted = Vec::new();
    for corruption in Corruption::ALL {
        let mut world = corruption.good().make();
        corruption.plant(&mut world);
        let report = audited(world).await?;
        let kind = corruption.found_as();
        planted.push(Planted {
            corruption: corruption.name(),
            invariant: kind.invariant().id(),
            found_as: kind.name(),
            found: report.broken.iter().any(|it| it.kind == kind.name()),
            findings: report.broken.iter().map(|it| it.kind).collect(),
        });
    }
    Ok(SelfTest { sound, planted })
}

async fn audited(world: AuditWorld) -> Result<AuditReport, AuditError> {
    let lines: Vec<_> = world.answers.iter().map(serde_json::Value::to_string).collect();
    let (layout, keys) = (world.layout.clone(), world.keys.clone());
    let (log, store) = world.ports();
    let audited = Audited { log, store, layout, keys };
    let answers = Box::new(Cursor::new(lines.join("\n").into_bytes()));
    audit(audited, Some(answers), Arc::new(Meter::default())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_corrupted_data_gives_findings() {
        let tested = self_test().await.unwrap();
        let alarms = tested.sound.iter().filter(|sound| !sound.false_alarms.is_empty());
        let alarms: Vec<_> = alarms.map(|sound| format!("{sound:?}")).collect();
        let missed = tested.planted.iter().filter(|planted| !planted.found);
        let missed: Vec<_> = missed.map(|planted| format!("{planted:?}")).collect();
        assert!(tested.passed(), "{}\n{}", alarms.join("\n"), missed.join("\n"));
        assert!(tested.planted.len() >= 25);
    }
}
