//! Secrets from files, and warnings about where secrets lie.

use std::{
    fs::File,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    keys,
    layers::{Given, text_of},
    load::Origins,
    problem::{ConfigProblem, Origin},
    properties,
    settings::{Config, KEYS},
    value::{Input, Shown, Value},
};

/// Access bits of group and others.
const OTHERS: u32 = 0o077;

/// Access bits by which group and others read.
const READ_BY_OTHERS: u32 = 0o044;

/// Most bytes of a file with a secret: several times the longest one.
const BYTES_MAX: u64 = 64 * 1_024;

/// The file that a setting names, if it does.
type FileOf = fn(&Config) -> Option<&PathBuf>;

/// Each secret with the setting that names its file.
const FILES: [(&str, &str, FileOf); 5] = [
    ("kafka.sasl.password", "kafka.sasl.password_file", |c| c.kafka.sasl_password_file.as_ref()),
    ("cql.password", "cql.password_file", |c| c.cql.password_file.as_ref()),
    ("secret.key", "secret.key_file", |c| c.secret.key_file.as_ref()),
    ("api.gateway_token", "api.gateway_token_file", |c| c.api.gateway_token_file.as_ref()),
    ("admin.token", "admin.token_file", |c| c.admin.token_file.as_ref()),
];

/// Reads the secrets that are in files.
pub(super) fn read(config: &mut Config, origins: &mut Origins, problems: &mut Vec<ConfigProblem>) {
    for (secret, by_file, file_of) in FILES {
        let Some(path) = file_of(config).cloned() else { continue };
        let origin = origins.of(by_file);
        let mut refused = |fault: String, remedy: String| {
            let (key, origin) = (by_file.to_owned(), origin.clone());
            problems.push(ConfigProblem { key, fault, remedy, origin });
        };
        if origins.of(secret) != Origin::Default {
            let fault = format!("is set, and {secret} too ({})", origins.of(secret));
            refused(fault, format!("leave out {secret}"));
            continue;
        }
        let text = match secret_of(&path) {
            Ok(text) => text,
            Err((fault, remedy)) => {
                refused(fault, remedy);
                continue;
            }
        };
        let input = Input { value: Value::Text(text), word: None };
        let Some(key) = keys::find(secret) else { continue };
        match (key.assign)(config, &input) {
            Ok(()) => origins.set(key.name, origin.clone()),
            Err(found) => {
                refused(
                    format!("names {}, whose content {}", path.display(), found.fault),
                    found.remedy,
                );
            }
        }
    }
}

/// Reads a secret from a file that only its owner may read, or returns what is wrong with it and the
/// remedy. A newline at the end does not count.
pub(super) fn secret_of(path: &Path) -> Result<String, (String, String)> {
    let text = private_text(path)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Reads a file that only its owner may read, or returns what is wrong with it and the remedy.
pub(super) fn private_text(path: &Path) -> Result<String, (String, String)> {
    let shown = path.display();
    let readable = |error: std::io::Error| {
        let remedy = "check the path and its permissions".to_owned();
        (format!("names {shown}, which cannot be read: {error}"), remedy)
    };
    let file = File::open(path).map_err(readable)?;
    let mode = file.metadata().map_err(readable)?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err((
            format!("names {shown}, which group or others may use (mode {mode:03o})"),
            format!("run `chmod 600 {shown}`"),
        ));
    }
    text_of(file, BYTES_MAX).map_err(readable)
}

/// Warns about a configuration file with secrets that others may read, and about secrets on the
/// command line, which the list of processes shows.
pub(super) fn warnings(file: Option<&Path>, given: &[Given]) -> Vec<String> {
    let defaults = Config::default();
    let is_secret = |given: &&Given| match properties::name_of(&given.key) {
        Some(name) => properties::is_secret(name),
        None => KEYS.iter().any(|key| {
            key.name == given.key && matches!((key.show)(&defaults), Shown::Secret { .. })
        }),
    };
    let mut warnings = Vec::new();
    let mode = file.and_then(|file| std::fs::metadata(file).ok()).map(|it| it.permissions().mode());
    for one in given.iter().filter(is_secret) {
        let (key, remedy) = (
            &one.key,
            match FILES.iter().find(|(secret, ..)| *secret == one.key) {
                Some((_, by_file, _)) => format!("use {by_file}"),
                None => "use a configuration file that only its owner may read".to_owned(),
            },
        );
        match &one.origin {
            Origin::Set => warnings.push(format!(
                "{key} is on the command line, where every user of this machine can read it; {remedy}"
            )),
            Origin::File { path, .. } if mode.is_some_and(|mode| mode & READ_BY_OTHERS != 0) => {
                let path = path.display();
                warnings.push(format!(
                    "{path} holds {key} and may be read by others; run `chmod 600 {path}`, or {remedy}"
                ));
            }
            _ => {}
        }
    }
    warnings
}
