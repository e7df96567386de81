//! Nodes that cannot decide.

use super::*;
use crate::simulation::link::{Call, Engine, Fate};

/// Two nodes that probe, with two partitions and campaigns in both.
fn two_nodes() -> Setup {
    Setup {
        nodes: 2,
        probes: true,
        skew_ms: vec![0, 0],
        drift_ppm: vec![0, 0],
        ..calm(2, CAMPAIGNS)
    }
}

const CAMPAIGNS: u8 = 6;

/// The node that is cut off.
const CUT: usize = 1;

/// From the first failed probe until the partitions of a node are decided elsewhere, in milliseconds.
const MOVED_MS: u64 = 20_000;

impl Stage {
    fn owner(&self, partition: Partition) -> Option<usize> {
        self.engines().brokers.lock().owners.get(&partition).map(|owner| owner.node)
    }

    /// Whether both nodes are members, and each owns a partition.
    fn is_shared(&self) -> bool {
        let members = self.engines().brokers.lock().members.len();
        members == 2 && self.owner(0) != self.owner(1)
    }

    async fn started_two(&mut self) {
        self.start().await;
        (0..CAMPAIGNS).for_each(|id| self.define(id, 300));
        self.until("shared", Self::is_shared).await;
        self.passed().await;
        // Each node has seen the other's number rise.
        self.wait_ms(10_000).await;
    }

    fn ask_all(&self, user: u32) {
        (0..CAMPAIGNS).for_each(|id| self.ask(id, user));
    }

    fn cut(&self, node: usize, engine: Engine) {
        self.story.world.cut(node, engine, None);
    }

    fn mend(&self, node: usize, engine: Engine) {
        self.story.world.mend(node, engine, None);
    }

    /// Whether a node's readiness or degradation names this part.
    fn says(&self, node: usize, part: &str) -> (bool, bool) {
        use crate::api::service::ReportHealth;
        let node = self.story.nodes[node].as_ref().expect("it lives");
        let has =
            |parts: Vec<crate::api::service::NotReady>| parts.iter().any(|it| it.part == part);
        (has(node.core.service.not_ready()), has(node.core.service.degraded()))
    }
}

#[test]
fn a_node_cut_off_from_its_store_hands_over() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.started_two().await;
        stage.cut(CUT, Engine::Store);
        stage.ask_all(1);
        let took_ms = stage.until("handed over", |stage| {
            (0..2).all(|partition| stage.owner(partition) == Some(0))
        });
        let took_ms = took_ms.await;
        assert!((15_000..=MOVED_MS).contains(&took_ms), "handed over after {took_ms} ms");
        assert_eq!(stage.says(CUT, "own_probes"), (true, false), "not ready");
        assert_eq!(stage.says(0, "own_probes"), (false, false));
        let took_ms =
            stage.until("decided", |stage| (0..CAMPAIGNS).all(|id| stage.undecided(id) == 0));
        let took_ms = took_ms.await;
        assert!(took_ms <= 2_000, "decided {took_ms} ms later");
        stage.mend(CUT, Engine::Store);
        let took_ms = stage.until("back", Stage::is_shared).await;
        assert!((40_000..=62_000).contains(&took_ms), "back after {took_ms} ms");
        stage
    });
}

#[test]
fn a_node_cut_off_from_one_broker_hands_over() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.started_two().await;
        let own = (0..2).find(|partition| stage.owner(*partition) == Some(CUT));
        let own = own.expect("it owns a partition");
        stage.story.world.cut(CUT, Engine::Log, Some(own));
        stage.ask_all(1);
        // Its reads fail at once, so the partition halts before the node leaves.
        let took_ms = stage.until("handed over", |stage| stage.owner(own) == Some(0)).await;
        assert!((15_000..=MOVED_MS).contains(&took_ms), "handed over after {took_ms} ms");
        let took_ms =
            stage.until("decided", |stage| (0..CAMPAIGNS).all(|id| stage.undecided(id) == 0));
        let took_ms = took_ms.await;
        assert!(took_ms <= 2_000, "decided {took_ms} ms later");
        stage.story.world.mend(CUT, Engine::Log, Some(own));
        stage.until("back", Stage::is_shared).await;
        stage
    });
}

/// The node goes on deciding in the partitions of the other brokers: neither its good probes nor what it
/// stores there may hide the one that it cannot read.
#[test]
fn one_broker_of_several_is_missed_under_load() {
    const PARTITIONS: u32 = 12;
    let setup = Setup { partitions: PARTITIONS, campaigns: 24, ..two_nodes() };
    play(setup, async |mut stage: Stage| {
        stage.start().await;
        (0..24).for_each(|id| stage.define(id, 300));
        let of_cut = |stage: &Stage| {
            (0..PARTITIONS).filter(|it| stage.owner(*it) == Some(CUT)).collect::<Vec<_>>()
        };
        stage.until("shared", |stage| of_cut(stage).len() == PARTITIONS as usize / 2).await;
        stage.passed().await;
        stage.wait_ms(10_000).await;
        let own = of_cut(&stage)[3];
        stage.story.world.cut(CUT, Engine::Log, Some(own));
        let mut took_ms = 0;
        for user in 0.. {
            (0..24).for_each(|id| stage.ask(id, user));
            stage.wait_ms(500).await;
            took_ms += 500;
            if stage.owner(own) == Some(0) || took_ms > 60_000 {
                break;
            }
        }
        assert!((15_000..=MOVED_MS + 2_000).contains(&took_ms), "handed over after {took_ms} ms");
        let decided = |stage: &Stage| (0..24).all(|id| stage.undecided(id) == 0);
        let took_ms = stage.until("decided", decided).await;
        assert!(took_ms <= 2_000, "decided {took_ms} ms later");
        for _ in 0..180 {
            stage.wait_ms(1_000).await;
            assert!(of_cut(&stage).is_empty(), "it is back, although it is still cut off");
        }
        stage.story.world.mend(CUT, Engine::Log, Some(own));
        stage.until("back", |stage| !of_cut(stage).is_empty()).await;
        stage
    });
}

#[test]
fn nobody_leaves_while_no_store_answers_anybody() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.started_two().await;
        let joins = |stage: &Stage| stage.story.world.calls(|_, call| call == Call::Join);
        let before = joins(&stage);
        (0..2).for_each(|node| stage.cut(node, Engine::Store));
        stage.ask_all(1);
        for _ in 0..60 {
            stage.wait_ms(1_000).await;
            assert!(stage.is_shared());
        }
        assert_eq!(stage.says(CUT, "own_probes"), (false, true), "degraded");
        // One has it back a second before the other.
        stage.mend(0, Engine::Store);
        stage.wait_ms(1_000).await;
        stage.mend(CUT, Engine::Store);
        let took_ms =
            stage.until("decided", |stage| (0..CAMPAIGNS).all(|id| stage.undecided(id) == 0));
        assert!(took_ms.await <= 5_000);
        stage.wait_ms(30_000).await;
        assert_eq!(joins(&stage), before, "nobody has left");
        stage
    });
}

#[test]
fn a_node_cut_off_from_everything_comes_back() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.started_two().await;
        for node in 0..2 {
            for engine in [Engine::Store, Engine::Log, Engine::Feed] {
                stage.cut(node, engine);
            }
        }
        stage.wait_ms(40_000).await;
        assert_eq!(stage.engines().brokers.lock().members.len(), 0, "both have left");
        for node in 0..2 {
            for engine in [Engine::Store, Engine::Log, Engine::Feed] {
                stage.mend(node, engine);
            }
        }
        let took_ms = stage.until("back", Stage::is_shared).await;
        // The first is back at once, as nobody decides; the other waits for its time.
        assert!(took_ms <= 60_000, "back after {took_ms} ms");
        stage.ask_all(1);
        stage.until("decided", |stage| (0..CAMPAIGNS).all(|id| stage.undecided(id) == 0)).await;
        stage
    });
}

#[test]
fn rows_of_dead_processes_move_nobody() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.started_two().await;
        for _ in 0..3 {
            stage.story.kill(0, 0).await;
            stage.until("shared again", Stage::is_shared).await;
            stage.wait_ms(10_000).await;
        }
        assert_eq!(stage.engines().rows.store.rows.lock().nodes.len(), 2 + 3);
        stage.story.kill(0, 3_600_000).await;
        stage.until("alone", |stage| stage.owner(0) == stage.owner(1)).await;
        stage.cut(CUT, Engine::Store);
        stage.wait_ms(60_000).await;
        assert_eq!(stage.engines().brokers.lock().members.len(), 1, "the last one stays");
        stage.mend(CUT, Engine::Store);
        stage
    });
}

#[test]
fn a_reader_that_hangs_is_opened_again() {
    play(Setup { nodes: 1, ..two_nodes() }, async |mut stage: Stage| {
        stage.start().await;
        stage.define(0, 300);
        stage.passed().await;
        stage.wait_ms(10_000).await;
        // Right behind a probe, the live reader is the first that reads.
        let strike = || Act::Strike { call: Call::Read, fate: SLOW, node: None };
        let reads = |stage: &Stage| stage.story.world.calls(|_, call| call == Call::ReadNodes);
        for hung in [1, 2] {
            let before = reads(&stage);
            stage.until("probed", |stage| reads(stage) > before).await;
            stage.wait_ms(100).await;
            stage.ask(0, 10 * hung);
            stage.answered(0).await;
            stage.act(strike()).await;
            stage.ask(0, 10 * hung + 1);
            if hung == 1 {
                let took_ms = stage.answered(0).await;
                assert!((9_900..=10_100).contains(&took_ms), "answered after {took_ms} ms");
            }
        }
        // The reader that is opened in its place hangs too.
        stage.wait_ms(REOPENED_MS - 60).await;
        stage.act(strike()).await;
        let took_ms = stage.until("halted", |stage| stage.state(0) == "halted").await;
        assert!(took_ms <= 11_500, "halted after {took_ms} ms more");
        assert!(stage.reason(0).starts_with("reader_hung: "), "{}", stage.reason(0));
        assert!(stage.answered(0).await <= 12_000);
        stage
    });
}

#[test]
fn a_reader_without_a_record_does_not_hang() {
    play(two_nodes(), async |mut stage: Stage| {
        stage.start().await;
        stage.until("shared", Stage::is_shared).await;
        for second in 0..60 {
            stage.wait_ms(1_000).await;
            // Nothing was ever read of any partition, then one record.
            if second == 30 {
                stage.define(0, 10);
            }
            assert!((0..CAMPAIGNS).all(|id| stage.state(id) != "halted"), "after {second} s");
        }
        let opened = stage.engines().brokers.lock().opened;
        assert!(opened <= 2 * 2 + 16, "{opened} readers: none but probes of the one record");
        stage
    });
}

/// When a reader is opened again that waits since a moment, in milliseconds.
const REOPENED_MS: u64 = 10_000;

const SLOW: Fate = Fate::Slow { ms: 110_000 };
