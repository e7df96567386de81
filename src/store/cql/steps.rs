//! The schema as numbered steps. Statements and expected columns follow from this list.
//!
//! A new column is one more step at the end of [`STEPS`] and its file in `cql/`. Within a format
//! number steps only add: a node that knows fewer of them goes on beside them.

use std::{collections::BTreeMap, fmt, iter::once};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// Place in the order, from 1 without a gap.
    pub number: i32,
    /// The table or column that the step adds.
    pub change: SchemaChange,
}

/// A change of the schema. Types are spelled as in `system_schema.columns`.
#[derive(Debug, Clone, Copy)]
pub enum SchemaChange {
    /// A table.
    Table {
        /// Its name.
        table: &'static str,
        /// Name and type of each column.
        columns: &'static [(&'static str, &'static str)],
        /// The columns that choose the database partition.
        partition_key: &'static [&'static str],
        /// The columns that order rows within it.
        clustering: &'static [&'static str],
    },
    /// A regular column of a table that an earlier step makes.
    Column {
        /// The table.
        table: &'static str,
        /// The column's name.
        name: &'static str,
        /// The column's type.
        cql_type: &'static str,
    },
}

/// Every step in order. The first makes the table of layout and schema lock, the second the table
/// in which steps are recorded.
pub const STEPS: &[Step] = &[
    Step {
        number: 1,
        change: SchemaChange::Table {
            table: "layout",
            columns: &[
                ("name", "text"),
                ("instance", "text"),
                ("log_epoch", "int"),
                ("partitions", "int"),
                ("format", "int"),
                ("fingerprint", "text"),
                ("identity_fold", "text"),
                ("secret", "text"),
                ("holder", "text"),
            ],
            partition_key: &["name"],
            clustering: &[],
        },
    },
    Step {
        number: 2,
        change: SchemaChange::Table {
            table: "schema_steps",
            columns: &[("step", "int"), ("name", "text"), ("applied_at", "timestamp")],
            partition_key: &["step"],
            clustering: &[],
        },
    },
    Step {
        number: 3,
        change: SchemaChange::Table {
            table: "coupons",
            columns: &[
                ("campaign_id", "text"),
                ("bucket", "int"),
                ("sequence", "int"),
                ("user_id", "text"),
                ("code", "text"),
                ("issued_at", "timestamp"),
                ("log_epoch", "int"),
                ("partition", "int"),
                ("offset", "bigint"),
                ("key_digest", "blob"),
                ("user_bucket", "int"),
                ("rules_version", "int"),
                ("digest", "blob"),
            ],
            partition_key: &["campaign_id", "bucket"],
            clustering: &["sequence"],
        },
    },
    Step {
        number: 4,
        change: SchemaChange::Table {
            table: "coupons_by_user",
            columns: &[
                ("campaign_id", "text"),
                ("user_bucket", "int"),
                ("user_id", "text"),
                ("sequence", "int"),
                ("code", "text"),
                ("issued_at", "timestamp"),
                ("log_epoch", "int"),
                ("partition", "int"),
                ("offset", "bigint"),
                ("key_digest", "blob"),
                ("rules_version", "int"),
                ("digest", "blob"),
            ],
            partition_key: &["campaign_id", "user_bucket"],
            clustering: &["user_id", "sequence"],
        },
    },
    Step {
        number: 5,
        change: SchemaChange::Table {
            table: "definition_versions",
            columns: &[
                ("campaign_id", "text"),
                ("log_epoch", "int"),
                ("offset", "bigint"),
                ("partition", "int"),
                ("record_time", "timestamp"),
                ("quota", "int"),
                ("per_user_limit", "int"),
                ("opens_at", "timestamp"),
                ("closes_at", "timestamp"),
                ("title", "text"),
                ("listed", "boolean"),
                ("code_prefix", "text"),
                ("code_length", "int"),
                ("code_charset", "text"),
                ("code_group", "int"),
                ("paused", "boolean"),
                ("closed", "boolean"),
                ("rules_version", "int"),
                ("user_buckets", "int"),
                ("issued", "int"),
                ("digest", "blob"),
            ],
            partition_key: &["campaign_id"],
            clustering: &["log_epoch", "offset"],
        },
    },
    Step {
        number: 6,
        change: SchemaChange::Table {
            table: "holds",
            columns: &[
                ("partition", "int"),
                ("campaign_id", "text"),
                ("from_offset", "bigint"),
                ("number", "int"),
                ("kind", "text"),
                ("reason", "text"),
                ("state", "text"),
                ("until_offset", "bigint"),
            ],
            partition_key: &["partition"],
            clustering: &["campaign_id", "from_offset", "number"],
        },
    },
    Step {
        number: 7,
        change: SchemaChange::Table {
            table: "marks",
            columns: &[
                ("campaign_id", "text"),
                ("below_offset", "bigint"),
                ("issued", "int"),
                ("versions", "int"),
                ("latest_version", "bigint"),
            ],
            partition_key: &["campaign_id"],
            clustering: &[],
        },
    },
    Step {
        number: 8,
        change: SchemaChange::Table {
            table: "progress",
            columns: &[
                ("partition", "int"),
                ("log_epoch", "int"),
                ("next_offset", "bigint"),
                ("last_offset", "bigint"),
                ("last_digest", "blob"),
            ],
            partition_key: &["partition"],
            clustering: &[],
        },
    },
    Step {
        number: 9,
        change: SchemaChange::Table {
            table: "campaigns",
            columns: &[("listing", "int"), ("campaign_id", "text"), ("partition", "int")],
            partition_key: &["listing"],
            clustering: &["campaign_id"],
        },
    },
    Step {
        number: 10,
        change: SchemaChange::Table {
            table: "registers",
            columns: &[("partition", "int"), ("name", "text"), ("number", "bigint")],
            partition_key: &["partition"],
            clustering: &["name"],
        },
    },
    Step {
        number: 11,
        change: SchemaChange::Table {
            table: "skips",
            columns: &[
                ("partition", "int"),
                ("from_offset", "bigint"),
                ("to_offset", "bigint"),
                ("reason", "text"),
                ("made_by", "text"),
                ("state", "text"),
            ],
            partition_key: &["partition"],
            clustering: &["from_offset"],
        },
    },
    Step {
        number: 12,
        change: SchemaChange::Table {
            table: "nodes",
            columns: &[
                ("listing", "int"),
                ("name", "text"),
                ("number", "bigint"),
                ("is_member", "boolean"),
                ("can_decide", "boolean"),
                ("hangs", "text"),
            ],
            partition_key: &["listing"],
            clustering: &["name"],
        },
    },
    Step {
        number: 13,
        change: SchemaChange::Table {
            table: "changes",
            columns: &[
                ("partition", "int"),
                ("offset", "bigint"),
                ("log_epoch", "int"),
                ("campaign_id", "text"),
                ("record_time", "timestamp"),
                ("asked_by", "text"),
                ("retried", "boolean"),
                ("change", "text"),
                ("before", "text"),
                ("after", "text"),
                ("refusal", "text"),
                ("rules_version", "int"),
                ("digest", "blob"),
            ],
            partition_key: &["partition"],
            clustering: &["offset"],
        },
    },
];

/// A column as `system_schema.columns` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) cql_type: String,
    /// `partition_key`, `clustering`, `regular` or `static`.
    pub(super) kind: String,
    /// Place in the key, from 0; -1 outside the key.
    pub(super) position: i32,
}

impl Column {
    pub(super) fn is_regular(&self) -> bool {
        self.kind == REGULAR
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.cql_type, self.kind)?;
        if self.position >= 0 { write!(f, " {}", self.position) } else { Ok(()) }
    }
}

const REGULAR: &str = "regular";

/// Columns of a table by name.
pub(super) type Columns = BTreeMap<String, Column>;

impl Step {
    /// Returns the table that the step creates or extends.
    pub(super) const fn table(&self) -> &'static str {
        match self.change {
            SchemaChange::Table { table, .. } | SchemaChange::Column { table, .. } => table,
        }
    }

    /// Returns the name under which the step is recorded, which is also that of its file in `cql/`.
    pub(super) fn name(&self) -> String {
        let Step { number, change } = self;
        match change {
            SchemaChange::Table { table, .. } => format!("{number:03}_{table}"),
            SchemaChange::Column { table, name, .. } => format!("{number:03}_{table}_{name}"),
        }
    }

    /// Returns the statement for `keyspace`, a name as CQL spells it.
    pub(super) fn statement(&self, keyspace: &str) -> String {
        match self.change {
            SchemaChange::Table { table, columns, partition_key, clustering } => {
                let mut text = format!("CREATE TABLE IF NOT EXISTS {keyspace}.{table} (\n");
                for (name, cql_type) in columns {
                    text += &format!("  {name} {cql_type},\n");
                }
                let partition_key = format!("({})", partition_key.join(", "));
                let key: Vec<_> = once(&*partition_key).chain(clustering.iter().copied()).collect();
                text + &format!("  PRIMARY KEY ({})\n);\n", key.join(", "))
            }
            // ScyllaDB has no `ADD IF NOT EXISTS`, so the caller checks whether the column exists.
            SchemaChange::Column { table, name, cql_type } => {
                format!("ALTER TABLE {keyspace}.{table} ADD {name} {cql_type};\n")
            }
        }
    }

    /// Returns the columns that the step adds, by name.
    fn columns(&self) -> Vec<(&'static str, Column)> {
        let place = |key: &[&str], name: &str| key.iter().position(|part| *part == name);
        let column = |cql_type: &str, kind: &str, position: Option<usize>| Column {
            cql_type: cql_type.to_owned(),
            kind: kind.to_owned(),
            position: position.map_or(-1, |place| i32::try_from(place).unwrap_or(i32::MAX)),
        };
        match self.change {
            SchemaChange::Table { columns, partition_key, clustering, .. } => columns
                .iter()
                .map(|(name, cql_type)| {
                    let (kind, position) =
                        match (place(partition_key, name), place(clustering, name)) {
                            (Some(place), _) => ("partition_key", Some(place)),
                            (None, Some(place)) => ("clustering", Some(place)),
                            (None, None) => (REGULAR, None),
                        };
                    (*name, column(cql_type, kind, position))
                })
                .collect(),
            SchemaChange::Column { name, cql_type, .. } => {
                vec![(name, column(cql_type, REGULAR, None))]
            }
        }
    }
}

/// Returns the columns of each table after `steps`.
pub(super) fn tables_after<'a>(
    steps: impl IntoIterator<Item = &'a Step>,
) -> BTreeMap<&'static str, Columns> {
    let mut tables: BTreeMap<&'static str, Columns> = BTreeMap::new();
    for step in steps {
        let columns = step.columns().into_iter().map(|(name, column)| (name.to_owned(), column));
        tables.entry(step.table()).or_default().extend(columns);
    }
    tables
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn steps_are_numbered_and_add_to_earlier_tables() {
        let mut tables: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (number, step) in (1..).zip(STEPS) {
            assert_eq!(step.number, number);
            let known = tables.entry(step.table()).or_default();
            let is_table = matches!(step.change, SchemaChange::Table { .. });
            assert_eq!(known.is_empty(), is_table, "{}", step.name());
            for (name, _) in step.columns() {
                assert!(known.insert(name), "{} has {name} already", step.table());
            }
        }
    }

    #[test]
    fn every_part_of_a_key_is_a_column() {
        for step in STEPS {
            let SchemaChange::Table { columns, partition_key, clustering, .. } = step.change else {
                continue;
            };
            assert!(!partition_key.is_empty(), "{}", step.name());
            for part in partition_key.iter().chain(clustering) {
                assert!(columns.iter().any(|(name, _)| name == part), "{}: {part}", step.name());
            }
        }
    }

    /// Operators can read the files and run them.
    #[test]
    fn the_files_in_cql_say_what_the_steps_do() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cql");
        for step in STEPS {
            let path = folder.join(format!("{}.cql", step.name()));
            let text = fs::read_to_string(&path).unwrap_or_default();
            let is_comment = |line: &&str| line.starts_with("-- ");
            assert!(
                text.lines().next().as_ref().is_some_and(is_comment),
                "{} says why",
                path.display()
            );
            let statement: Vec<_> = text.lines().filter(|line| !is_comment(line)).collect();
            let expected = step.statement("coupond");
            let remedy = format!("below its comment, {} has to be:\n{expected}", path.display());
            assert_eq!(statement.join("\n") + "\n", expected, "{remedy}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), STEPS.len(), "files in cql/");
    }

    #[test]
    fn a_table_has_the_columns_of_all_its_steps() {
        let note = SchemaChange::Column { table: "marks", name: "note", cql_type: "text" };
        let note = Step { number: 14, change: note };
        let tables = tables_after(STEPS.iter().chain(&[note]));
        let described = |table: &str, column: &str| tables[table][column].to_string();
        assert_eq!(described("coupons_by_user", "campaign_id"), "text, partition_key 0");
        assert_eq!(described("coupons_by_user", "user_bucket"), "int, partition_key 1");
        assert_eq!(described("coupons_by_user", "user_id"), "text, clustering 0");
        assert_eq!(described("coupons_by_user", "sequence"), "int, clustering 1");
        assert_eq!(described("marks", "campaign_id"), "text, partition_key 0");
        assert_eq!(described("marks", "note"), "text, regular");
        assert_eq!(tables["marks"].len(), 6);
        assert_eq!(note.statement("\"k\""), "ALTER TABLE \"k\".marks ADD note text;\n");
        assert_eq!(note.name(), "014_marks_note");
    }
}
