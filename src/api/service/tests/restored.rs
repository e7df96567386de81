//! Log and rows on one disk, which went back to an older copy.

use std::{sync::Arc, time::Duration};

use super::world::{ServiceWorld, keyed, request};
use crate::{
    api::service::{
        FindRequests, IssueCoupons, NodeService, RequestStatus, ServiceError, ServiceParts,
    },
    domain::{answer::Answer, ids::Offset, record::Record},
    simulation::testing::Settle,
};

const AT_ONCE: Duration = Duration::ZERO;

/// Starts a service that has the log on its own disk.
fn service(world: &ServiceWorld) -> Arc<NodeService> {
    let parts = ServiceParts { local_log: Some(world.local_log()), ..world.parts() };
    let service = Arc::new(NodeService::new(parts));
    service.start();
    service
}

async fn found(service: &NodeService, id: &str) -> Result<Option<Answer>, ServiceError> {
    Ok(match service.find(id, None, AT_ONCE).await?.status {
        RequestStatus::Decided(answer) => Some(answer),
        RequestStatus::Pending { .. } => None,
    })
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_life_is_not_decided() {
    let (world, spring) = ServiceWorld::with_spring().await;
    let partition = world.partition_of(&spring);
    let begin = world.end(partition);
    let asked = [request(&spring, "u1"), keyed(&spring, "u2", "k"), request(&spring, "u3")];
    let mut ids = Vec::new();
    let mut offsets: Vec<Offset> = Vec::new();
    for request in asked.clone() {
        ids.push(world.service.issue(request, None).await.unwrap().request_id);
        offsets.push(world.end(partition) - 1);
    }
    world.decide(Settle::All).await;
    let node = service(&world);
    for id in &ids {
        assert!(matches!(found(&node, id).await, Ok(Some(Answer::Issued { .. }))));
    }
    // Another user has the place; the same user has it with another key, or at another time.
    let (_, other) = world.service.codec.encode(&Record::Request(request(&spring, "u9")));
    let (_, unkeyed) = world.service.codec.encode(&Record::Request(request(&spring, "u2")));
    let sound = world.record(partition, offsets[1]);
    let replaced = [(other.value, 0), (unkeyed.value, 0), (sound.value.clone(), 1)];
    for (value, later_ms) in replaced {
        let mut record = sound.clone();
        record.mac = None;
        record.value = value;
        record.time.0 += later_ms;
        world.set_record(partition, record);
        assert_eq!(found(&node, &ids[1]).await, Err(ServiceError::NotDecided));
    }
    world.set_record(partition, sound);
    assert!(matches!(found(&node, &ids[1]).await, Ok(Some(Answer::Issued { .. }))));
    // The log ends below it, or nothing has its place.
    world.cut_log(partition, offsets[2]);
    assert_eq!(found(&node, &ids[2]).await, Err(ServiceError::NotDecided));
    world.cut_log(partition, begin);
    assert_eq!(found(&node, &ids[0]).await, Err(ServiceError::NotDecided));
    // What was trimmed is answered from rows.
    world.trim(partition, begin + 100);
    assert!(matches!(found(&node, &ids[0]).await, Ok(Some(Answer::Issued { .. }))));
}
