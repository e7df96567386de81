//! From layers to settings: every key known, every value within its rule, every rule between keys.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use super::{
    Config, Identity, Mode,
    keys::{self, KEYS},
    layers::{self, Given, Sources},
    problem::{Origin, Problem, Problems},
};

/// Longest name that is compared with those of the settings: no setting's is half as long.
const NAME_BYTES_MAX: usize = 100;

/// A configuration that `serve` would take.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The effective settings.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    pub(super) origins: Origins,
}

/// Where each key that was given comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }
}

/// Layers `sources` and checks everything.
///
/// # Errors
/// Every [`Problem`] that was found, in the order of the layers, rules between keys last.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let given = layers::read(sources, &mut problems);
    let mut config = Config::default();
    let mut origins = Origins::default();
    for one in &given {
        if let Err(problem) = assign(&mut config, &mut origins, one) {
            problems.push(problem);
        }
    }
    if origins.of("demo") == Origin::Default {
        config.demo = config.mode == Mode::Embedded;
    }
    // A key with a problem of its own still has another layer's value: what follows from that
    // would mislead.
    let broken: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let sound = |keys: &[&str]| !keys.iter().any(|key| broken.iter().any(|one| one == key));
    for (keys, problem) in between_keys(&config) {
        if sound(keys) {
            problems.push(Problem { origin: origins.of(&problem.key), ..problem });
        }
    }
    if problems.is_empty() {
        Ok(Loaded { config, file: sources.file.clone(), origins })
    } else {
        Err(Problems(problems))
    }
}

fn assign(config: &mut Config, origins: &mut Origins, given: &Given) -> Result<(), Problem> {
    let key = keys::find(&given.key).ok_or_else(|| unknown_key(given))?;
    // Also a value with a problem is remembered: rules between keys name where it was given.
    origins.0.insert(key.name, given.origin.clone());
    key.slot.assign(config, &given.value, given.word.as_deref()).map_err(|refused| Problem {
        key: given.key.clone(),
        fault: refused.fault,
        remedy: refused.remedy,
        origin: given.origin.clone(),
    })
}

/// Rules between keys that are broken, each with the keys that it looks at.
fn between_keys(config: &Config) -> Vec<(&'static [&'static str], Problem)> {
    let mut broken: Vec<(&'static [&'static str], Problem)> = Vec::new();
    let mut say = |keys: &'static [&'static str], fault: String, remedy: &str| {
        let problem = Problem {
            key: keys[0].to_owned(),
            fault,
            remedy: remedy.to_owned(),
            origin: Origin::Default,
        };
        broken.push((keys, problem));
    };
    let (api, admin) = (&config.api, &config.admin);
    if config.mode == Mode::Distributed {
        let needed = "is empty, must name at least one if mode is \"distributed\"";
        if config.kafka.brokers.is_empty() {
            let remedy = "set for example kafka.brokers = [\"10.0.0.1:9092\"]";
            say(&["kafka.brokers", "mode"], needed.to_owned(), remedy);
        }
        if config.cql.nodes.is_empty() {
            let remedy = "set for example cql.nodes = [\"10.0.0.1:9042\"]";
            say(&["cql.nodes", "mode"], needed.to_owned(), remedy);
        }
    }
    if api.identity == Identity::Trusted && !is_loopback(api.listen) && !api.trust_network {
        say(
            &["api.identity", "api.listen", "api.trust_network"],
            format!(
                "is \"trusted\" while api.listen is {}, must be on loopback so that not anybody \
                 can ask as anybody",
                api.listen
            ),
            "set api.identity = \"header:NAME\", or api.listen on 127.0.0.1, or \
             api.trust_network = true if only a gateway reaches it",
        );
    }
    if admin.token.is_none() && !is_loopback(admin.listen) {
        say(
            &["admin.token", "admin.listen"],
            format!("is not set while admin.listen is {}, must be set off loopback", admin.listen),
            "set admin.token (COUPOND_ADMIN__TOKEN), or admin.listen on 127.0.0.1",
        );
    }
    if collide(api.listen, admin.listen) {
        say(
            &["admin.listen", "api.listen"],
            format!("is {}, must be another address than api.listen", admin.listen),
            "give one of them another port",
        );
    }
    broken
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Whether one process can't listen on both: the same port, and one of them on every address.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let overlap = ip == other_ip || ip.is_unspecified() || other_ip.is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap
}

fn unknown_key(given: &Given) -> Problem {
    let name = &given.key;
    let inside: Vec<_> = keys_of_table(name).collect();
    let fault = if inside.is_empty() {
        "is not a setting".to_owned()
    } else {
        "is a table, not a setting".to_owned()
    };
    let table = name.split_once('.').map_or("", |(table, _)| table);
    let siblings: Vec<_> = keys_of_table(table).collect();
    let remedy = if !inside.is_empty() {
        format!("set one of {}", inside.join(", "))
    } else if let Some(near) = nearest(name, KEYS.iter().map(|key| key.name.to_owned())) {
        format!("did you mean {near}?")
    } else if !table.is_empty() && !siblings.is_empty() {
        format!("there are {}", siblings.join(", "))
    } else {
        "`coupond print-config --defaults` shows every setting".to_owned()
    };
    Problem { key: name.clone(), fault, remedy, origin: given.origin.clone() }
}

fn keys_of_table(table: &str) -> impl Iterator<Item = &'static str> {
    let inside = KEYS.iter().filter(move |key| !table.is_empty() && key.split().0 == table);
    inside.map(|key| key.name)
}

/// The problem of a variable that starts like ours and is no setting.
pub(super) fn unknown_variable(name: &str, origin: Origin) -> Problem {
    let remedy = match nearest(name, KEYS.iter().map(keys::Key::variable)) {
        Some(near) => format!("did you mean {near}?"),
        None => "unset it, or name a setting: COUPOND_API__LISTEN is api.listen".to_owned(),
    };
    let fault = "is not a setting's environment variable".to_owned();
    Problem { key: name.to_owned(), fault, remedy, origin }
}

/// The candidate that `name` was probably meant to be: few letters away, or of the same last level.
fn nearest(name: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let last = |name: &str| {
        let name = name.rsplit('.').next().unwrap_or(name);
        name.rsplit("__").next().unwrap_or(name).to_owned()
    };
    // Lower is nearer; a mere match of the last level comes after any near spelling.
    let distance = |candidate: &str| {
        let letters = edits(name, candidate);
        let allowed = (name.len() / 5).clamp(1, 3);
        if letters <= allowed {
            Some(letters)
        } else if last(candidate) == last(name) {
            Some(allowed + 1 + letters)
        } else {
            None
        }
    };
    if name.len() > NAME_BYTES_MAX {
        return None;
    }
    let near = candidates.filter_map(|candidate| Some((distance(&candidate)?, candidate)));
    near.min().map(|(_, candidate)| candidate)
}

/// Letters to add, drop or change to get from one text to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[at + 1];
            row[at + 1] = change.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_count_letters() {
        let cases =
            [("", "abc", 3), ("abc", "abc", 0), ("listen", "lisen", 1), ("kitten", "sitting", 3)];
        for (from, to, count) in cases {
            assert_eq!(edits(from, to), count, "{from} {to}");
            assert_eq!(edits(to, from), count, "{to} {from}");
        }
    }
}
