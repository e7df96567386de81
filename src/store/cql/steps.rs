//! The schema as numbered steps, one statement each, and the table that each of them makes.

use std::collections::BTreeMap;

/// The keyspace that the files name, so that they can be read and run as they are; replaced by
/// the configured one.
const KEYSPACE_IN_FILES: &str = "EXISTS coupond.";

/// One idempotent step of the schema.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Its place in the order, from 1.
    pub(super) number: i32,
    /// Its file's name without the ending.
    pub(super) name: &'static str,
    text: &'static str,
}

macro_rules! steps {
    ($($number:literal $name:literal),* $(,)?) => {
        [$(Step {
            number: $number,
            name: $name,
            text: include_str!(concat!("../../../cql/", $name, ".cql")),
        }),*]
    };
}

/// Every step in order. The first makes the table of lock and layout, the second the one that
/// steps are recorded in.
pub(super) const STEPS: [Step; 9] = steps![
    1 "001_layout",
    2 "002_schema_steps",
    3 "003_coupons",
    4 "004_coupons_by_user",
    5 "005_definition_versions",
    6 "006_holds",
    7 "007_marks",
    8 "008_progress",
    9 "009_campaigns",
];

/// Columns of a table by name: type, kind and place in the key, as the database describes them.
pub(super) type Columns = BTreeMap<String, String>;

/// How a column is described: what `system_schema.columns` says of it.
pub(super) fn column(cql_type: &str, kind: &str, position: i32) -> String {
    if position < 0 {
        format!("{cql_type}, {kind}")
    } else {
        format!("{cql_type}, {kind} {position}")
    }
}

impl Step {
    /// The statement for `keyspace`.
    pub(super) fn statement(&self, keyspace: &str) -> String {
        self.text.replace(KEYSPACE_IN_FILES, &format!("EXISTS \"{keyspace}\"."))
    }

    /// The table that the step makes.
    pub(super) fn table(&self) -> &'static str {
        let rest = self.text.split(KEYSPACE_IN_FILES).nth(1).unwrap_or_default();
        rest.split_whitespace().next().unwrap_or_default()
    }

    /// The columns of that table.
    pub(super) fn columns(&self) -> Columns {
        let body = self.text.split_once("(\n").map_or("", |(_, body)| body);
        let (lines, key) = body.split_once("PRIMARY KEY ").unwrap_or((body, ""));
        let key = key.split_once(";").map_or(key, |(key, _)| key);
        let (partition_key, clustering) = split_key(key);
        let kind_of = |name: &str| {
            let place = |names: &[&str]| names.iter().position(|key| *key == name);
            let number = |place: usize| i32::try_from(place).unwrap_or(i32::MAX);
            match (place(&partition_key), place(&clustering)) {
                (Some(place), _) => ("partition_key", number(place)),
                (None, Some(place)) => ("clustering", number(place)),
                (None, None) => ("regular", -1),
            }
        };
        let line = |line: &str| {
            let (name, cql_type) = line.trim().trim_end_matches(',').split_once(' ')?;
            let (kind, position) = kind_of(name);
            Some((name.to_owned(), column(cql_type, kind, position)))
        };
        lines.lines().filter_map(line).collect()
    }
}

/// Splits `((a, b), c)\n)` into partition key and clustering columns; a lone `(a)` is the former.
fn split_key(key: &str) -> (Vec<&str>, Vec<&str>) {
    let strip = |text| -> Vec<&str> {
        let words = str::split(text, |letter: char| !letter.is_alphanumeric() && letter != '_');
        words.filter(|word| !word.is_empty()).collect()
    };
    match key.trim_start().strip_prefix("((") {
        Some(composite) => {
            let (partition_key, clustering) = composite.split_once(')').unwrap_or((composite, ""));
            (strip(partition_key), strip(clustering))
        }
        None => (strip(key), Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_numbered_as_their_files_and_each_makes_a_table() {
        for (index, step) in STEPS.iter().enumerate() {
            assert_eq!(step.number as usize, index + 1);
            assert_eq!(step.name, format!("{:03}_{}", step.number, step.table()));
            let statement = step.statement("other");
            assert!(statement.contains(&format!("IF NOT EXISTS \"other\".{} (", step.table())));
            assert_eq!(statement.matches(';').count(), 1, "one statement a file");
            assert!(statement.trim_end().ends_with(");"));
        }
    }

    #[test]
    fn every_column_of_a_step_is_understood_with_its_place_in_the_key() {
        let by_user = STEPS[3].columns();
        assert_eq!(by_user["campaign_id"], "text, partition_key 0");
        assert_eq!(by_user["user_bucket"], "int, partition_key 1");
        assert_eq!(by_user["user_id"], "text, clustering 0");
        assert_eq!(by_user["sequence"], "int, clustering 1");
        assert_eq!(by_user["digest"], "blob, regular");
        assert_eq!(by_user.len(), 12);
        assert_eq!(STEPS[0].columns()["name"], "text, partition_key 0");
        assert_eq!(STEPS[0].columns()["holder"], "text, regular");
        assert_eq!(STEPS[5].columns()["partition"], "int, partition_key 0");
    }
}
