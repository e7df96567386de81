//! Who may use the admin listener, and how often somebody may guess.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    caller::{AdminToken, bearer},
    problem::{Kind, Problem},
};
use crate::telemetry::metrics;

/// Wrong tokens of one client address that are compared within [`WINDOW`].
const WRONG_MAX: usize = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// Addresses whose wrong tokens are counted; the one that was wrong longest ago is forgotten. About
/// 1 MiB.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Guards the admin listener.
pub(super) struct Guard {
    token: AdminToken,
    /// Times of the latest wrong tokens of each address.
    wrong: Mutex<LruCache<IpAddr, VecDeque<Instant>>>,
}

impl Guard {
    pub(super) fn new(token: &str) -> Self {
        Self { token: AdminToken::new(token), wrong: Mutex::new(LruCache::new(ADDRESSES_MAX)) }
    }

    /// Admits a request that bears the token.
    ///
    /// # Errors
    /// 401 without the token. 429 if the address has sent [`WRONG_MAX`] wrong ones within a second:
    /// then not even the right one is compared. Other addresses are not affected.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        client: IpAddr,
        now: Instant,
    ) -> Result<(), Problem> {
        let Some(token) = bearer(headers) else { return Err(no_token()) };
        let address = network(client);
        // Held while tokens are compared, so that requests at the same time are counted too.
        let mut wrong = self.wrong.lock();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        let recent =
            wrong.get(&address).map_or(0, |at| at.iter().filter(|at| is_recent(at)).count());
        let is_compared = recent < WRONG_MAX;
        if is_compared && self.token.is(token) {
            return Ok(());
        }
        metrics::admin_denied();
        tracing::warn!(summed = true, %client, "wrong admin token");
        if !is_compared {
            let detail = format!("more than {WRONG_MAX} wrong tokens a second from this address");
            return Err(Problem::new(Kind::TooManyTokens, detail).retry_after(WINDOW));
        }
        let times = wrong.get_or_insert_mut(address, VecDeque::new);
        times.retain(is_recent);
        times.push_back(now);
        Err(no_token())
    }
}

fn no_token() -> Problem {
    Problem::new(Kind::NoToken, "send the admin token as Authorization: Bearer TOKEN")
}

/// Returns the address by which a client is known: of IPv6 the network of 64 bits, within which
/// everybody has as many addresses as they like.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// The address of a request that came through no listener.
pub(super) const NO_CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    const TOKEN: &str = "the-right-token";

    fn bearing(token: &str) -> HeaderMap {
        let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[track_caller]
    fn check(guard: &Guard, token: &str, client: &str, now: Instant, slug: Option<&str>) {
        let admitted = guard.admit(&bearing(token), client.parse().unwrap(), now);
        assert_eq!(admitted.err().map(|problem| problem.slug()), slug, "{client} {token}");
    }

    #[test]
    fn few_wrong_tokens_of_an_address_are_compared() {
        let (guard, start) = (Guard::new(TOKEN), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for wrong in 0..WRONG_MAX as u64 {
            check(&guard, "guess", "10.0.0.1", at(wrong * 90), Some("no-token"));
        }
        check(&guard, "guess", "10.0.0.1", at(950), Some("too-many-tokens"));
        check(&guard, TOKEN, "10.0.0.1", at(960), Some("too-many-tokens"));
        check(&guard, TOKEN, "::ffff:10.0.0.1", at(970), Some("too-many-tokens"));
        check(&guard, TOKEN, "10.0.0.2", at(980), None);
        // The first is a second old: one more may be compared.
        check(&guard, "guess", "10.0.0.1", at(1_000), Some("no-token"));
        check(&guard, TOKEN, "10.0.0.1", at(1_010), Some("too-many-tokens"));
        check(&guard, TOKEN, "10.0.0.1", at(2_100), None);
    }

    #[test]
    fn right_tokens_are_not_counted() {
        let (guard, now) = (Guard::new(TOKEN), Instant::now());
        for _ in 0..3 * WRONG_MAX {
            check(&guard, TOKEN, "10.0.0.1", now, None);
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (guard, now) = (Guard::new(TOKEN), Instant::now());
        for host in 0..WRONG_MAX {
            check(&guard, "guess", &format!("2001:db8:0:1::{host:x}"), now, Some("no-token"));
        }
        check(&guard, TOKEN, "2001:db8:0:1:ffff::1", now, Some("too-many-tokens"));
        check(&guard, TOKEN, "2001:db8:0:2::1", now, None);
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let (guard, now) = (Guard::new(TOKEN), Instant::now());
        for number in 0..ADDRESSES_MAX.get() as u32 + 10 {
            let client = Ipv4Addr::from_bits(number).to_string();
            check(&guard, "guess", &client, now, Some("no-token"));
        }
        assert_eq!(guard.wrong.lock().len(), ADDRESSES_MAX.get());
    }
}
