//! Ranges of the database that nobody can read or write: one copy of each row, and one database node that
//! is down.

use std::time::{Duration, Instant};

use coupond::{
    domain::ids::{CampaignId, Partition},
    wire::routing::partition_of,
};
use libtest_mimic::Trial;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    serialize::row::SerializeRow,
};
use serde_json::{Value, json};

use crate::{
    engine,
    engines::Engine,
    instance::define,
    procs::{Node, until},
    stage::{Stage, database},
    trials,
};

/// Partitions of an instance.
const PARTITIONS: u32 = 12;

/// Campaigns among which one is looked for whose rows lie where they should.
const CANDIDATES: usize = 400;

/// A quota with one by-user bucket, and one with sixteen.
const SMALL: usize = 500;
const LARGE: usize = 1_000_000;

/// Users of a campaign: some in each of sixteen by-user buckets.
const USERS: usize = 100;

/// Time in which a campaign without its ranges goes on hold: 30 s, and what is in flight before.
const HELD_WITHIN: Duration = Duration::from_secs(45);

/// Time in which it is back once its ranges are.
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// Longest decision of other campaigns meanwhile.
const NEIGHBOUR_WITHIN: Duration = Duration::from_secs(5);

pub(crate) fn trials() -> Vec<Trial> {
    trials![a_campaign_without_its_ranges_goes_on_hold_alone]
}

/// Returns a session, and the keyspace of an instance.
async fn session(stage: &Stage) -> (Session, String) {
    let keyspace = stage.settings.iter().find_map(|it| it.strip_prefix("cql.keyspace="));
    let session = SessionBuilder::new().known_nodes(database()).build().await.expect("a session");
    (session, keyspace.expect("it was set").to_owned())
}

/// Returns the number of holds that an instance has ever had.
pub(crate) async fn holds(stage: &Stage) -> i64 {
    let (session, keyspace) = session(stage).await;
    let query = format!("SELECT count(*) FROM {keyspace}.holds");
    let rows = session.query_unpaged(query, ()).await.expect("the database answers");
    let rows = rows.into_rows_result().expect("rows");
    rows.single_row::<(i64,)>().expect("one row").0
}

/// Returns the campaigns on hold, with the reasons. Of a campaign whose versions cannot be read, no node
/// has a view.
async fn held(session: &Session, keyspace: &str, at: Partition) -> Vec<(String, String)> {
    let query =
        format!("SELECT campaign_id, reason, state FROM {keyspace}.holds WHERE partition = {at}");
    let Ok(rows) = session.query_unpaged(query, ()).await else { return Vec::new() };
    let rows = rows.into_rows_result().expect("rows");
    let rows = rows.rows::<(String, String, String)>().expect("three columns").flatten();
    let open = rows.filter(|(_, _, state)| state == "open");
    open.map(|(campaign, reason, _)| (campaign, reason)).collect()
}

/// Where rows lie. Rows of tables with keys of the same types and values lie together.
struct Places {
    session: Session,
    keyspace: String,
}

impl Places {
    /// Returns the number (from 1) of the database node that has a row.
    fn of(&self, table: &str, key: &dyn SerializeRow) -> usize {
        let state = self.session.get_cluster_state();
        let at = state.get_endpoints(&self.keyspace, table, key).expect("a table with this key");
        let host = at.first().expect("one copy").0.address.ip().to_string();
        let is_at = |endpoint: &String| endpoint.split(':').next() == Some(host.as_str());
        1 + database().iter().position(is_at).expect("a node of this engine")
    }

    fn of_partition(&self, partition: Partition) -> usize {
        self.of("progress", &(i32::try_from(partition).expect("it is small"),))
    }

    /// Where mark and versions lie.
    fn of_campaign(&self, campaign: &str) -> usize {
        self.of("marks", &(campaign,))
    }

    /// Where by-user rows of a bucket lie, and coupons of the bucket of that number.
    fn of_bucket(&self, campaign: &str, bucket: i32) -> usize {
        self.of("coupons_by_user", &(campaign, bucket))
    }
}

/// Campaigns of one partition.
struct Chosen {
    /// The number of the database node that goes down.
    dead: usize,
    /// It has mark and versions of this one, but no coupon.
    without_marks: String,
    /// It has coupons and by-user rows, but neither mark nor version.
    without_coupons: String,
    /// It has by-user rows alone.
    without_by_user: String,
    /// It has nothing of this one.
    sound: String,
}

fn choose(places: &Places) -> Chosen {
    let names: Vec<_> = (0..CANDIDATES).map(|number| format!("range-{number}")).collect();
    let partition =
        |name: &String| partition_of(&CampaignId::parse(name).expect("a valid id"), PARTITIONS);
    for dead in 1..=database().len() {
        // Each node writes its row, and the list of campaigns is read.
        if places.of_partition(0) == dead {
            continue;
        }
        for at in (0..PARTITIONS).filter(|at| places.of_partition(*at) != dead) {
            let here = || names.iter().filter(|name| partition(name) == at);
            let find = |marks: bool, first: bool, others: Option<bool>| {
                let fits = |name: &&String| {
                    let has = |bucket| places.of_bucket(name, bucket) == dead;
                    let others_fit = others.is_none_or(|wanted| (1..16).any(has) == wanted);
                    (places.of_campaign(name) == dead) == marks && has(0) == first && others_fit
                };
                here().find(fits).cloned()
            };
            let found = (
                find(true, false, None),
                find(false, true, None),
                find(false, false, Some(true)),
                here()
                    .filter(|name| places.of_campaign(name) != dead)
                    .rfind(|name| places.of_bucket(name, 0) != dead),
            );
            if let (Some(marks), Some(coupons), Some(by_user), Some(sound)) = found {
                return Chosen {
                    dead,
                    without_marks: marks,
                    without_coupons: coupons,
                    without_by_user: by_user,
                    sound: sound.clone(),
                };
            }
        }
    }
    panic!("no such campaigns among {CANDIDATES}")
}

/// Asks for coupons for so many users at once, and for no answer.
async fn ask(node: &Node, campaign: &str, name: &str) {
    let client = reqwest::Client::new();
    for user in 0..USERS {
        let body = json!({ "campaign_id": campaign, "user_id": format!("{name}-{user}") });
        let request = client.post(format!("{}/coupon/issue", node.api)).json(&body);
        let taken = request.send().await.expect("the node answers").status().as_u16();
        assert!(taken == 202 || taken == 200, "{taken}");
    }
}

async fn view(node: &Node, campaign: &str) -> Value {
    node.admin("GET", &format!("/admin/campaigns/{campaign}"), Value::Null).await.1
}

async fn a_campaign_without_its_ranges_goes_on_hold_alone() {
    let mut stage = Stage::start_with(2, 0, &["cql.replication_factor=1"]).await;
    let (session, keyspace) = session(&stage).await;
    let places = Places { session, keyspace };
    let chosen = choose(&places);
    let Chosen { dead, without_marks, without_coupons, without_by_user, sound } = chosen;
    let struck = [without_marks, without_coupons, without_by_user.clone()];
    let at = partition_of(&CampaignId::parse(&sound).expect("a valid id"), PARTITIONS);
    for campaign in struck.iter().chain([&sound]) {
        let quota = if *campaign == without_by_user { LARGE } else { SMALL };
        define(&stage.nodes[0], campaign, quota).await;
    }
    let all: Vec<_> = struck.iter().chain([&sound]).cloned().collect();
    stage.decided_in(&all, 0, Instant::now()).await;
    // Progress has passed it: what follows is all that is not stored.
    tokio::time::sleep(Duration::from_secs(2)).await;

    let killed = u32::try_from(dead).expect("it is small");
    tokio::task::block_in_place(|| engine(Engine::Cql).kill_node(killed));
    let began = Instant::now();
    for campaign in &struck {
        ask(&stage.nodes[0], campaign, "late").await;
    }
    let mut slowest = Duration::ZERO;
    let mut held = Vec::new();
    while held.len() < struck.len() {
        assert!(began.elapsed() <= HELD_WITHIN, "only {held:?} of {struck:?} are on hold");
        let took = stage.decided_in(std::slice::from_ref(&sound), 0, Instant::now()).await;
        slowest = slowest.max(took);
        for (campaign, reason) in self::held(&places.session, &places.keyspace, at).await {
            if !held.contains(&campaign) {
                println!("{campaign} on hold after {:.1?}: {reason}", began.elapsed());
                held.push(campaign);
            }
        }
    }
    println!("another campaign of the partition was decided within {slowest:.1?}");
    assert!(slowest <= NEIGHBOUR_WITHIN, "a neighbour waited {slowest:?}");
    assert_eq!(stage.left().await, [0.0; 2]);

    tokio::task::block_in_place(|| engine(Engine::Cql).restart_nodes(&[killed]));
    let began = Instant::now();
    for campaign in &struck {
        let is_back = || async {
            (view(&stage.nodes[0], campaign).await["state"] != "quarantined").then_some(())
        };
        until("it is back", is_back).await;
    }
    let took = stage.decided_in(&struck, 0, Instant::now()).await;
    println!("back {:.1?} after the range, decided {took:.1?} later", began.elapsed());
    assert!(began.elapsed() <= BACK_WITHIN, "back {:?} after the range", began.elapsed());
    stage.end().await;
}
