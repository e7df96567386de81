//! The rows of nodes.

use scylla::response::query_result::QueryRowsResult;

use super::{
    Cause, Shared,
    read::decoded,
    rows::{BadValue, fit},
};
use crate::{
    domain::{
        ids::ProcessName,
        rows::{Hang, NodeRow},
    },
    telemetry::metrics::{self, DatabaseRequest},
};

/// Cells of a node: name, number, is_member, can_decide, hangs.
type NodeCells<'a> = (&'a str, i64, bool, bool, &'a str);

impl Shared {
    pub(super) async fn write_node(&self, row: &NodeRow) -> Result<(), Cause> {
        let number = fit::<i64, _>("number", row.number)?;
        let hangs: Vec<String> = row.hangs.iter().map(encode).collect();
        let NodeRow { name, is_member, can_decide, .. } = row;
        // The number is the timestamp too: a late write changes nothing.
        let values = (name.as_str(), number, is_member, can_decide, hangs.join(","), number);
        let _permit = self.writes.acquire(None, 1).await;
        metrics::database_request(DatabaseRequest::Write);
        self.session.execute_unpaged(&self.statements.node, values).await?;
        Ok(())
    }

    pub(super) async fn nodes(&self) -> Result<Vec<NodeRow>, Cause> {
        let nodes = |page: &QueryRowsResult| decoded(page.rows()?.map(|cells| Ok(decode(cells?))));
        let found = self.read(&self.statements.read_nodes, (), nodes).await?.concat();
        Ok(found.into_iter().flatten().collect())
    }

    pub(super) async fn forget_node(&self, name: &ProcessName, number: u64) -> Result<(), Cause> {
        let number = fit::<i64, _>("number", number)?;
        let _permit = self.writes.acquire(None, 1).await;
        let values = (number, name.as_str());
        metrics::database_request(DatabaseRequest::Write);
        self.session.execute_unpaged(&self.statements.forget_node, values).await?;
        Ok(())
    }
}

fn encode(Hang { partition, from, to }: &Hang) -> String {
    format!("{partition}:{from}-{to}")
}

fn decode_hang(text: &str) -> Option<Hang> {
    let (partition, range) = text.split_once(':')?;
    let (from, to) = range.split_once('-')?;
    Some(Hang {
        partition: partition.parse().ok()?,
        from: from.parse().ok()?,
        to: to.parse().ok()?,
    })
}

/// Decodes a row; none if it is no row of a node that this version knows.
fn decode((name, number, is_member, can_decide, hangs): NodeCells<'_>) -> Option<NodeRow> {
    let name = ProcessName::parse(name).ok()?;
    let number: Result<u64, BadValue> = fit("number", number);
    let hangs = hangs.split(',').take(NodeRow::HANGS_MAX).filter_map(decode_hang).collect();
    Some(NodeRow { name, number: number.ok()?, is_member, can_decide, hangs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_nobody_wrote_is_left_out() {
        let name = "00000000000000ff";
        assert!(decode((name, 7, true, true, "")).is_some());
        assert_eq!(decode((name, -7, true, true, "")), None);
        assert_eq!(decode(("node-1", 7, true, true, "")), None);
        let hang = Hang { partition: 3, from: 4, to: 5 };
        let row = decode((name, 7, true, true, "x,3:4-5,3:,3:4-,-")).unwrap();
        assert_eq!(row.hangs, [hang]);
        assert_eq!(decode_hang(&encode(&hang)), Some(hang));
        let many = vec!["3:4-5"; 100].join(",");
        assert_eq!(decode((name, 7, true, true, &many)).unwrap().hangs.len(), NodeRow::HANGS_MAX);
    }
}
