//! The store while database nodes are killed.

use super::*;

/// Stores that connect through different database nodes have one schema and one layout. Every
/// written row can be read from any two of the three nodes.
pub(super) async fn a_minority_of_the_nodes_may_die(cluster: engines::Own) {
    let keyspace = engines::unique("cql");
    let connections = cluster.endpoints().iter().map(|node| {
        let nodes = vec![node.clone()];
        let config = CqlConfig { nodes, keyspace: keyspace.clone(), ..CqlConfig::default() };
        tokio::spawn(async move { connect(&config).await })
    });
    let connected = join_all(connections).await;
    let stores: Vec<_> =
        connected.into_iter().map(|store| Patient(store.unwrap().unwrap())).collect();
    let layouts = (0..).zip(&stores).map(async |(number, store)| {
        store.layout(&layout(&format!("instance-{number}"))).await.unwrap()
    });
    let layouts = join_all(layouts).await;
    assert!(layouts.iter().all(|layout| *layout == layouts[0]), "{layouts:?}");

    let spring = campaign("spring");
    let mut written = 0;
    for (dead, back) in [(3, None), (1, Some(3))] {
        if let Some(back) = back {
            cluster.restart_nodes(&[back]);
        }
        cluster.kill_node(dead);
        for store in &stores {
            let rows = coupons(&spring, written + 1..=written + 400);
            store.write(&rows).await.unwrap();
            written += 400;
            let found = all(store, &spring).await;
            assert_eq!(found.len(), written as usize, "with node {dead} dead");
        }
    }
}
