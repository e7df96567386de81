//! Merges the layers into settings, and checks keys, values and the rules between keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    admin_keys::{self, AdminKey},
    identity::{self, Identity},
    keys,
    layers::{self, Given, Sources},
    links,
    problem::{ConfigProblem, Origin, Problems},
    properties, secrets,
    settings::{AdminConfig, Config},
    types::{Mode, Secret},
};

/// Least length of a token that others than the users of this machine can try: 16 bytes of visible
/// ASCII, even words, cannot be guessed at the rate at which wrong tokens are taken.
const EXPOSED_TOKEN_BYTES_MIN: usize = 16;

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The effective settings.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// What the operator should know about where secrets lie, as sentences.
    pub warnings: Vec<String>,
    pub(super) origins: Origins,
}

/// The origin of each key that a layer sets.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Notes where a key was set.
    pub(super) fn set(&mut self, key: &'static str, origin: Origin) {
        self.0.insert(key, origin);
    }
}

/// The settings that some layer sets.
#[derive(Debug, Clone, Default)]
pub struct Explicit(BTreeSet<&'static str>);

impl Explicit {
    /// Returns whether a layer sets `key`, also if to its default.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.0.contains(key)
    }
}

impl FromIterator<&'static str> for Explicit {
    fn from_iter<T: IntoIterator<Item = &'static str>>(keys: T) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl Loaded {
    /// Returns the settings that some layer sets.
    #[must_use]
    pub fn explicit(&self) -> Explicit {
        self.origins.0.keys().copied().collect()
    }
}

/// Merges `sources` and checks everything.
///
/// # Errors
/// Returns every [`ConfigProblem`], in the order of the layers; rules between keys come last.
pub fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let given = layers::read(sources, &mut problems);
    let warnings = secrets::warnings(sources.file.as_deref(), &given);
    let mut config = Config::default();
    let mut origins = Origins::default();
    for one in &given {
        if one.key == admin_keys::KEY {
            origins.set(admin_keys::KEY, one.origin.clone());
            problems.extend(admin_keys::assign(&mut config.admin.keys, one));
        } else if let Err(problem) = assign(&mut config, &mut origins, one) {
            problems.push(problem);
        }
    }
    if origins.of("demo") == Origin::Default {
        config.demo = config.mode == Mode::Embedded;
    }
    secrets::read(&mut config, &mut origins, &mut problems);
    // A key with a problem of its own keeps the value of another layer; a second problem about
    // that value would mislead.
    let broken: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    let is_of = |one: &str, key: &str| {
        // A problem may be one of an item of a list, as in `admin.keys[0].role`.
        one.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    };
    let sound = |keys: &[&str]| !keys.iter().any(|key| broken.iter().any(|one| is_of(one, key)));
    let rules = between_keys(&config).into_iter().chain(links::rules(&config));
    for (keys, problem) in rules.chain(identity::rules(&config)) {
        if sound(keys) {
            problems.push(ConfigProblem { origin: origins.of(&problem.key), ..problem });
        }
    }
    if problems.is_empty() {
        Ok(Loaded { config, file: sources.file.clone(), warnings, origins })
    } else {
        Err(Problems(problems))
    }
}

fn assign(config: &mut Config, origins: &mut Origins, given: &Given) -> Result<(), ConfigProblem> {
    if let Some(name) = properties::name_of(&given.key) {
        origins.set(properties::TABLE, given.origin.clone());
        return properties::assign(&mut config.kafka.properties, name, given);
    }
    let Some(key) = keys::find(&given.key) else {
        return Err(keys::unknown_key(&given.key, given.origin.clone()));
    };
    // Rules between keys name the origin even if the value itself is refused.
    origins.set(key.name, given.origin.clone());
    (key.assign)(config, &given.input).map_err(|refused| ConfigProblem {
        key: given.key.clone(),
        fault: refused.fault,
        remedy: refused.remedy,
        origin: given.origin.clone(),
    })
}

/// A broken rule between keys, with the keys that it depends on.
pub(super) type Broken = (&'static [&'static str], ConfigProblem);

/// Returns the broken rules between keys.
fn between_keys(config: &Config) -> Vec<Broken> {
    let mut broken: Vec<Broken> = Vec::new();
    let mut broke = |keys: &'static [&'static str], fault: String, remedy: &str| {
        let problem = ConfigProblem {
            key: keys[0].to_owned(),
            fault,
            remedy: remedy.to_owned(),
            origin: Origin::Default,
        };
        broken.push((keys, problem));
    };
    let (api, admin) = (&config.api, &config.admin);
    if config.mode == Mode::Distributed {
        let needed = "is empty, must name at least one server if mode is \"distributed\"";
        if config.kafka.brokers.is_empty() {
            let remedy = "set for example kafka.brokers = [\"10.0.0.1:9092\"]";
            broke(&["kafka.brokers", "mode"], needed.to_owned(), remedy);
        }
        if config.cql.nodes.is_empty() {
            let remedy = "set for example cql.nodes = [\"10.0.0.1:9042\"]";
            broke(&["cql.nodes", "mode"], needed.to_owned(), remedy);
        }
    }
    if api.identity == Identity::Trusted && !api.listen.is_loopback() && !api.trust_network {
        broke(
            &["api.identity", "api.listen", "api.trust_network"],
            format!(
                "is \"trusted\" while api.listen is {}, which is not loopback: any client could act \
                 as any user",
                api.listen
            ),
            "set api.identity = \"jwt\" or \"header:NAME\", or api.listen to an address of loopback, or \
             api.trust_network = true if only a gateway can reach it",
        );
    }
    shared_tokens(admin, &mut broke);
    exposed_tokens(admin, &mut broke);
    if admin.listen.collides(&api.listen) {
        broke(
            &["admin.listen", "api.listen"],
            format!("is {}, which collides with api.listen", admin.listen),
            "use another port or path for one of them",
        );
    }
    broken
}

/// Passes on which keys have the token of the owner: they would be taken for somebody else.
fn shared_tokens(
    admin: &AdminConfig,
    broke: &mut impl FnMut(&'static [&'static str], String, &str),
) {
    let owner = admin.token.as_ref().map(|token| AdminKey::owner(token.expose()));
    for key in &admin.keys.0 {
        if owner.as_ref().is_some_and(|owner| owner.token_sha256 == key.token_sha256) {
            broke(
                &["admin.keys", "admin.token"],
                format!("has the token of admin.token for {}", key.name),
                "give each key a token of its own",
            );
        }
    }
}

/// Passes on what is wrong with the tokens of an admin listener that others can reach.
fn exposed_tokens(
    admin: &AdminConfig,
    broke: &mut impl FnMut(&'static [&'static str], String, &str),
) {
    if admin.listen.is_loopback() {
        return;
    }
    if admin.token.is_none() && admin.keys.0.is_empty() {
        broke(
            &["admin.token", "admin.keys", "admin.listen"],
            format!("is not set while admin.listen is {}, which is not loopback", admin.listen),
            "set admin.token_file or [[admin.keys]], or admin.listen to an address of loopback",
        );
    }
    let is_short = |token: &Secret| token.expose().len() < EXPOSED_TOKEN_BYTES_MIN;
    if admin.token.as_ref().is_some_and(is_short) {
        broke(
            &["admin.token", "admin.listen"],
            format!(
                "is shorter than {EXPOSED_TOKEN_BYTES_MIN} bytes while admin.listen is {}, which is \
                 not loopback",
                admin.listen
            ),
            "generate a token, for example with `openssl rand -hex 32`, or set admin.listen to an \
             address of loopback",
        );
    }
    for key in admin.keys.short(EXPOSED_TOKEN_BYTES_MIN) {
        broke(
            &["admin.keys", "admin.listen"],
            format!(
                "has a token of {} that is shorter than {EXPOSED_TOKEN_BYTES_MIN} bytes while \
                 admin.listen is {}, which is not loopback",
                key.name, admin.listen
            ),
            "generate a token, for example with `openssl rand -hex 32`",
        );
    }
}

impl Config {
    /// Returns whether others than the users of this machine reach a listener.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.api.listen.is_loopback() || !self.admin.listen.is_loopback()
    }
}
