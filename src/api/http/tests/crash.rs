//! Actors that crash on request: only where chaos is on, and only what runs on this node.

use super::*;
use crate::{api::http::CrashActors, partition::actor_view::Crashed};

const SPRING: &str = "/admin/campaigns/spring/crash";
const PARTITION: &str = "/admin/partitions/1/crash";
const SUPERVISOR: &str = "/admin/supervisor/crash";

/// Records what crashes, and says that nothing else runs here than `here`.
struct Actors {
    here: Vec<Crashed>,
    crashed: Mutex<Vec<Crashed>>,
}

#[async_trait]
impl CrashActors for Actors {
    async fn crash(&self, crashed: Crashed) -> bool {
        self.crashed.lock().push(crashed.clone());
        self.here.contains(&crashed)
    }
}

fn site(script: Script, here: Vec<Crashed>) -> (Router, Arc<Actors>) {
    let actors = Arc::new(Actors { here, crashed: Mutex::default() });
    let mut parts = parts(Arc::new(script), Identity::Trusted);
    parts.chaos = Some(actors.clone());
    (admin_router(&parts), actors)
}

fn spring() -> Crashed {
    Crashed::Coupon(CampaignId::parse("spring").unwrap())
}

async fn post(router: &Router, path: &str, body: &'static str) -> Reply {
    Reply::of(router.clone(), admitted(send("POST", path, body))).await
}

#[tokio::test]
async fn what_runs_here_crashes_on_request() {
    let here = vec![spring(), Crashed::Consumer(1), Crashed::Supervisor];
    let (router, actors) = site(Script::default(), here.clone());
    post(&router, SPRING, "").await.expect(200, r#"{"campaign_id":"spring"}"#);
    post(&router, PARTITION, "").await.expect(200, r#"{"partition":1}"#);
    post(&router, SUPERVISOR, "").await.expect(200, r#"{"supervisor":"crashed"}"#);
    assert_eq!(*actors.crashed.lock(), here);
}

#[tokio::test]
async fn what_runs_elsewhere_is_a_conflict() {
    let (router, _) = site(Script::default(), Vec::new());
    for path in [SPRING, PARTITION, SUPERVISOR] {
        post(&router, path, "").await.problem(409, "not-here");
    }
}

#[tokio::test]
async fn nothing_crashes_unless_chaos_is_on() {
    let site = Site::new(Script::default());
    for path in [SPRING, PARTITION, SUPERVISOR, "/admin/partitions/99/crash"] {
        site.admin(send("POST", path, "")).await.problem(401, "no-token");
        let problem = site.admin(admitted(send("POST", path, "{"))).await;
        let problem = problem.problem(403, "chaos-disabled");
        assert!(problem["detail"].as_str().unwrap().contains("chaos.enabled"), "{problem}");
    }
}

#[tokio::test]
async fn a_crash_has_neither_body_nor_query() {
    let unknown = Script { campaign: Err(ServiceError::UnknownCampaign), ..Script::default() };
    let (router, actors) = site(unknown, Vec::new());
    post(&router, SPRING, "no body").await.problem(404, "unknown-campaign");
    post(&router, SPRING, "").await.problem(404, "unknown-campaign");
    post(&router, "/admin/partitions/3/crash", "").await.problem(404, "unknown-partition");
    let (sound, others) = site(Script::default(), vec![spring()]);
    for path in [SPRING, PARTITION, SUPERVISOR] {
        assert!(post(&sound, path, r#"{"at":1}"#).await.status >= 400, "{path}");
        let query = format!("{path}?soon=1");
        assert_eq!(post(&sound, &query, "").await.faults(), ["soon"], "{path}");
    }
    assert!(actors.crashed.lock().is_empty() && others.crashed.lock().is_empty());
}
