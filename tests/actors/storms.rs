//! Storms of panics, errors and delays: once at every point, and at random points from seeds.

use std::collections::BTreeMap;

use coupond::{
    actors::messages::SupervisorMessage,
    domain::{definition::Amendment, record::Change},
};

use crate::world::{self, Random, campaign, faults::Plan, node::NodeWorld};

type Places = BTreeMap<(&'static str, &'static str), (u64, u64)>;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn add(all: &mut Places, more: Places) {
    for (place, (passed, panicked)) in more {
        let counts = all.entry(place).or_default();
        *counts = (counts.0 + passed, counts.1 + panicked);
    }
}

/// Appends a random record to one of `campaigns`.
fn random_record(world: &mut NodeWorld, campaigns: usize) {
    let id = campaign(world.random.below(campaigns as u64) as usize);
    let change = match world.random.below(120) {
        0 => Change::Paused,
        1..=3 => Change::Resumed,
        4 => Change::Amended {
            amendment: Amendment {
                quota: Some(10 + world.random.below(30) as u32),
                ..Amendment::default()
            },
        },
        5 => {
            let partition = world.random.below(u64::from(world.partitions)) as u32;
            let now = world.now();
            return world.log.append_undecodable(partition, now);
        }
        other => {
            let user = world.random.below(40);
            let key = (other < 40).then(|| world.random.below(3));
            return world.request_with_key(&id, user, key);
        }
    };
    world.change(&id, change);
}

/// Causes a random fault other than a panic at a point.
async fn trouble(world: &mut NodeWorld, campaigns: usize) {
    let partition = world.random.below(u64::from(world.partitions)) as u32;
    match world.random.below(8) {
        0 => {
            world.revoke(partition);
            let away = world.random.below(3) * 40;
            if away > 0 {
                world.wait_ms(away).await;
            }
            world.assign(partition);
        }
        1 => world.send(SupervisorMessage::CrashConsumer(partition)),
        2 => {
            let end = world.truth.facts().parts[partition as usize].end();
            let end = end.saturating_sub(world.random.below(50));
            world.log.cut(partition, Some(end));
            world.wait_ms(1_500).await;
            world.log.cut(partition, None);
        }
        3 | 4 => {
            // Long enough for a hold. Its release then replays while other campaigns are decided.
            let id = campaign(world.random.below(campaigns as u64) as usize);
            world.faults.make_panic(id.clone());
            world.send(SupervisorMessage::Crash(id.clone()));
            (0..5).for_each(|_| random_record(world, campaigns));
            let pause = 200 + world.random.below(600);
            world.wait_ms(pause).await;
            world.faults.stop_panics(&id);
            world.change(&id, Change::Released);
        }
        _ => {
            let id = campaign(world.random.below(campaigns as u64) as usize);
            world.send(SupervisorMessage::Crash(id));
        }
    }
}

/// Runs one storm. Returns the violations, the number of injected panics, and their points.
fn storm(seed: u64) -> (Vec<String>, u64, Places) {
    let mut chance = Random(seed);
    let campaigns = [3, 20, 100][chance.below(3) as usize];
    let plan = Plan {
        panics: [40, 150, 600][chance.below(3) as usize],
        supervisor_panics: [0, 400][chance.below(2) as usize],
        errors: [0, 20, 200][chance.below(3) as usize],
        delays: [0, 10, 50][chance.below(3) as usize],
        panic_at: None,
    };
    let troubles = [0, 5, 20][chance.below(3) as usize];
    world::run(async move {
        let mut world = NodeWorld::start(seed, 4, plan).await;
        for index in 0..campaigns {
            if world.random.below(10) > 0 {
                world.define(&campaign(index), 10 + (seed % 20) as u32, 1 + (seed % 3) as u16);
            }
        }
        for _ in 0..40 {
            for _ in 0..world.random.below(40) {
                random_record(&mut world, campaigns);
            }
            if world.random.one_in(troubles) {
                trouble(&mut world, campaigns).await;
            }
            let pause = world.random.below(60);
            world.wait_ms(pause).await;
        }
        let faults = world.faults.clone();
        let violations = world.end().await;
        (violations, faults.panics(), faults.places())
    })
}

#[test]
fn storms_of_panics_change_no_answer() {
    let goal = setting("COUPOND_PANICS", 500);
    let first = setting("COUPOND_SEED", 1);
    let mut all = Places::new();
    let (mut seed, mut panics) = (first, 0);
    while panics < goal {
        let (violations, injected, places) = storm(seed);
        assert!(
            violations.is_empty(),
            "seed {seed}: {:#?}",
            &violations[..violations.len().min(10)]
        );
        panics += injected;
        add(&mut all, places);
        seed += 1;
    }
    println!("{panics} panics in {} storms, 0 violations, by place:", seed - first);
    for ((part, place), (passed, panicked)) in &all {
        println!("{part:>12} {place:<22} {panicked:>7} of {passed}");
    }
}

/// Runs a short story in which every kind of call and message occurs.
async fn story(plan: Plan) -> NodeWorld {
    let mut world = NodeWorld::start(7, 1, plan).await;
    let (spring, summer) = (campaign(0), campaign(1));
    world.define(&spring, 5, 1);
    world.request(&summer, 1);
    world.log.append_undecodable(0, world.now());
    for user in 0..8 {
        world.request(&spring, user);
    }
    world.wait_ms(150).await;
    world.define(&summer, 3, 1);
    world.send(SupervisorMessage::Crash(spring.clone()));
    for user in 0..4 {
        world.request(&summer, user);
    }
    world.change(&spring, Change::Paused);
    world.request(&spring, 9);
    // Repeated failures put the campaign on hold. It is released and replayed.
    world.faults.make_panic(summer.clone());
    for user in 0..3 {
        world.request(&summer, user);
        world.request(&spring, user);
    }
    world.wait_ms(600).await;
    world.request(&summer, 7);
    world.wait_ms(200).await;
    world.faults.stop_panics(&summer);
    world.change(&summer, Change::Released);
    world.request(&summer, 8);
    world.wait_ms(200).await;
    world.revoke(0);
    world.request(&spring, 4);
    world.wait_ms(20).await;
    world.assign(0);
    world.wait_ms(300).await;
    world
}

#[test]
fn a_panic_at_any_point_changes_no_answer() {
    let points = world::run(async {
        let world = story(Plan::default()).await;
        let faults = world.faults.clone();
        let points = faults.points();
        assert_eq!(world.end().await, Vec::<String>::new());
        points
    });
    let mut panics = 0;
    for at in 1..=points {
        world::run(async {
            let world = story(Plan { panic_at: Some(at), ..Plan::default() }).await;
            let faults = world.faults.clone();
            let violations = world.end().await;
            assert!(violations.is_empty(), "a panic at point {at} of {points}: {violations:#?}");
            let at_points: u64 = faults.places().values().map(|(_, panicked)| panicked).sum();
            panics += at_points;
        });
    }
    assert_eq!(panics, points, "some points were not reached");
    println!("{panics} panics, one at each point of a story, 0 violations");
}

#[test]
fn a_faultless_story_repeats_exactly() {
    let outcome = |seed| {
        world::run(async move {
            let mut world = NodeWorld::start(seed, 4, Plan::default()).await;
            (0..20).for_each(|index| world.define(&campaign(index), 10, 1));
            for _ in 0..20 {
                (0..20).for_each(|_| random_record(&mut world, 20));
                world.wait_ms(20).await;
            }
            let (truth, faults) = (world.truth.clone(), world.faults.clone());
            assert_eq!(world.end().await, Vec::<String>::new());
            assert_eq!(truth.facts().unpublished(), 0);
            (faults.points(), truth.facts().coupons.clone())
        })
    };
    for seed in 1..4 {
        assert_eq!(outcome(seed), outcome(seed), "seed {seed}");
    }
}
