//! Checks of the rows of nodes. Every adapter that has them runs these, with `node_rows_contract!` or the list
//! of [`checks`], as for coupons. Checks may share a store.

use futures_util::future::BoxFuture;

use crate::{
    domain::{
        ids::ProcessName,
        rows::{Hang, NodeRow},
    },
    store::NodeRows,
};

/// One check of the contract.
pub type Check = for<'a> fn(&'a dyn NodeRows) -> BoxFuture<'a, ()>;

/// Lists the checks by name, and defines the macro that makes a test of each.
macro_rules! checks {
    ($($name:ident),+ $(,)?) => {
        /// Returns every check with its name.
        pub fn checks() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), (|store| Box::pin($name(store))) as Check)),+]
        }

        /// Makes a test of every check. `fresh` returns a store and its guard.
        #[allow(unused_macros, reason = "adapters may run the list instead")]
        macro_rules! node_rows_contract {
            ($fresh:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        let (store, guard) = $fresh().await;
                        $crate::store::contract::nodes::$name(&*store).await;
                        drop((store, guard));
                    }
                )+
            };
        }
        #[allow(unused_imports, reason = "adapters may run the list instead")]
        pub(crate) use node_rows_contract;
    };
}

checks!(
    rows_of_nodes_are_read_back,
    a_node_row_never_goes_back,
    a_node_row_is_forgotten_by_its_number,
);

fn row(name: u64, number: u64) -> NodeRow {
    let name = ProcessName::of(name);
    NodeRow { name, number, is_member: true, can_decide: false, hangs: Vec::new() }
}

async fn write(store: &dyn NodeRows, row: &NodeRow) {
    store.write_node(row).await.expect("a row is written");
}

async fn found(store: &dyn NodeRows, name: u64) -> Option<NodeRow> {
    let rows = store.nodes().await.expect("rows are read");
    rows.into_iter().find(|row| row.name == ProcessName::of(name))
}

/// Every field, also of the next row.
pub async fn rows_of_nodes_are_read_back(store: &dyn NodeRows) {
    assert_eq!(found(store, 0xA0).await, None);
    let hangs: Vec<_> = (0..NodeRow::HANGS_MAX as u64)
        .map(|at| Hang { partition: at as u32, from: at, to: (i64::MAX as u64) - at })
        .collect();
    let first = row(0xA1, 1);
    let next = NodeRow { is_member: false, can_decide: true, hangs, ..row(0xA1, 2) };
    for said in [first, next, row(0xA2, i64::MAX as u64)] {
        write(store, &said).await;
        let name = u64::from_str_radix(said.name.as_str(), 16).expect("a number");
        assert_eq!(found(store, name).await, Some(said));
    }
    assert!(found(store, 0xA1).await.is_some(), "another node has another row");
}

/// A late write changes nothing.
pub async fn a_node_row_never_goes_back(store: &dyn NodeRows) {
    let latest = NodeRow { can_decide: true, ..row(0xB1, 7) };
    for said in [row(0xB1, 5), latest.clone(), row(0xB1, 6)] {
        write(store, &said).await;
    }
    assert_eq!(found(store, 0xB1).await, Some(latest));
}

/// A process that goes on after all has its row again.
pub async fn a_node_row_is_forgotten_by_its_number(store: &dyn NodeRows) {
    let name = ProcessName::of(0xC1);
    write(store, &row(0xC1, 8)).await;
    store.forget_node(&name, 7).await.expect("nothing is deleted");
    assert_eq!(found(store, 0xC1).await, Some(row(0xC1, 8)), "it has risen since");
    store.forget_node(&name, 8).await.expect("a row is deleted");
    assert_eq!(found(store, 0xC1).await, None);
    write(store, &row(0xC1, 9)).await;
    assert_eq!(found(store, 0xC1).await, Some(row(0xC1, 9)));
    store.forget_node(&ProcessName::of(0xC2), 8).await.expect("there is none");
}
