//! Draws the course of a world from its seed: bursts of requests, changes by operators, and faults of
//! a few kinds, each several times.

use std::collections::BTreeMap;

use super::{
    act::{Act, Delivery, Foreign, LogDamage, Lost, Verb},
    course::{Course, Kinds, Setup, Timed},
    damage::RowDamage,
    link::{Call, Engine, Fate},
    node::Bounds,
    probe::ActorKind,
    unreachable::Why,
};
use crate::random::Random;

/// Longest time in which clients ask and faults strike, in milliseconds.
const PHASE_MS: (u64, u64) = (8_000, 16_000);

/// Requests around each end of a campaign's window.
const RUSH: u32 = 16;

/// Furthest that the wall clock of a node is from the true time, in milliseconds.
const SKEW_MS: u64 = 200;

/// Longest append, in milliseconds. It lands while a world heals.
const APPEND_MS_MAX: u64 = 11_500;

/// Longest wait of a client, in milliseconds.
const WAIT_MS_MAX: u64 = 15_000;

/// Users of a campaign for whose by-user rows there is one more bucket, and most buckets drawn.
const USERS_OF_BUCKET: u64 = 100_001;
const BUCKETS_MAX: u64 = 3;

/// How often one kind of fault strikes in a world at most.
const TIMES_MAX: u64 = 4;

/// One world in so many has data damaged behind everybody's back, or its store set back.
const DAMAGED_ONE_IN: u64 = 3;

/// The course of the world of a seed. Only faults of these kinds strike.
pub(crate) fn draw(seed: u64, kinds: &Kinds, requests: u32) -> Course {
    let mut random = Random::of_world(seed);
    let setup = setup(&mut random, seed);
    let phase = random.between(PHASE_MS.0, PHASE_MS.1);
    let mut drawn = Drawn { random, acts: Vec::new(), setup, phase, clients: 0 };
    drawn.definitions();
    drawn.requests(requests);
    drawn.operators();
    drawn.faults(kinds);
    drawn.acts.sort_by_key(|timed| timed.at);
    Course { setup: drawn.setup, acts: drawn.acts }
}

/// Every kind of fault, with one example of it.
pub(crate) fn every_fault() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for seed in 0..64 {
        let mut random = Random::of_world(seed);
        let setup = setup(&mut random, seed);
        for act in any_faults(&mut random, &setup).into_iter().chain(damages(&mut random, &setup)) {
            all.entry(act.kind()).or_insert_with(|| act.to_string());
        }
    }
    all
}

fn setup(random: &mut Random, seed: u64) -> Setup {
    let is_embedded = random.one_in(5);
    let nodes = if is_embedded { 1 } else { random.between(2, 3) as usize };
    let pick = |random: &mut Random, of: &[u64]| of[random.index(of.len())];
    let batch_records = pick(random, &[1, 4, 16, 1_024]) as usize;
    let window_records = batch_records * 4 * pick(random, &[1, 4, 16]) as usize;
    let limits = Bounds {
        window_records,
        batch_records,
        // Else an owner waits for its next write of progress whenever its window is full.
        progress_records: pick(random, &[1, 8, 50, 1_000]).min(window_records as u64 / 2),
        progress_interval_ms: pick(random, &[50, 100, 1_000, 3_000]),
        idle_ms: pick(random, &[500, 3_000, 600_000]),
        waiters: pick(random, &[3, 20, 10_000]) as usize,
        lag: pick(random, &[30, 500_000]),
        user_burst: pick(random, &[3, 200]) as u32,
    };
    let around = |random: &mut Random, most: u64| {
        (0..nodes).map(|_| random.below(2 * most + 1) as i64 - most as i64).collect()
    };
    let (skew_ms, drift_ppm) = (around(random, SKEW_MS), around(random, 200));
    Setup {
        seed,
        is_embedded,
        nodes,
        partitions: random.between(1, 3) as u32,
        campaigns: random.between(2, 5) as u8,
        users: random.between(20, 90) as u8,
        limits,
        skew_ms,
        drift_ppm,
        restarts: random.one_in(2),
        probes: !is_embedded,
    }
}

struct Drawn {
    random: Random,
    acts: Vec<Timed>,
    setup: Setup,
    phase: u64,
    /// Clients so far.
    clients: u32,
}

impl Drawn {
    fn at(&mut self, at: u64, act: Act) {
        self.acts.push(Timed { at, act });
    }

    fn node(&mut self) -> usize {
        self.random.index(self.setup.nodes)
    }

    fn campaign(&mut self) -> u8 {
        self.random.below(u64::from(self.setup.campaigns)) as u8
    }

    fn user(&mut self) -> u8 {
        self.random.below(u64::from(self.setup.users)) as u8
    }

    fn definitions(&mut self) {
        let campaigns = self.setup.campaigns;
        for campaign in 0..campaigns {
            // Requests of the last one come before it is defined.
            let is_late = campaign + 1 == campaigns && self.random.one_in(2);
            let at = if is_late { self.random.below(4_000) } else { self.random.below(150) };
            let (node, quota) = (self.node(), self.quota(3, 90));
            let limit = if self.random.one_in(3) { self.random.between(1, 3) as u16 } else { 1 };
            let opens_ms = self.random.one_in(4).then(|| at + self.random.below(1_500));
            let closes_ms = self.random.one_in(4).then(|| self.phase - self.random.below(3_000));
            self.at(at, Act::Define { node, campaign, quota, limit, opens_ms, closes_ms });
            for moment in [opens_ms, closes_ms].into_iter().flatten() {
                self.rush(campaign, moment);
            }
        }
    }

    /// Few seats, or now and then so many that by-user rows have several buckets.
    fn quota(&mut self, least: u64, most: u64) -> u32 {
        let few = self.random.between(least, most);
        let many = self.random.between(1, BUCKETS_MAX) * USERS_OF_BUCKET;
        (if self.random.one_in(8) { many } else { few }) as u32
    }

    /// Requests whose records come around a moment, some of them in its very millisecond. Those with
    /// a key are never refused without a record.
    fn rush(&mut self, campaign: u8, moment: u64) {
        for number in 0..RUSH {
            let (node, user, key) = (self.node(), self.user(), (number % 2 == 0).then_some(9));
            let before = self.random.below(if key.is_some() { 5 } else { 2 * SKEW_MS });
            let at = (moment + if key.is_some() { 0 } else { SKEW_MS }).saturating_sub(before);
            let client = self.clients;
            self.clients += 1;
            self.at(at, Act::Ask { client, node, campaign, user, key, wait_ms: None });
        }
    }

    fn requests(&mut self, requests: u32) {
        let (bursts, phase) = (self.random.between(2, 8), self.phase);
        let starts: Vec<u64> = (0..bursts).map(|_| self.random.between(200, phase - 700)).collect();
        for _ in 0..requests {
            let client = self.clients;
            self.clients += 1;
            let at = starts[self.random.index(starts.len())] + self.random.below(600);
            let (node, campaign, user) = (self.node(), self.campaign(), self.user());
            let key = self.random.one_in(3).then(|| self.random.below(4) as u8);
            let longest = if self.random.one_in(8) { WAIT_MS_MAX } else { 4_000 };
            let wait_ms = self.random.one_in(2).then(|| self.random.below(longest));
            self.at(at, Act::Ask { client, node, campaign, user, key, wait_ms });
            if self.random.one_in(2) {
                let (later, node) = (at + self.random.between(200, 5_000), self.node());
                self.at(later, Act::Retry { client, node });
            }
            if self.random.one_in(3) {
                let (later, node) = (at + self.random.below(6_000), self.node());
                let wait_ms = self.random.below(3) * self.random.below(3_000);
                self.at(later, Act::Find { client, node, wait_ms });
            }
        }
        for _ in 0..self.random.between(6, 24) {
            let (at, node, campaign) = (self.random.below(phase), self.node(), self.campaign());
            let user = self.user();
            let act = match self.random.below(4) {
                0 => Act::List { node, campaign, user },
                1 => Act::Browse { node },
                _ => Act::View { node, campaign },
            };
            self.at(at, act);
        }
    }

    fn operators(&mut self) {
        for _ in 0..self.random.between(2, 10) {
            let (at, node, campaign) =
                (self.random.below(self.phase), self.node(), self.campaign());
            let control = |verb| Act::Control { node, campaign, verb };
            match self.random.below(12) {
                0..=1 => {
                    let later = at + self.random.between(100, 2_500);
                    self.at(at, control(Verb::Pause));
                    self.at(later, control(Verb::Resume));
                }
                2 => {
                    // What is closed is closed for ever.
                    let (resumed, amended) =
                        (at + self.random.below(2_000), at + self.random.below(4_000));
                    let amendment = self.amendment(node, campaign);
                    self.at(at, control(Verb::Close));
                    self.at(resumed, control(Verb::Resume));
                    self.at(amended, amendment);
                }
                3 => self.at(at, control(Verb::Release)),
                4 => {
                    // Two operators change it from one version.
                    let (one, other) = (self.amendment(node, campaign), self.node());
                    let other = self.amendment(other, campaign);
                    self.at(at, one);
                    self.at(at, other);
                }
                _ => {
                    let act = self.amendment(node, campaign);
                    self.at(at, act);
                }
            }
        }
    }

    fn amendment(&mut self, node: usize, campaign: u8) -> Act {
        let (mut quota, mut limit, mut opens_ms, mut closes_ms) = (None, None, None, None);
        match self.random.below(8) {
            0..=3 => quota = Some(self.quota(0, 139)),
            4..=5 => limit = Some(self.random.between(1, 3) as u16),
            6 => opens_ms = Some(self.random.below(self.phase)),
            _ => closes_ms = Some(self.random.below(2 * self.phase)),
        }
        Act::Amend { node, campaign, quota, limit, opens_ms, closes_ms }
    }

    fn faults(&mut self, kinds: &Kinds) {
        // Few kinds often show more than all of them at once.
        let density = self.random.between(1, 5);
        let possible = any_faults(&mut self.random, &self.setup);
        let mut times: Vec<u64> = Vec::new();
        for act in &possible {
            // Drawn for every kind, so that leaving one out changes nothing for the others.
            let (is_drawn, often) =
                (self.random.below(12) < density, self.random.between(1, TIMES_MAX));
            times.push(if is_drawn && kinds.contains(&act.kind()) { often } else { 0 });
        }
        for round in 0..TIMES_MAX {
            let acts = any_faults(&mut self.random, &self.setup);
            for (act, times) in acts.into_iter().zip(&times) {
                let at = match act {
                    Act::Foreign { kind: Foreign::Undefined, .. } => self.random.below(3_000),
                    _ => self.random.below(self.phase),
                };
                if *times > round {
                    self.at(at, act);
                }
            }
        }
        let (is_damaged, mut damages) =
            (self.random.one_in(DAMAGED_ONE_IN), damages(&mut self.random, &self.setup));
        damages.retain(|act| kinds.contains(&act.kind()));
        let at = self.random.between(self.phase / 3, self.phase);
        let which = self.random.index(damages.len());
        if is_damaged && !damages.is_empty() {
            self.at(at, damages.swap_remove(which));
        }
    }
}

/// What may become of a call.
fn fates(random: &mut Random, call: Call, is_embedded: bool) -> Vec<Fate> {
    let ms = |random: &mut Random, most| random.between(1, most);
    let is_write = matches!(
        call,
        Call::WriteCoupons
            | Call::WriteVersion
            | Call::WriteHold
            | Call::WriteMarks
            | Call::WriteProgress
            | Call::WriteRegister
            | Call::WriteSkip
    );

    let lands = is_write
        || call == Call::WriteNode
        || matches!(call, Call::Append | Call::DeadLetter | Call::Join);
    let of_actors = is_write
        || matches!(
            call,
            Call::Open
                | Call::Read
                | Call::Bounds
                | Call::DeadLetter
                | Call::ReadProgress
                | Call::ReadRegister
                | Call::ReadHolds
                | Call::ReadSkips
                | Call::ReadMark
                | Call::ReadVersions
                | Call::ReadCoupons
        );
    let mut fates = vec![Fate::Dies];
    if call == Call::Publish {
        return vec![Fate::Refused, Fate::Dies, Fate::LandsAndDies, Fate::Panics];
    }
    // A node gives up an append after 10 s.
    let is_given_up = call == Call::Append && random.one_in(3);
    let slow = if is_given_up { random.between(9_500, APPEND_MS_MAX) } else { ms(random, 2_000) };
    fates.push(Fate::Slow { ms: slow });
    if lands {
        fates.extend([Fate::LandsAndDies, Fate::AnswerSlow { ms: ms(random, 1_000) }]);
    }
    fates.extend(of_actors.then_some(Fate::Panics));
    if call == Call::Append || !is_embedded {
        fates.push(Fate::Refused);
    }
    if !is_embedded {
        fates.push(Fate::Lost);
        if lands {
            fates.extend([Fate::AnswerLost, Fate::Late { ms: ms(random, 6_000) }]);
        }
        if matches!(call, Call::WriteCoupons | Call::WriteMarks) {
            let (percent, from) = (random.below(101) as u8, random.below(40) as u8);
            fates.push(Fate::Partial { percent, from });
        }
        if call == Call::Append {
            fates.push(Fate::Twice { ms: ms(random, 1_000) });
        }
    }
    fates
}

/// One act of each kind of fault that is possible with this setup, always in the same order.
fn any_faults(random: &mut Random, setup: &Setup) -> Vec<Act> {
    let Setup { is_embedded, nodes, partitions, campaigns, users, .. } = *setup;
    let mut acts = Vec::new();
    for call in Call::ALL {
        let is_made = match call {
            Call::WriteNode | Call::ReadNodes => setup.probes,
            // No world lasts an hour, after which rows of nodes are deleted.
            Call::ForgetNode => false,
            // Only a node with the log beside it looks up single positions.
            Call::Find => is_embedded,
            _ => true,
        };
        if !is_made {
            continue;
        }
        for fate in fates(random, call, is_embedded) {
            let node = random.one_in(3).then(|| random.index(nodes));
            acts.push(Act::Strike { call, fate, node });
        }
    }
    let node = |random: &mut Random| random.index(nodes);
    let campaign = |random: &mut Random| random.below(u64::from(campaigns)) as u8;
    let partition = |random: &mut Random| random.below(u64::from(partitions)) as u32;
    let of_process = [Delivery::Late, Delivery::Gap];
    let deliveries = if is_embedded { &of_process[..] } else { &Delivery::ALL[..] };
    for &delivery in deliveries {
        acts.push(Act::Message { node: node(random), delivery });
    }
    acts.push(Act::Crash { node: node(random), down_ms: random.below(3_000) });
    acts.push(Act::Stop { node: node(random), down_ms: random.below(3_000) });
    for actor in ActorKind::ALL {
        let (after, node) = (random.below(60) as u32, random.one_in(3).then(|| node(random)));
        acts.push(Act::PanicAt { actor, after, node });
    }
    acts.push(Act::CrashActor { campaign: campaign(random) });
    acts.push(Act::CrashConsumer { partition: partition(random) });
    acts.push(Act::Curse { campaign: campaign(random), times: random.between(3, 9) as u32 });
    for why in [Why::Hangs, Why::Fails] {
        // Some for longer than a campaign is waited for.
        let most = if random.one_in(4) { 50_000 } else { 6_000 };
        let ms = random.between(200, most);
        acts.push(Act::Unreachable { campaign: campaign(random), bucket: None, why, ms });
    }
    acts.push(Act::Jump {
        node: node(random),
        ms: random.below(2 * SKEW_MS + 1) as i64 - SKEW_MS as i64,
    });
    acts.push(Act::Trim {});
    acts.extend(unreadable(random, partitions));
    if is_embedded {
        acts.extend(of_one_machine(random));
        return acts;
    }
    for why in [Why::Hangs, Why::Fails] {
        // The quotas of worlds are small: there is only one bucket.
        let (bucket, ms) = (Some(0), random.between(200, 50_000));
        acts.push(Act::Unreachable { campaign: campaign(random), bucket, why, ms });
    }
    let ms = random.between(200, 6_000);
    acts.push(Act::Pause { node: node(random), ms, expelled: false });
    acts.push(Act::Pause { node: node(random), ms, expelled: true });
    acts.push(Act::Move { partition: partition(random), told_ms: 0 });
    acts.push(Act::Move { partition: partition(random), told_ms: random.between(1_000, 5_000) });
    acts.extend(cuts(random, setup));
    let ahead_ms = random.between(1, 20) as i64 * 3_600_000;
    let back_ms = -(random.between(100, 900) as i64);
    for skew_ms in [ahead_ms, back_ms] {
        acts.push(Act::RecordTimes { skew_ms, ms: random.between(300, 2_000) });
    }
    for kind in Foreign::ALL {
        let user = random.below(u64::from(users)) as u8;
        acts.push(Act::Foreign { kind, campaign: campaign(random), user });
    }
    acts
}

/// Nodes that do not reach an engine, or one partition of the log.
fn cuts(random: &mut Random, setup: &Setup) -> Vec<Act> {
    let node = |random: &mut Random| random.index(setup.nodes);
    let mut acts = Vec::new();
    for engine in Engine::ALL {
        for node in [Some(node(random)), None] {
            acts.push(Act::Cut { node, engine, partition: None, ms: random.between(200, 4_000) });
        }
    }
    let (one, ms) = (Some(node(random)), random.between(200, 6_000));
    let partition = Some(random.below(u64::from(setup.partitions)) as u32);
    acts.push(Act::Cut { node: one, engine: Engine::Log, partition, ms });
    acts.push(Act::Cut { node: None, engine: Engine::Log, partition, ms });
    let whole = Engine::ALL.map(|engine| (engine, None));
    for (engine, partition) in whole.into_iter().chain([(Engine::Log, partition)]) {
        acts.push(Act::HalfDead { node: node(random), engine, partition });
    }
    acts
}

/// What may happen to a node with log and store of its own.
fn of_one_machine(random: &mut Random) -> Vec<Act> {
    let mut acts = vec![
        Act::PowerCut { torn: false },
        Act::PowerCut { torn: true },
        Act::DiskFull { ms: random.between(200, 2_500) },
    ];
    // From what no slewing reaches to what nobody overlooks.
    let by_ms = random.between(61_000, 20 * 3_600_000) as i64;
    acts.push(Act::SetClock { ms: by_ms, for_ms: None });
    acts.push(Act::SetClock { ms: -by_ms, for_ms: None });
    let ms = if random.one_in(2) { by_ms } else { -by_ms };
    acts.push(Act::SetClock { ms, for_ms: Some(random.between(100, 15_000)) });
    acts
}

/// What cannot be read, and operators who give it up.
fn unreadable(random: &mut Random, partitions: u32) -> Vec<Act> {
    let partition = |random: &mut Random| random.below(u64::from(partitions)) as u32;
    let mut acts = Vec::new();
    for lasting in [true, false] {
        let (back, records) = (random.below(30), random.between(1, 20));
        let ms = random.one_in(2).then(|| random.between(500, 15_000));
        acts.push(Act::Unreadable { partition: partition(random), back, records, lasting, ms });
    }
    for why in Lost::ALL {
        let (partition, records) = (partition(random), random.between(1, 20));
        acts.push(Act::Lose { partition, records, why });
    }
    for wrong in [false, true] {
        acts.push(Act::Skip { partition: partition(random), wrong });
    }
    acts
}

/// With this idle time, in milliseconds, a campaign stays loaded until its world ends.
const LOADED_MS: u64 = 600_000;

/// What may happen to data, of which a world has one at most.
fn damages(random: &mut Random, setup: &Setup) -> Vec<Act> {
    let campaign = random.below(u64::from(setup.campaigns)) as u8;
    let partition = random.below(u64::from(setup.partitions)) as u32;
    let mut acts: Vec<_> = RowDamage::ALL
        .into_iter()
        // Only CQL hides what is written again.
        .filter(|damage| *damage != RowDamage::Deleted || !setup.is_embedded)
        // Only the by-user rows of loaded campaigns are looked at, and idle ones are stopped.
        .filter(|damage| !damage.is_of_by_user_rows() || setup.limits.idle_ms >= LOADED_MS)
        .map(|damage| Act::DamageRows { damage, campaign, which: random.below(90) })
        .collect();
    if !setup.is_embedded {
        acts.extend(LogDamage::ALL.map(|damage| Act::DamageLog { damage, partition }));
        acts.push(Act::SetBack { ms: random.between(300, 5_000) });
    }
    acts
}
