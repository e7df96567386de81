//! Definition versions as columns. The columns of terms follow from the list of terms.

use std::collections::BTreeMap;

use scylla::value::{CqlTimestamp, CqlValue, MaybeUnset, Row};

use super::{BadValue, digest, fit, record_timestamp};
use crate::domain::{
    code::CodeFormat,
    definition::{Definition, DefinitionVersion, Term, TermKind, TermValue, Terms},
    ids::{CampaignId, Position, Timestamp},
};

/// Columns other than the campaign and the terms.
const FIXED: [&str; 10] = [
    "log_epoch",
    "offset",
    "partition",
    "record_time",
    "paused",
    "closed",
    "rules_version",
    "user_buckets",
    "issued",
    "digest",
];

/// Lists the columns of a version, in the order in which they are bound and read. The campaign is
/// bound before them, the write timestamp after them.
pub(in crate::store::cql) fn version_columns() -> Vec<&'static str> {
    let of_terms = Term::ALL.iter().flat_map(|term| term_columns(*term));
    FIXED.into_iter().chain(of_terms.map(|(name, _)| name)).collect()
}

/// Lists the columns of a term with their types.
fn term_columns(term: Term) -> Vec<(&'static str, &'static str)> {
    match term.kind() {
        TermKind::Whole(_) => vec![(term.name(), "int")],
        TermKind::Time { .. } => vec![(term.name(), "timestamp")],
        TermKind::Text { .. } => vec![(term.name(), "text")],
        TermKind::Flag => vec![(term.name(), "boolean")],
        TermKind::Code => {
            vec![
                ("code_prefix", "text"),
                ("code_length", "int"),
                ("code_charset", "text"),
                ("code_group", "int"),
            ]
        }
    }
}

/// Returns the values of a version by column. A column without a value is left out.
fn version_cells(version: &DefinitionVersion) -> Result<BTreeMap<&str, CqlValue>, BadValue> {
    let Definition { terms, paused, closed, rules_version, user_buckets } = &version.definition;
    let mut cells = BTreeMap::from([
        ("log_epoch", CqlValue::Int(fit("log_epoch", version.position.log_epoch)?)),
        ("offset", CqlValue::BigInt(fit("offset", version.position.offset)?)),
        ("partition", CqlValue::Int(fit("partition", version.position.partition)?)),
        ("record_time", CqlValue::Timestamp(CqlTimestamp(version.time.0))),
        ("paused", CqlValue::Boolean(*paused)),
        ("closed", CqlValue::Boolean(*closed)),
        ("rules_version", CqlValue::Int(i32::from(*rules_version))),
        ("user_buckets", CqlValue::Int(i32::from(*user_buckets))),
        ("issued", CqlValue::Int(fit("issued", version.issued)?)),
        ("digest", CqlValue::Blob(version.digest.to_vec())),
    ]);
    for term in Term::ALL {
        match terms.get(*term) {
            Some(TermValue::Whole(number)) => {
                cells.insert(term.name(), CqlValue::Int(fit(term.name(), number)?));
            }
            Some(TermValue::Time(time)) => {
                cells.insert(term.name(), CqlValue::Timestamp(CqlTimestamp(time.0)));
            }
            Some(TermValue::Text(text)) => {
                cells.insert(term.name(), CqlValue::Text(text));
            }
            Some(TermValue::Flag(flag)) => {
                cells.insert(term.name(), CqlValue::Boolean(flag));
            }
            Some(TermValue::Code(CodeFormat { prefix, length, charset, group })) => {
                cells.insert("code_prefix", CqlValue::Text(prefix));
                cells.insert("code_length", CqlValue::Int(i32::from(length)));
                cells.insert("code_charset", CqlValue::Text(charset));
                if let Some(group) = group {
                    cells.insert("code_group", CqlValue::Int(i32::from(group)));
                }
            }
            None => {}
        }
    }
    Ok(cells)
}

/// Returns what is bound for a definition version.
pub(in crate::store::cql) fn version(
    version: &DefinitionVersion,
) -> Result<Vec<MaybeUnset<CqlValue>>, BadValue> {
    let mut cells = version_cells(version)?;
    let columns = version_columns();
    let campaign = CqlValue::Text(version.campaign.as_str().to_owned());
    let timestamp = CqlValue::BigInt(record_timestamp(version.time, version.position.offset)?);
    let mut values = vec![MaybeUnset::Set(campaign)];
    values.extend(columns.iter().map(|column| MaybeUnset::from_option(cells.remove(column))));
    values.push(MaybeUnset::Set(timestamp));
    Ok(values)
}

/// Reads a definition version from a row of [`version_columns`].
pub(in crate::store::cql) fn decode_version(
    campaign: &CampaignId,
    row: Row,
) -> Result<DefinitionVersion, BadValue> {
    let cells = version_columns().into_iter().zip(row.columns);
    let cells = Cells(cells.filter_map(|(column, cell)| Some((column, cell?))).collect());
    let mut terms = Terms::of(0);
    for term in Term::ALL {
        let value = cells.term(*term)?;
        terms.set(*term, value).map_err(|_| cells.bad(term.name()))?;
    }
    let digest_bytes = cells.needed("digest", CqlValue::into_blob)?;
    Ok(DefinitionVersion {
        campaign: campaign.clone(),
        position: Position {
            log_epoch: cells.int("log_epoch")?,
            partition: cells.int("partition")?,
            offset: fit("offset", cells.needed("offset", |cell| cell.as_bigint())?)?,
        },
        time: cells.time("record_time")?.ok_or_else(|| cells.bad("record_time"))?,
        definition: Definition {
            terms,
            paused: cells.needed("paused", |cell| cell.as_boolean())?,
            closed: cells.needed("closed", |cell| cell.as_boolean())?,
            rules_version: cells.int("rules_version")?,
            user_buckets: cells.int("user_buckets")?,
        },
        issued: cells.int("issued")?,
        digest: digest("digest", &digest_bytes)?,
    })
}

/// The cells of a row that have a value.
struct Cells(BTreeMap<&'static str, CqlValue>);

impl Cells {
    fn term(&self, term: Term) -> Result<Option<TermValue>, BadValue> {
        let name = term.name();
        Ok(match term.kind() {
            TermKind::Whole(_) => Some(TermValue::Whole(self.int(name)?)),
            TermKind::Time { .. } => self.time(name)?.map(TermValue::Time),
            TermKind::Flag => Some(TermValue::Flag(self.needed(name, |cell| cell.as_boolean())?)),
            TermKind::Text { .. } => self.given(name, CqlValue::into_string)?.map(TermValue::Text),
            TermKind::Code => Some(TermValue::Code(CodeFormat {
                prefix: self.needed("code_prefix", CqlValue::into_string)?,
                length: self.int("code_length")?,
                charset: self.needed("code_charset", CqlValue::into_string)?,
                group: match self.given("code_group", |cell| cell.as_int())? {
                    Some(group) => Some(fit("code_group", group)?),
                    None => None,
                },
            })),
        })
    }

    fn int<T: TryFrom<i32>>(&self, column: &'static str) -> Result<T, BadValue> {
        fit(column, self.needed(column, |cell| cell.as_int())?)
    }

    fn time(&self, column: &'static str) -> Result<Option<Timestamp>, BadValue> {
        let time = self.given(column, |cell| cell.as_cql_timestamp())?;
        Ok(time.map(|time| Timestamp(time.0)))
    }

    fn needed<T>(
        &self,
        column: &'static str,
        read: impl Fn(CqlValue) -> Option<T>,
    ) -> Result<T, BadValue> {
        self.given(column, read)?.ok_or_else(|| self.bad(column))
    }

    fn given<T>(
        &self,
        column: &'static str,
        read: impl Fn(CqlValue) -> Option<T>,
    ) -> Result<Option<T>, BadValue> {
        let cell = self.0.get(column).cloned();
        cell.map(|cell| read(cell).ok_or_else(|| self.bad(column))).transpose()
    }

    fn bad(&self, column: &'static str) -> BadValue {
        BadValue { column, value: format!("{:?}", self.0.get(column)) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::{
        cql::steps::{STEPS, tables_after},
        tests::defined,
    };

    /// Returns the row that is read after these values were bound: without campaign and timestamp.
    pub(in crate::store::cql::rows) fn row(values: &[MaybeUnset<CqlValue>]) -> Row {
        let columns = values[1..values.len() - 1].iter().map(|value| match value {
            MaybeUnset::Set(value) => Some(value.clone()),
            MaybeUnset::Unset => None,
        });
        Row { columns: columns.collect() }
    }

    /// Returns the row that is read after `version` was written.
    fn written(version: &DefinitionVersion) -> Row {
        row(&super::version(version).unwrap())
    }

    #[test]
    fn every_column_of_a_version_is_in_the_schema() {
        let tables = tables_after(STEPS);
        let table = &tables["definition_versions"];
        for term in Term::ALL {
            for (name, cql_type) in term_columns(*term) {
                let found = table.get(name).map(|column| &*column.cql_type);
                assert_eq!(found, Some(cql_type), "{name}: add a step to steps.rs and its file");
            }
        }
        let mut known = version_columns();
        known.push("campaign_id");
        let unknown: Vec<_> = table.keys().filter(|name| !known.contains(&&***name)).collect();
        assert_eq!(unknown, Vec::<&String>::new());
        assert_eq!(table.len(), known.len());
    }

    #[test]
    fn a_version_is_read_as_it_was_written() {
        let window =
            Terms { opens_at: Some(Timestamp(7)), closes_at: Some(Timestamp(8)), ..Terms::of(5) };
        let titled = Terms { title: Some("Frühling".to_owned()), listed: false, ..Terms::of(5) };
        for terms in [Terms::of(5), window, titled] {
            let version = defined(terms);
            assert_eq!(decode_version(&version.campaign, written(&version)), Ok(version));
        }
    }

    #[test]
    fn a_needed_column_without_a_value_is_named() {
        let version = defined(Terms::of(5));
        let columns = version_columns();
        for column in ["quota", "code_charset", "paused", "record_time"] {
            let mut row = written(&version);
            let at = columns.iter().position(|name| *name == column).unwrap();
            row.columns[at] = None;
            let error = decode_version(&version.campaign, row).unwrap_err();
            assert_eq!(error.column, column);
        }
    }
}
