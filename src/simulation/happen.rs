//! What each thing that happens leads to.

use super::{act::Act, world::World};

impl World {
    pub(super) fn happen(&mut self, act: Act) {
        match act {
            Act::Tick(owner) => self.tick(owner),
            Act::Open(owner) => self.open(owner),
            Act::Tell(owner, event) => self.step(owner, *event),
            Act::Read(owner) => self.read(owner),
            Act::Letter(owner) => self.keep_letter(owner),
            Act::Undefined(owner, campaign, offset) => self.keep_undefined(owner, campaign, offset),
            Act::Load(owner, campaign, number) => self.load((owner, campaign, number)),
            Act::Decide(owner, campaign, number) => self.decide((owner, campaign, number)),
            Act::Replay(owner, campaign, number) => self.replay((owner, campaign, number)),
            Act::Look(owner, at_holds) => self.look(owner, at_holds),
            Act::Commit(owner, next) => self.commit(owner, next),
            Act::Land(rows, job, generation) => self.land(&rows, job, generation),
            Act::Ack(job) => self.acknowledged(job),
            Act::Retry(job) => self.send_job(job),
            Act::Append(pending) => self.append(*pending),
            Act::Sync => self.sync(),
            Act::Appended(confirmed) => self.appended(*confirmed),
            Act::AppendUnknown(confirmed) => self.append_unknown(&confirmed),
            Act::Feed(node, life, message) => self.follow(node, life, &message),
            Act::Gap(node, life) => self.gap(node, life),
            Act::Fly(node, life, campaign, at_rows) => self.flies(node, life, campaign, at_rows),
            Act::Question(number) => self.asks(number),
            Act::QuestionEnds(number) => self.question_ends(number),
            Act::Silence(number) => self.silence(number),
            Act::Arrives { campaign, user, key } => self.begin_ask(campaign, user, key, 0),
            Act::Ask(ask) => self.ask(ask),
            Act::Get { kept, node, wait, is_final } => self.get(kept, node, wait, is_final),
            Act::View { node, campaign } => self.view(node, campaign),
            Act::Holdings { node, campaign, user } => self.holdings(node, campaign, user),
            Act::Reply(ask, reply) => self.hears(ask, reply),
            Act::TimedOut(ask) => self.timed_out(ask),
            Act::Errand(errand) => self.errand(errand),
            Act::Assign { partition, overlap } => self.assign(partition, overlap),
            Act::Revoke(owner) => self.revoke(owner),
            Act::Boot(node) => self.boot(node),
            Act::Trouble(fault) => self.strikes(fault),
            Act::Heal => self.heal(),
            Act::Mend => self.mend(),
            Act::Ruin => self.ruin(),
            Act::Check => self.check(),
        }
    }
}
