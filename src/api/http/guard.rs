//! Who may do what on the admin listener, and how often somebody may guess.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, Method};
use lru::LruCache;
use parking_lot::Mutex;

use super::{
    caller::{TokenDigest, bearer},
    problem::{Kind, Problem},
};
use crate::{
    config::{AdminKey, Role},
    telemetry::metrics,
};

/// Wrong tokens of one client address that are compared within [`WINDOW`].
const WRONG_MAX: usize = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// Addresses whose wrong tokens are counted; the one that was wrong longest ago is forgotten. About
/// 1 MiB.
const ADDRESSES_MAX: NonZeroUsize = NonZeroUsize::new(4_096).expect("not zero");

/// Who calls the admin listener.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Name of the key.
    pub(super) name: Arc<str>,
    role: Role,
}

impl Caller {
    /// Fails if the caller has not the right to make this call.
    ///
    /// # Errors
    /// 403.
    pub(super) fn check(&self, method: &Method, path: &str) -> Result<(), Problem> {
        let needed = needed(method, path);
        if self.role.may(needed) {
            return Ok(());
        }
        let (name, role, needed) = (&self.name, self.role.name(), needed.name());
        let detail = format!("the key {name} has the role {role}, and this call needs {needed}");
        Err(Problem::new(Kind::NoRight, detail))
    }
}

/// Returns the role that a call needs.
fn needed(method: &Method, path: &str) -> Role {
    let segments: Vec<&str> = path.split('/').collect();
    match segments.as_slice() {
        _ if [Method::GET, Method::HEAD].contains(method) => Role::Viewer,
        // What has no way back.
        ["", "admin", _, _, "close" | "skip" | "crash"]
        | ["", "admin", "supervisor" | "secret", _] => Role::Owner,
        _ => Role::Operator,
    }
}

struct Key {
    caller: Caller,
    token: TokenDigest,
}

impl Key {
    fn new(key: &AdminKey) -> Self {
        let caller = Caller { name: key.name.as_str().into(), role: key.role };
        Self { caller, token: TokenDigest::from_bytes(key.token_sha256) }
    }
}

/// Guards the admin listener.
pub(super) struct Guard {
    keys: Vec<Key>,
    /// Times of the latest wrong tokens of each address.
    wrong: Mutex<LruCache<IpAddr, VecDeque<Instant>>>,
}

impl Guard {
    pub(super) fn new(keys: &[AdminKey]) -> Self {
        let keys = keys.iter().map(Key::new).collect();
        Self { keys, wrong: Mutex::new(LruCache::new(ADDRESSES_MAX)) }
    }

    /// Returns whose token it is. Compares it with all, so that the time of the answer does not tell
    /// which one it resembles.
    fn holder(&self, token: &[u8]) -> Option<&Caller> {
        let token = TokenDigest::of(token);
        let mut holder = None;
        for key in &self.keys {
            if key.token == token {
                holder = Some(&key.caller);
            }
        }
        holder
    }

    /// Admits a request that bears the token of a key, and returns whose it is.
    ///
    /// # Errors
    /// 401 without one. 429 if the address has sent [`WRONG_MAX`] wrong ones within a second:
    /// then not even the right one is compared. Other addresses are not affected.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        client: IpAddr,
        now: Instant,
    ) -> Result<Caller, Problem> {
        let Some(token) = bearer(headers) else { return Err(no_token()) };
        let address = network(client);
        // Held while tokens are compared, so that requests at the same time are counted too.
        let mut wrong = self.wrong.lock();
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < WINDOW;
        let recent =
            wrong.get(&address).map_or(0, |at| at.iter().filter(|at| is_recent(at)).count());
        let is_compared = recent < WRONG_MAX;
        if is_compared && let Some(caller) = self.holder(token) {
            return Ok(caller.clone());
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
        let (guard, start) = (Guard::new(&[AdminKey::owner(TOKEN)]), Instant::now());
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
        let (guard, now) = (Guard::new(&[AdminKey::owner(TOKEN)]), Instant::now());
        for _ in 0..3 * WRONG_MAX {
            check(&guard, TOKEN, "10.0.0.1", now, None);
        }
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (guard, now) = (Guard::new(&[AdminKey::owner(TOKEN)]), Instant::now());
        for host in 0..WRONG_MAX {
            check(&guard, "guess", &format!("2001:db8:0:1::{host:x}"), now, Some("no-token"));
        }
        check(&guard, TOKEN, "2001:db8:0:1:ffff::1", now, Some("too-many-tokens"));
        check(&guard, TOKEN, "2001:db8:0:2::1", now, None);
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let (guard, now) = (Guard::new(&[AdminKey::owner(TOKEN)]), Instant::now());
        for number in 0..ADDRESSES_MAX.get() as u32 + 10 {
            let client = Ipv4Addr::from_bits(number).to_string();
            check(&guard, "guess", &client, now, Some("no-token"));
        }
        assert_eq!(guard.wrong.lock().len(), ADDRESSES_MAX.get());
    }
}
