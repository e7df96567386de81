//! The audit judged: good data in every shape, made by the product's own fold, in which nothing
//! may be found, and every kind of damage planted in it, of which each must be.

mod corruption;
mod damage_answers;
mod damage_log;
mod damage_rows;
mod good;
mod world;

use std::{fmt::Write as _, io::Cursor, sync::Arc};

use serde::Serialize;

pub use self::corruption::Corruption;
use self::{good::Good, world::World};
use super::{AuditError, Audited, Meter, Report, audit};
use crate::columns;

/// What one damage was found as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planted {
    /// What was damaged.
    pub corruption: String,
    /// The invariant that it breaks.
    pub invariant: &'static str,
    /// What it must be found as.
    pub found_as: &'static str,
    /// Whether it was.
    pub found: bool,
    /// All kinds that were found.
    pub findings: Vec<&'static str>,
}

/// What was found in good data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sound {
    /// Which shape of data.
    pub data: &'static str,
    /// Records in it.
    pub records: u64,
    /// Coupons in it.
    pub coupons: u64,
    /// What clients were told of it, in answers.
    pub answers: u64,
    /// What was found, each a false alarm.
    pub false_alarms: Vec<String>,
}

/// What a self-test came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SelfTest {
    /// Good data.
    pub sound: Vec<Sound>,
    /// Damaged data.
    pub planted: Vec<Planted>,
}

impl SelfTest {
    /// Whether every damage was found and nothing else.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.planted.iter().all(|planted| planted.found)
            && self.sound.iter().all(|sound| sound.false_alarms.is_empty())
    }

    /// The tables.
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

/// Plants every corruption, and looks for any in good data.
///
/// # Errors
/// [`AuditError`]: an audit could not be done, which is a bug.
pub async fn self_test() -> Result<SelfTest, AuditError> {
    let mut sound = Vec::new();
    for good in Good::ALL {
        let report = judged(good.make()).await?;
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
        let report = judged(world).await?;
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

async fn judged(world: World) -> Result<Report, AuditError> {
    let lines: Vec<_> = world.answers.iter().map(serde_json::Value::to_string).collect();
    let (layout, keys) = (world.layout.clone(), world.keys.clone());
    let (log, store) = world.ports();
    let audited = Audited { log, store: store.clone(), inspection: store, layout, keys };
    let answers = Box::new(Cursor::new(lines.join("\n").into_bytes()));
    audit(audited, Some(answers), Arc::new(Meter::default())).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_corruption_is_found_and_nothing_is_found_in_good_data() {
        let tested = self_test().await.unwrap();
        let alarms = tested.sound.iter().filter(|sound| !sound.false_alarms.is_empty());
        let alarms: Vec<_> = alarms.map(|sound| format!("{sound:?}")).collect();
        let missed = tested.planted.iter().filter(|planted| !planted.found);
        let missed: Vec<_> = missed.map(|planted| format!("{planted:?}")).collect();
        assert!(tested.passed(), "{}\n{}", alarms.join("\n"), missed.join("\n"));
        assert!(tested.planted.len() >= 25);
    }
}
