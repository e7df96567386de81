//! Permits that campaigns share: while another one waits, none has more than a quarter of them.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::domain::ids::CampaignId;

/// The part of all permits that a campaign may have while another one waits.
const SHARE: usize = 4;

/// Permits of one kind. They are given in the order in which they are asked for, but for campaigns that
/// have their share.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    total: usize,
    /// A campaign that has more than its share leaves as many free, so that another one need not wait.
    spare: usize,
    free: usize,
    held: BTreeMap<CampaignId, usize>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    of: Option<CampaignId>,
    wanted: usize,
    granted: oneshot::Sender<Permits>,
}

/// Permits in use. Dropping them gives them back.
#[derive(Debug)]
pub(crate) struct Permits {
    shares: Shares,
    of: Option<CampaignId>,
    count: usize,
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.shares.give_back(self.of.as_ref(), self.count);
    }
}

/// Wakes waiters when it is dropped.
struct WakesOthers<'a>(&'a Shares);

impl Drop for WakesOthers<'_> {
    fn drop(&mut self) {
        self.0.wake();
    }
}

impl Shares {
    /// Creates `total` permits. While a campaign is alone it leaves `spare` of them free.
    #[must_use]
    pub(crate) fn new(total: usize, spare: usize) -> Self {
        let (held, waiting) = (BTreeMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(State { total, spare, free: total, held, waiting })))
    }

    /// Returns whether none is in use.
    #[must_use]
    pub(crate) fn is_unused(&self) -> bool {
        let state = self.0.lock();
        state.free == state.total
    }

    /// Waits for `wanted` permits, at most for all. What is `of` no campaign has no share.
    pub(crate) async fn acquire(&self, of: Option<&CampaignId>, wanted: usize) -> Permits {
        // A waiter that goes may have kept others waiting. Dropped last.
        let _gone = WakesOthers(self);
        let granted = {
            let mut state = self.0.lock();
            let wanted = wanted.min(state.total);
            let (granted, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { of: of.cloned(), wanted, granted });
            receiver
        };
        self.wake();
        granted.await.expect("a waiter is dropped only with its receiver")
    }

    fn give_back(&self, of: Option<&CampaignId>, count: usize) {
        {
            let mut state = self.0.lock();
            state.free += count;
            if let Some(of) = of
                && let Some(held) = state.held.get_mut(of)
            {
                *held -= count;
                if *held == 0 {
                    state.held.remove(of);
                }
            }
        }
        self.wake();
    }

    fn wake(&self) {
        loop {
            // The lock must be free when permits are dropped, because their waiter has gone.
            let Some(Waiting { of, wanted, granted }) = self.0.lock().next() else { return };
            let _gone = granted.send(Permits { shares: self.clone(), of, count: wanted });
        }
    }
}

impl State {
    /// Takes the next waiter that gets its permits now.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.granted.is_closed());
        let first = self.waiting.front()?.of.clone();
        let is_alone = self.waiting.iter().all(|waiting| waiting.of == first);
        let may = |waiting: &Waiting| is_alone || self.has_share(waiting);
        let at = self.waiting.iter().position(may)?;
        let waiting = self.waiting.get(at)?;
        let spare = if self.has_share(waiting) { 0 } else { self.spare };
        if self.free < waiting.wanted + spare {
            // Smaller ones behind it would keep it waiting.
            return None;
        }
        self.free -= waiting.wanted;
        if let Some(of) = waiting.of.clone() {
            *self.held.entry(of).or_default() += waiting.wanted;
        }
        self.waiting.remove(at)
    }

    /// Returns whether a waiter would not have more than its share.
    fn has_share(&self, Waiting { of, wanted, .. }: &Waiting) -> bool {
        let Some(of) = of else { return true };
        let held = self.held.get(of).copied().unwrap_or_default();
        // One that wants more than a share at once would otherwise wait forever.
        held == 0 || held + wanted <= self.total / SHARE
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use futures_util::FutureExt;

    use super::*;

    fn campaign(id: &str) -> CampaignId {
        CampaignId::parse(id).unwrap()
    }

    type Asking = Pin<Box<dyn Future<Output = Permits>>>;

    fn ask(shares: &Shares, id: &str, wanted: usize) -> Asking {
        let (shares, id) = (shares.clone(), campaign(id));
        Box::pin(async move { shares.acquire(Some(&id), wanted).await })
    }

    /// Asks for permits that are granted at once.
    fn get(shares: &Shares, id: &str, wanted: usize) -> Permits {
        ask(shares, id, wanted).now_or_never().expect("it is granted")
    }

    /// Asks for permits that are not granted at once.
    fn wait(shares: &Shares, id: &str, wanted: usize) -> Asking {
        let mut asking = ask(shares, id, wanted);
        assert!((&mut asking).now_or_never().is_none(), "it waits");
        asking
    }

    #[test]
    fn a_campaign_alone_has_all_but_one() {
        let shares = Shares::new(16, 1);
        let mut hot: Vec<_> = (0..15).map(|_| get(&shares, "hot", 1)).collect();
        let waits = wait(&shares, "hot", 1);
        let calm = get(&shares, "calm", 1);
        drop((waits, calm));
        hot.pop();
        hot.push(get(&shares, "hot", 1));
        hot.clear();
        assert!(shares.is_unused());
    }

    #[test]
    fn nobody_has_more_than_a_quarter_while_another_waits() {
        let shares = Shares::new(16, 1);
        let mut hot: Vec<_> = (0..15).map(|_| get(&shares, "hot", 1)).collect();
        let mut hots: Vec<_> = (0..20).map(|_| wait(&shares, "hot", 1)).collect();
        let mut calm = vec![get(&shares, "calm", 1)];
        let mut calms: Vec<_> = (0..3).map(|_| wait(&shares, "calm", 1)).collect();
        // Three of the first campaign end. The other one waited behind twenty of it.
        hot.truncate(12);
        calm.extend(calms.iter_mut().filter_map(|asking| asking.now_or_never()));
        assert_eq!(calm.len(), 4);
        let mut last = wait(&shares, "calm", 1);
        // It has its share now as well, and the first one goes on within its own.
        hot.truncate(4);
        assert!((&mut last).now_or_never().is_none());
        assert!(hots.iter_mut().all(|asking| asking.now_or_never().is_none()));
        hot.truncate(3);
        let granted = hots.iter_mut().filter_map(|asking| asking.now_or_never());
        assert_eq!(granted.collect::<Vec<_>>().len(), 1);
    }

    #[test]
    fn a_waiter_that_goes_keeps_nobody() {
        let shares = Shares::new(8, 1);
        let hot = get(&shares, "hot", 7);
        let gone = wait(&shares, "calm", 2);
        let mut other = wait(&shares, "other", 1);
        drop(gone);
        assert!((&mut other).now_or_never().is_some());
        drop(hot);
        drop(other);
        assert!(shares.is_unused());
    }

    #[test]
    fn large_wishes_are_met_in_their_turn() {
        let shares = Shares::new(8, 1);
        let first = get(&shares, "hot", 99);
        let mut large = wait(&shares, "calm", 6);
        let mut small = wait(&shares, "other", 3);
        drop(first);
        let large = (&mut large).now_or_never().expect("it came first");
        assert!((&mut small).now_or_never().is_none());
        drop(large);
        assert!((&mut small).now_or_never().is_some());
    }

    #[test]
    fn what_is_of_no_campaign_has_no_share() {
        let shares = Shares::new(8, 1);
        let permits: Vec<_> =
            (0..8).map(|_| shares.acquire(None, 1).now_or_never().unwrap()).collect();
        assert!(shares.acquire(None, 1).now_or_never().is_none());
        drop(permits);
        assert!(shares.is_unused());
    }
}
