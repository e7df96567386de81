//! `[[admin.keys]]`: keys of several people for the admin listener, each with a name and a role.

use std::{fmt, path::PathBuf};

use sha2::{Digest, Sha256};

use super::{
    layers::Given,
    problem::ConfigProblem,
    secrets::secret_of,
    texts,
    types::Role,
    value::{Input, Setting, Shown, Value, quoted},
};

/// The setting.
pub(super) const KEY: &str = "admin.keys";

/// Name of the one who holds `admin.token`.
pub const OWNER_NAME: &str = "token";

/// Name under which a node makes its demo campaign.
const NODE_NAME: &str = "coupond";

/// Most keys. Each request is compared with all of them, and more people share a console in front.
const KEYS_MAX: usize = 100;

/// Longest name of a key, in bytes. It is in each record and row of a change.
const NAME_BYTES_MAX: usize = 64;

/// Members of a key.
const MEMBERS: [&str; 4] = ["name", "role", "token_file", "token_sha256"];

/// A key for the admin listener. The token itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey {
    /// Who holds it: 1 to 64 of letters, digits and `.`, `_`, `@`, `-`.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of the token.
    pub token_sha256: [u8; 32],
    /// The file that the token was read from.
    token_file: Option<PathBuf>,
    /// Length of the token, where it is known.
    token_bytes: Option<usize>,
}

impl AdminKey {
    /// Returns the key of whoever holds `admin.token`.
    #[must_use]
    pub fn owner(token: &str) -> Self {
        Self::of(OWNER_NAME, Role::Owner, token)
    }

    /// Returns the key of whoever holds `token`.
    #[must_use]
    pub fn of(name: &str, role: Role, token: &str) -> Self {
        Self {
            name: name.to_owned(),
            role,
            token_sha256: digest(token),
            token_file: None,
            token_bytes: Some(token.len()),
        }
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role.name())
    }
}

/// The keys of several people, each with a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdminKeys(pub Vec<AdminKey>);

impl AdminKeys {
    /// Returns the keys whose tokens are known to have fewer bytes.
    pub(super) fn short(&self, bytes_min: usize) -> impl Iterator<Item = &AdminKey> {
        self.0.iter().filter(move |key| key.token_bytes.is_some_and(|bytes| bytes < bytes_min))
    }
}

impl Setting for AdminKeys {
    type Rule = ();

    /// Takes nothing: [`assign`] reads the list, and reports each problem of it.
    fn parse(_: &Input, (): &()) -> Option<Self> {
        None
    }

    fn show(&self) -> Shown {
        let shown = self.0.iter().map(|key| {
            let token = match &key.token_file {
                Some(file) => format!("token_file = {}", quoted(&file.display().to_string())),
                None => "token_sha256 = \"(hidden)\"".to_owned(),
            };
            let (name, role) = (quoted(&key.name), quoted(key.role.name()));
            format!("{{ name = {name}, role = {role}, {token} }}")
        });
        Shown::Value(format!("[{}]", shown.collect::<Vec<_>>().join(", ")))
    }

    fn must_be((): &()) -> String {
        format!("a list of tables with {}, at most {KEYS_MAX}", MEMBERS.join(", "))
    }

    fn remedy(_: &Input, (): &()) -> String {
        "write a table [[admin.keys]] for each key".to_owned()
    }
}

/// Reads the list, and returns each problem of it. Without a problem, the list replaces `keys`.
pub(super) fn assign(keys: &mut AdminKeys, given: &Given) -> Vec<ConfigProblem> {
    let mut problems = Vec::new();
    let mut refuse = |place: String, fault: String, remedy: &str| {
        let (remedy, origin) = (remedy.to_owned(), given.origin.clone());
        problems.push(ConfigProblem { key: format!("{KEY}{place}"), fault, remedy, origin });
    };
    let items = match &given.input.value {
        Value::List(items) if items.len() <= KEYS_MAX => items.as_slice(),
        other => {
            let found = match other {
                Value::List(items) => format!("a list of {}", items.len()),
                other => other.describe(),
            };
            let fault = format!("is {found}, must be {}", AdminKeys::must_be(&()));
            refuse(String::new(), fault, &AdminKeys::remedy(&given.input, &()));
            return problems;
        }
    };
    let mut read: Vec<AdminKey> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let Value::Table(members) = item else {
            let fault = format!("is {}, must be a table", item.describe());
            refuse(format!("[{at}]"), fault, "write a table [[admin.keys]] for each key");
            continue;
        };
        let member = |name: &str| members.iter().find(|(it, _)| it == name).map(|(_, value)| value);
        match key(members, member, &mut |name, fault, remedy| {
            refuse(format!("[{at}]{name}"), fault, remedy);
        }) {
            Some(key) if read.iter().any(|other| other.name == key.name) => {
                let fault = format!("is {:?}, which another key has", key.name);
                refuse(format!("[{at}].name"), fault, "give each key a name of its own");
            }
            Some(key) if read.iter().any(|other| other.token_sha256 == key.token_sha256) => {
                let fault = format!("{} has the token of another key", key.name);
                refuse(format!("[{at}]"), fault, "give each key a token of its own");
            }
            Some(key) => read.push(key),
            None => {}
        }
    }
    if problems.is_empty() {
        keys.0 = read;
    }
    problems
}

/// Reads one key. Problems go to `refuse` with the member, fault and remedy.
fn key<'a>(
    members: &[(String, Value)],
    member: impl Fn(&str) -> Option<&'a Value>,
    refuse: &mut dyn FnMut(&str, String, &str),
) -> Option<AdminKey> {
    for (name, _) in members.iter().filter(|(name, _)| !MEMBERS.contains(&&**name)) {
        let remedy = format!("the members are {}", MEMBERS.join(", "));
        refuse(&format!(".{name}"), "is no member of a key".to_owned(), &remedy);
    }
    let mut text = |name: &str, rule: &str, remedy: &str, is_valid: &dyn Fn(&str) -> bool| {
        let found = match member(name) {
            Some(Value::Text(text)) if is_valid(text) => return Some(text.clone()),
            Some(other) => other.describe(),
            None => "not given".to_owned(),
        };
        refuse(&format!(".{name}"), format!("is {found}, must be {rule}"), remedy);
        None
    };
    let rule = format!(
        "1 to {NAME_BYTES_MAX} of letters, digits and '.', '_', '@', '-', not \"token\" or \"coupond\""
    );
    let name = text("name", &rule, "write for example \"ada\"", &is_name);
    let rule = "\"viewer\", \"operator\" or \"owner\"";
    let role = text("role", rule, "write one of these", &|text| Role::parse(text).is_some());
    let role = role.as_deref().and_then(Role::parse);
    let (token_sha256, token_file, token_bytes) =
        match (member("token_file"), member("token_sha256")) {
            (Some(_), None) => {
                let is_path = |text: &str| !text.is_empty() && !text.contains('\0');
                let file = text("token_file", "the path of a file", "name the file", &is_path)?;
                let token = match secret_of(file.as_ref()) {
                    Ok(token) if (texts::TOKEN.parse)(&token).is_some() => token,
                    Ok(_) => {
                        let must_be = texts::TOKEN.must_be;
                        let fault = format!("names {file}, whose content must be {must_be}");
                        refuse(".token_file", fault, texts::TOKEN.remedy);
                        return None;
                    }
                    Err((fault, remedy)) => {
                        refuse(".token_file", fault, &remedy);
                        return None;
                    }
                };
                (digest(&token), Some(PathBuf::from(file)), Some(token.len()))
            }
            (None, Some(_)) => {
                let remedy = "print it with `printf %s \"$TOKEN\" | sha256sum`";
                let is_digest = |text: &str| unhex(text).is_some();
                let digits = text("token_sha256", "64 hexadecimal digits", remedy, &is_digest)?;
                (unhex(&digits)?, None, None)
            }
            (Some(_), Some(_)) | (None, None) => {
                let fault = "must have either token_file or token_sha256".to_owned();
                refuse("", fault, "name a file that holds the token");
                return None;
            }
        };
    Some(AdminKey { name: name?, role: role?, token_sha256, token_file, token_bytes })
}

fn is_name(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(is_plain)
        && ![OWNER_NAME, NODE_NAME].contains(&text)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}
