//! Tests the flow with random owners that die, overlap and fail, on one log and one store. At the
//! end the store must equal a plain fold of the log.

mod aside;
mod catch_up;
mod checks;
mod endings;
mod holds;
mod stage;
mod stories;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use self::stage::{CAMPAIGNS, Store, campaign, differs, keys, log_of, read_of, value_at};
use super::*;
use crate::{
    domain::{
        campaign::{At, Campaign},
        coupon::Coupon,
        decision::{DerivedRow, Outcome},
        keys::Keys,
        record::{Change, Control, Record},
        rows::{CampaignRows, Hold, HoldKind, HoldState, LastRecord, Mark, Progress},
    },
    partition::{
        fold::{Batch, Folded, Folder, tests::PLACE},
        recovery::Recovery,
    },
    random::Random,
    wire::{LogRecord, feed_message::FeedDecision},
};

/// A write or load in flight. Tasks complete in any order, or never.
enum Task {
    Load { campaign: CampaignId, incarnation: u64, from: Offset },
    Store { campaign: CampaignId, incarnation: u64, number: usize },
    ByUser { campaign: CampaignId, number: u64, coupons: Vec<Coupon> },
    Marks(Vec<Mark>),
    Persist(Vec<Hold>, Option<u64>, Progress),
    Hold { hold: Hold, mark: Option<Mark> },
    Mark { mark: Mark, version: Offset },
    Letter(LetterOf, LogRecord),
    LookUp(Offset, Wanted),
    LookAtHolds,
}

struct Actor {
    incarnation: u64,
    folder: Option<Folder>,
    storing: VecDeque<Storing>,
    batches: usize,
}

struct Storing {
    number: usize,
    folded: Folded,
    is_replay: bool,
    is_stored: bool,
}

struct Owner {
    flow: Flow,
    actors: BTreeMap<CampaignId, Actor>,
    tasks: Vec<Task>,
    credit: i64,
    read_to: usize,
    now_ms: u64,
    /// The runs over records that are read again: their number, their next offset, and whether a chunk
    /// is wanted.
    again: BTreeMap<Again, (u64, Offset, bool)>,
    window: usize,
}

struct FlowWorld {
    random: Random,
    keys: Arc<Keys>,
    log: Vec<(At, Record)>,
    store: Store,
    owners: Vec<Owner>,
    /// An offset whose decision fails, and how many more times.
    poison: Option<(Offset, u32)>,
    holds_seen: usize,
    letters: usize,
    /// Offsets of dead letters.
    lettered: BTreeSet<Offset>,
    looked_up: usize,
    again: usize,
    published: BTreeMap<Offset, FeedDecision>,
}

impl FlowWorld {
    fn new(seed: u64, length: u64) -> Self {
        let mut random = Random(seed);
        let log = log_of(&mut random, length);
        let poison = random.one_in(3).then(|| {
            let at = random.below(log.len() as u64) as usize;
            (log[at].0.offset, 1 + random.below(8) as u32)
        });
        Self {
            random,
            keys: keys(),
            log,
            store: Store::default(),
            owners: Vec::new(),
            poison,
            holds_seen: 0,
            letters: 0,
            lettered: BTreeSet::new(),
            looked_up: 0,
            again: 0,
            published: BTreeMap::new(),
        }
    }

    fn end(&self) -> Offset {
        self.log.last().map_or(0, |(at, _)| at.offset + 1)
    }

    fn take_over(&mut self) {
        let rows = PartitionRows {
            progress: self.store.progress.clone(),
            holds_ever: self.store.holds_ever,
            holds: self.store.all_holds(),
            skips: Vec::new(),
        };
        let next = rows.next();
        let limits = match self.random.one_in(2) {
            true => Limits::default(),
            false => Limits { window_records: 48, batch_records: 12, ..Limits::default() },
        };
        let (flow, effects) = Flow::new(PLACE, rows, self.end(), 0, limits);
        let read_to = self.log.partition_point(|(at, _)| at.offset < next);
        let owner = Owner {
            flow,
            actors: BTreeMap::new(),
            tasks: Vec::new(),
            credit: 0,
            read_to,
            now_ms: 0,
            again: BTreeMap::new(),
            window: limits.window_records,
        };
        self.owners.push(owner);
        let at = self.owners.len() - 1;
        self.carry_out(at, effects);
    }

    fn step(&mut self, at: usize, event: Event) {
        let mut effects = Vec::new();
        let owner = &mut self.owners[at];
        owner.flow.step(event, &mut effects);
        owner.flow.flush(&mut effects);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        let mut ready = Vec::new();
        for effect in effects {
            let owner = &mut self.owners[at];
            match effect {
                Effect::Start { campaign, incarnation, from, .. } => {
                    owner.actors.insert(
                        campaign.clone(),
                        Actor { incarnation, folder: None, storing: VecDeque::new(), batches: 0 },
                    );
                    owner.tasks.push(Task::Load { campaign, incarnation, from });
                }
                Effect::Stop { campaign } => {
                    owner.actors.remove(&campaign);
                }
                Effect::Send { campaign, incarnation, batch } => {
                    ready.push((campaign, incarnation, batch));
                }
                Effect::WriteHold { hold, mark } => owner.tasks.push(Task::Hold { hold, mark }),
                Effect::WriteMark { mark, version } => {
                    owner.tasks.push(Task::Mark { mark, version })
                }
                Effect::DeadLetter { of, record } => owner.tasks.push(Task::Letter(of, record)),
                Effect::LookUp { below, wanted } => owner.tasks.push(Task::LookUp(below, wanted)),
                Effect::BeginAgain { of, run, from } => {
                    owner.again.insert(of, (run, from, true));
                }
                Effect::GoOnAgain { of } => {
                    owner.again.get_mut(&of).expect("it was begun").2 = true;
                }
                Effect::EndAgain { of } => drop(owner.again.remove(&of)),
                Effect::WriteByUser { campaign, number, coupons } => {
                    owner.tasks.push(Task::ByUser { campaign, number, coupons });
                }
                Effect::WriteMarks(marks) => owner.tasks.push(Task::Marks(marks)),
                Effect::Persist { holds, holds_ever, progress } => {
                    owner.tasks.push(Task::Persist(holds, holds_ever, progress));
                }
                Effect::Publish(message) => {
                    for settled in message.decisions {
                        let known = self.published.insert(settled.offset, settled);
                        if let Some(known) = known {
                            assert_eq!(known, settled, "an answer changed");
                        }
                    }
                }
                Effect::Credit(credit) => owner.credit += credit as i64,
                Effect::Count(_) | Effect::ReportProgress { .. } | Effect::HoldCountLost { .. } => {
                }
            }
        }
        for (campaign, incarnation, batch) in ready {
            self.decide(at, &campaign, incarnation, batch);
        }
    }

    fn decide(&mut self, at: usize, campaign: &CampaignId, incarnation: u64, batch: Batch) {
        if let Some((offset, times)) = &mut self.poison
            && *times > 0
            && batch.records.iter().any(|(at, _)| at.offset == *offset)
        {
            *times -= 1;
            return self.fail(at, campaign);
        }
        let owner = &mut self.owners[at];
        let Some(actor) = owner.actors.get_mut(campaign) else { return };
        if actor.incarnation != incarnation {
            return;
        }
        let is_replay = batch.is_replay;
        let folded = actor.folder.as_mut().expect("sent before it was ready").fold(batch);
        actor.batches += 1;
        let number = actor.batches;
        actor.storing.push_back(Storing { number, folded, is_replay, is_stored: false });
        owner.tasks.push(Task::Store { campaign: campaign.clone(), incarnation, number });
    }

    fn fail(&mut self, at: usize, campaign: &CampaignId) {
        if let Some(actor) = self.owners[at].actors.remove(campaign) {
            let (campaign, incarnation) = (campaign.clone(), actor.incarnation);
            let reason = "it panicked".to_owned();
            self.step(at, Event::Failed { campaign, incarnation, reason });
        }
    }

    fn load(&mut self, at: usize, campaign: CampaignId, incarnation: u64, from: Offset) {
        let current = self.owners[at].actors.get(&campaign).map(|actor| actor.incarnation);
        if current != Some(incarnation) {
            return;
        }
        let of = |id: &CampaignId| *id == campaign;
        let holds = self.store.holds.values().filter(|hold| of(&hold.campaign));
        let versions = self.store.versions.values().filter(|version| of(&version.campaign));
        let rows = CampaignRows {
            holds: holds.cloned().collect(),
            mark: self.store.marks.get(&campaign).cloned(),
            versions: versions.cloned().collect(),
            is_only_listed: false,
        };
        let coupons = self.store.coupons.values().filter(|coupon| of(&coupon.campaign));
        let coupons = coupons.cloned().collect();
        let keys = self.keys.clone();
        let recovered = Recovery::new(campaign.clone(), PLACE, from, rows, keys.clone())
            .and_then(|mut recovery| recovery.coupons(coupons).map(|()| recovery))
            .and_then(Recovery::finish);
        let event = match recovered {
            Ok(recovered) => {
                let folder = Folder::new(recovered, keys);
                let expects_until = folder.expects_until();
                let actor = self.owners[at].actors.get_mut(&campaign).expect("it is current");
                actor.folder = Some(folder);
                Event::Started { campaign, incarnation, expects_until }
            }
            Err(contradiction) => {
                panic!("a contradiction where nothing was tampered with: {contradiction}")
            }
        };
        self.step(at, event);
    }

    fn run_task(&mut self, at: usize) {
        let count = self.owners[at].tasks.len() as u64;
        if count == 0 {
            return;
        }
        let index = self.random.below(count) as usize;
        let task = self.owners[at].tasks.swap_remove(index);
        match task {
            Task::Load { campaign, incarnation, from } => {
                self.load(at, campaign, incarnation, from);
            }
            Task::Store { campaign, incarnation, number } => {
                self.stored(at, &campaign, incarnation, number);
            }
            Task::ByUser { campaign, number, coupons } => {
                self.store.put_by_user(&coupons);
                self.step(at, Event::ByUserStored { campaign, number });
            }
            Task::Marks(mut marks) => {
                // They may be written in parts.
                let later = marks.split_off(marks.len().div_ceil(2));
                if !later.is_empty() {
                    self.owners[at].tasks.push(Task::Marks(later));
                }
                marks.iter().for_each(|mark| self.store.put_mark(mark));
                let stored = marks.into_iter().map(|mark| (mark.campaign, mark.offset)).collect();
                self.step(at, Event::MarksStored(stored));
            }
            Task::Persist(holds, holds_ever, progress) => {
                holds.iter().for_each(|hold| self.store.put_hold(hold));
                holds_ever.iter().for_each(|count| self.store.put_hold_count(*count));
                let next = progress.next;
                if self.store.progress.as_ref().is_none_or(|known| known.next < next) {
                    self.store.progress = Some(progress);
                }
                self.step(at, Event::Persisted(next));
            }
            Task::Hold { hold, mark } => {
                mark.iter().for_each(|mark| self.store.put_mark(mark));
                self.holds_seen += usize::from(hold.state == HoldState::Open);
                self.store.put_hold(&hold);
                self.step(at, Event::HoldWritten(hold));
            }
            Task::Mark { mark, version } => {
                self.store.put_mark(&mark);
                self.step(at, Event::Marked(version));
            }
            Task::Letter(of, record) => {
                self.letters += 1;
                let offset = record.offset;
                assert_eq!(record.value, value_at(offset), "another record's bytes");
                assert!(self.is_undefined(offset), "the record at {offset} is no dead letter");
                self.lettered.insert(offset);
                self.step(at, Event::DeadLettered { offset, of });
            }
            Task::LookUp(below, wanted) => self.look_up(at, below, &wanted),
            Task::LookAtHolds => self.step(at, Event::Holds(self.store.all_holds())),
        }
    }

    fn stored(&mut self, at: usize, campaign: &CampaignId, incarnation: u64, number: usize) {
        let Some(actor) = self.owners[at].actors.get_mut(campaign) else { return };
        if actor.incarnation != incarnation {
            return;
        }
        let batch = actor.storing.iter_mut().find(|batch| batch.number == number);
        let batch = batch.expect("it was not reported yet");
        batch.is_stored = true;
        self.store.put_rows(&batch.folded);
        if batch.is_replay {
            self.store.put_by_user(&batch.folded.coupons);
        }
        let mut reports = Vec::new();
        while actor.storing.front().is_some_and(|batch| batch.is_stored) {
            let batch = actor.storing.pop_front().expect("there is a front");
            let Storing { folded, is_replay, .. } = batch;
            assert_eq!(folded.contradiction, None, "nothing was tampered with");
            reports.push(BatchReport {
                campaign: campaign.clone(),
                incarnation,
                records: folded.records,
                by_user: if is_replay { Vec::new() } else { folded.coupons },
                contradicted: false,
                over_from: None,
            });
        }
        for report in reports {
            self.step(at, Event::Report(report));
        }
    }

    fn read(&mut self, at: usize) {
        let most = 1 + self.random.below(30) as usize;
        let owner = &mut self.owners[at];
        let until = (owner.read_to + most.min(owner.credit.max(0) as usize)).min(self.log.len());
        let records: Vec<_> = self.log[owner.read_to..until]
            .iter()
            .map(|(at, record)| Incoming {
                record: LastRecord { offset: at.offset, digest: [0; 16] },
                content: Some(read_of(*at, record.clone())),
            })
            .collect();
        // A large record may cost more than the credit that is left. The debt delays the next read.
        owner.credit -= (records.len() + debt_of(&records)) as i64;
        owner.read_to = until;
        if !records.is_empty() {
            self.step(at, Event::Read(records));
        }
    }

    fn tick(&mut self, at: usize) {
        let owner = &mut self.owners[at];
        owner.now_ms += 60;
        let now_ms = owner.now_ms;
        if now_ms.is_multiple_of(600) {
            owner.tasks.push(Task::LookAtHolds);
        }
        self.step(at, Event::Tick { now_ms, wall: Timestamp(0) });
    }

    /// Performs one random action.
    fn act(&mut self, faults: bool) {
        if self.owners.is_empty() {
            self.take_over();
        }
        let at = self.random.below(self.owners.len() as u64) as usize;
        match self.random.below(100) {
            0 if faults => {
                self.owners.swap_remove(at); // The owner dies with its tasks.
            }
            1 if faults && self.owners.len() < 3 => self.take_over(), // Owners overlap.
            2..=4 if faults => {
                let id = campaign(self.random.below(CAMPAIGNS));
                self.fail(at, &id);
            }
            5..=24 => self.read(at),
            25..=34 => self.tick(at),
            35..=54 => self.read_again(at),
            _ => self.run_task(at),
        }
        if self.random.one_in(40) {
            self.check_settled_is_stored();
        }
    }
}

#[test]
fn the_store_ends_as_a_fold_of_the_log() {
    let seeds = std::env::var("COUPOND_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    let (mut holds, mut letters) = (0, 0);
    for seed in 0..seeds.unwrap_or(300) {
        let ended = std::panic::catch_unwind(|| {
            let mut world = FlowWorld::new(seed, 250);
            for _ in 0..1_200 {
                world.act(true);
            }
            world.heal();
            world.check_end();
            (world.holds_seen, world.letters.min(world.looked_up).min(world.again))
        });
        let Ok((held, lettered)) = ended else { panic!("seed {seed} failed") };
        holds += held;
        letters += lettered;
    }
    assert!(holds > 0 && letters > 0, "the faults should lead to holds and dead letters");
}
