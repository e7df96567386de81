//! The rows of nodes in the store of a world. They belong to no order and survive a store that is set back.

use async_trait::async_trait;
use futures_util::FutureExt;

use super::{
    act::word,
    link::{Call, Failed},
    store::WorldStore,
};
use crate::{
    domain::{ids::ProcessName, rows::NodeRow},
    store::{NodeRows, StoreError, memory::MemoryStore},
};

impl WorldStore {
    /// Calls the store in memory, which never waits.
    async fn of_nodes<T: Send + 'static>(
        &self,
        call: Call,
        land: impl Fn(&MemoryStore) -> Option<Result<T, StoreError>> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let store = self.rows.store.clone();
        let landed = self.link.call(call, None, move || land(&store)).await;
        let landed = landed.map_err(|failed| StoreError::new(word(&call), failed))?;
        landed.unwrap_or_else(|| Err(StoreError::new(word(&call), Failed::NoAnswer)))
    }
}

#[async_trait]
impl NodeRows for WorldStore {
    async fn write_node(&self, row: &NodeRow) -> Result<(), StoreError> {
        let row = row.clone();
        let write = move |store: &MemoryStore| store.write_node(&row).now_or_never();
        self.of_nodes(Call::WriteNode, write).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.of_nodes(Call::ReadNodes, |store| store.nodes().now_or_never()).await
    }

    async fn forget_node(&self, name: &ProcessName, number: u64) -> Result<(), StoreError> {
        let name = name.clone();
        let forget = move |store: &MemoryStore| store.forget_node(&name, number).now_or_never();
        self.of_nodes(Call::ForgetNode, forget).await
    }
}
