//! Settings of a node. [`load()`] merges all sources and reports every problem at once.
//!
//! Built-in defaults < TOML file < environment < `--set`. The table in `settings` declares each
//! setting once; parsing, problems and the documented file are derived from it.

mod admin_keys;
mod identity;
mod keys;
mod layers;
mod links;
mod listen;
mod load;
mod print;
mod problem;
mod properties;
mod secrets;
mod settings;
mod table;
#[cfg(test)]
mod tests;
mod texts;
mod types;
mod value;

pub use self::{
    admin_keys::{AdminKey, AdminKeys, OWNER_NAME},
    identity::Identity,
    layers::{DEFAULT_FILE, Sources},
    listen::{Listen, NotListen},
    load::{Explicit, Loaded, load},
    print::documented,
    problem::{ConfigProblem, Origin, Problems},
    settings::{
        AdminConfig, AdmissionConfig, ApiConfig, ChaosConfig, Config, CqlConfig, EmbeddedConfig,
        KafkaConfig, SecretConfig,
    },
    types::{Compression, Hosts, Mode, Origins, Properties, Role, SaslMechanism, Secret, Security},
};
pub(crate) use self::{layers::text_of, listen::UNIX};
