//! Tests of the source tree: direction of layers, purity, sizes, headers, documentation, unused
//! dependencies, licences.

mod dependencies;
mod determinism;
mod licences;
mod pages;
mod test_names;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Top-level modules from the top down; a module uses only modules of the layers below its own.
const LAYERS: [&[&str]; 10] = [
    &["main"],
    &["cli"],
    &["simulation", "chaos", "rehearse"],
    &["node"],
    &["api", "actors", "audit"],
    &["log", "store", "feed"],
    &["embedded", "kafka"],
    &["answer", "partition"],
    &["wire"],
    &["domain"],
];

/// Modules beside the layers: any layer that is not pure may use them; they use the lowest only.
const BESIDE: [&str; 11] = [
    "children",
    "clock",
    "columns",
    "config",
    "identity",
    "random",
    "report",
    "retry",
    "shares",
    "telemetry",
    "tls",
];

/// Layers without async, clock, randomness and I/O.
const PURE: [&str; 4] = ["answer", "partition", "wire", "domain"];

/// The ports. Whatever else lies in their folders is an adapter, but for the contract suite.
const PORTS: [&str; 3] = ["log", "store", "feed"];

/// The layers that may name an adapter: the composition roots, and the folders of the adapters.
const ADAPTERS_NAMED_BY: [&str; 7] =
    ["node", "simulation", "log", "store", "feed", "embedded", "kafka"];

/// Adapters in memory, which the audit's self-test damages row by row.
const IN_MEMORY: [&str; 2] = ["crate::log::memory", "crate::store::memory"];

/// Words that are forbidden in pure layers.
const IMPURE_WORDS: [&str; 8] =
    ["async", "await", "tokio", "getrandom", "rand", "tracing", "metrics", "ractor"];

/// Parts of the standard library that no pure layer uses: I/O, clocks, and hash tables whose order
/// is random.
const IMPURE_PATHS: [&str; 12] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "std::hash::RandomState",
];

/// Longest file, in lines.
const FILE_LINES_MAX: usize = 500;

/// A file of the tree.
struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Names of its modules from the crate's root, for a file of `src/`.
    fn module(&self) -> Vec<String> {
        let below = self.path.strip_prefix("src").unwrap_or(&self.path).with_extension("");
        let mut names: Vec<String> =
            below.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        if names.last().is_some_and(|name| name == "mod") {
            names.pop();
        }
        names
    }

    fn top(&self) -> String {
        self.module().first().cloned().unwrap_or_default()
    }

    /// Returns whether the file has only tests and their equipment.
    fn is_test(&self) -> bool {
        self.module().iter().any(|name| {
            ["tests", "testing", "contract", "fuzz", "tidy"].contains(&&**name)
                || name.ends_with("_tests")
        })
    }

    /// Returns the code of the product, without comments, text literals and inline tests.
    fn product(&self) -> String {
        if self.is_test() {
            return String::new();
        }
        let code = code(&self.text);
        let starts = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(super) mod tests {"];
        let end = starts.iter().filter_map(|start| code.find(start)).min();
        code[..end.unwrap_or(code.len())].to_owned()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push(Source { path: path.strip_prefix(root()).unwrap().into(), text });
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

/// Returns `text` without comments and literals. Line breaks stay.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, at > 0 && is_word(bytes[at - 1])) {
            length
        } else if let Some(body) = rest.strip_prefix('"') {
            1 + quoted(body, '"')
        } else if is_char_literal(rest) {
            1 + quoted(&rest[1..], '\'')
        } else {
            0
        };
        if skipped > 0 {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|letter| *letter == '\n'));
            at += skipped;
        } else {
            let letter = rest.chars().next().unwrap();
            code.push(letter);
            at += letter.len_utf8();
        }
    }
    code
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Returns the length of the raw string that `rest` starts with.
fn raw_string(rest: &str, inside_word: bool) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|byte| *byte == b'#').count();
    let body = after[hashes..].strip_prefix('"').filter(|_| !inside_word)?;
    let end = format!("\"{}", "#".repeat(hashes));
    let body_length = body.find(&end).unwrap_or(body.len());
    Some(rest.len() - body.len() + (body_length + end.len()).min(body.len()))
}

/// Returns the length of a quoted body with its closing `quote`.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in body.char_indices() {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == quote {
            return at + 1;
        }
    }
    body.len()
}

/// Distinguishes the literal `'a'` from the lifetime `'a`.
fn is_char_literal(rest: &str) -> bool {
    let mut letters = rest.chars();
    letters.next() == Some('\'')
        && match letters.next() {
            Some('\\') => true,
            Some(_) => letters.next() == Some('\''),
            None => false,
        }
}

/// Returns every path that starts with `first`. Groups of `use` are expanded.
fn paths(code: &str, first: &str) -> Vec<String> {
    let start = format!("{first}::");
    let mut found = Vec::new();
    for (at, _) in code.match_indices(&start) {
        let joined = at > 0 && (is_word(code.as_bytes()[at - 1]) || code[..at].ends_with("::"));
        if !joined {
            tree(first, &code[at + start.len()..], &mut found);
        }
    }
    found
}

/// Expands one tree of paths below `above`. Returns the text after it.
fn tree<'a>(above: &str, text: &'a str, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut inside) = text.strip_prefix('{') {
        loop {
            inside = inside.trim_start().trim_start_matches(',').trim_start();
            if let Some(after) = inside.strip_prefix('}') {
                return after;
            }
            if !inside.starts_with(|first: char| first.is_alphanumeric() || "_*{".contains(first)) {
                return inside;
            }
            inside = tree(above, inside, found).trim_start();
            if let Some(renamed) = inside.strip_prefix("as ") {
                inside = &renamed[renamed.find([',', '}']).unwrap_or(renamed.len())..];
            }
        }
    }
    let length = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let (name, after) = text.split_at(length.unwrap_or(text.len()));
    let path = format!("{above}::{name}");
    match after.strip_prefix("::") {
        Some(below) => tree(&path, below, found),
        None => {
            found.push(path);
            after.strip_prefix('*').unwrap_or(after)
        }
    }
}

/// Returns whether `path` is `prefix` or below it.
fn below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn depth(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Returns whether code of `user` may name `used`, both top-level modules.
fn may_use(user: &str, used: &str) -> bool {
    if user == used {
        return true;
    }
    if BESIDE.contains(&user) {
        return BESIDE.contains(&used) || used == "domain";
    }
    if BESIDE.contains(&used) {
        return !PURE.contains(&user);
    }
    match (depth(user), depth(used)) {
        (Some(user), Some(used)) => user < used,
        _ => true,
    }
}

/// Returns every path of `source` within the crate as `crate::…`, including paths with `super`.
fn own_paths(source: &Source, code: &str) -> Vec<String> {
    let mut found = paths(code, "crate");
    found.extend(paths(code, "coupond").iter().map(|path| path.replacen("coupond", "crate", 1)));
    for climbing in paths(code, "super") {
        let names: Vec<&str> = climbing.split("::").collect();
        let up = names.iter().take_while(|name| **name == "super").count();
        let module = source.module();
        if up <= module.len() {
            let absolute: Vec<&str> = module[..module.len() - up]
                .iter()
                .map(String::as_str)
                .chain(names[up..].iter().copied())
                .collect();
            found.push(format!("crate::{}", absolute.join("::")));
        }
    }
    found
}

fn assert_none(complaints: &[String], rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

#[test]
fn nothing_points_back_up() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        let user = source.top();
        for path in own_paths(&source, &source.product()) {
            let used = path.split("::").nth(1).unwrap_or_default();
            if !may_use(&user, used) {
                complaints.push(format!("{} uses {path}", source.path.display()));
            }
        }
    }
    assert_none(&complaints, "a layer uses only what is below it or beside the layers");
}

#[test]
fn every_module_has_its_layer() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules = lib.lines().filter_map(|line| {
        let name = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?;
        name.strip_suffix(';')
    });
    let is_test = |module: &str| ["fuzz", "tidy"].contains(&module);
    let known =
        |module: &str| depth(module).is_some() || BESIDE.contains(&module) || is_test(module);
    let complaints: Vec<_> = modules.filter(|module| !known(module)).map(String::from).collect();
    assert_none(&complaints, "name the module's place in LAYERS or BESIDE");
}

/// Returns the path of each adapter, and of what the adapters of one engine share.
fn adapters() -> Vec<String> {
    let mut adapters = vec!["crate::kafka".to_owned()];
    for port in PORTS {
        for entry in fs::read_dir(root().join("src").join(port)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap();
            if !["mod", "contract"].contains(&name) {
                adapters.push(format!("crate::{port}::{name}"));
            }
        }
    }
    adapters
}

#[test]
fn only_the_composition_root_names_an_adapter() {
    let adapters = adapters();
    assert!(adapters.iter().any(|adapter| adapter == "crate::store::cql"));
    let mut complaints = Vec::new();
    for source in sources(&["src"]) {
        if ADAPTERS_NAMED_BY.contains(&&*source.top()) {
            continue;
        }
        let is_self_test = source.path.starts_with("src/audit/self_test");
        let known = |adapter: &str| is_self_test && IN_MEMORY.contains(&adapter);
        for path in own_paths(&source, &source.product()) {
            if adapters.iter().any(|adapter| below(&path, adapter) && !known(adapter)) {
                complaints.push(format!("{} names {path}", source.path.display()));
            }
        }
    }
    assert_none(&complaints, "use the port, not its adapter");
}

#[test]
fn the_audit_does_not_use_what_it_judges() {
    let judged = [
        "crate::domain::campaign",
        "crate::domain::holders",
        "crate::domain::reason::Situation",
        "crate::partition",
        "crate::answer::position",
        "crate::answer::admission",
        "crate::actors",
    ];
    let mut complaints = Vec::new();
    let of_audit = |source: &&Source| {
        let module = source.module();
        // The self-test makes its good data with the product's own fold.
        source.top() == "audit" && module.get(1).is_none_or(|name| name != "self_test")
    };
    for source in sources(&["src"]).iter().filter(of_audit) {
        for path in own_paths(source, &source.product()) {
            if judged.iter().any(|judged| below(&path, judged)) {
                complaints.push(format!("{} names {path}", source.path.display()));
            }
        }
    }
    assert_none(&complaints, "the audit has rules of its own");
}

#[test]
fn pure_layers_are_pure() {
    let mut complaints = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| PURE.contains(&&*source.top())) {
        let code = source.product();
        let words = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let mut impure: Vec<String> =
            words.filter(|word| IMPURE_WORDS.contains(word)).map(String::from).collect();
        let forbidden = |path: &String| IMPURE_PATHS.iter().any(|impure| below(path, impure));
        impure.extend(paths(&code, "std").into_iter().filter(forbidden));
        if source.top() == "domain" {
            let floats = ["f32", "f64"];
            let words = code.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            impure.extend(words.filter(|word| floats.contains(word)).map(String::from));
        }
        complaints
            .extend(impure.iter().map(|impure| format!("{}: {impure}", source.path.display())));
    }
    assert_none(&complaints, "no async, clock, randomness, I/O or random order in a pure layer");
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut complaints = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines", source.path.display()));
        }
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{}: no //! header", source.path.display()));
        }
    }
    assert_none(&complaints, "a file has a //! header and at most 500 lines");
}

#[test]
fn code_is_told_from_comments_and_texts() {
    let text = "a /* b */ \"c \\\" // d\" r#\"e \"f\" \"# 'g' '\\'' &'h i // j\nk";
    assert_eq!(code(text).split_whitespace().collect::<Vec<_>>(), ["a", "&'h", "i", "k"]);
}

#[test]
fn paths_are_written_out() {
    let code = "use crate::{a, b::{c::D, *}, e::f as g, h}; crate::i::j(); x::crate::k; \
                pub(in crate::l) $crate::m!()";
    assert_eq!(
        paths(code, "crate"),
        [
            "crate::a",
            "crate::b::c::D",
            "crate::b::",
            "crate::e::f",
            "crate::h",
            "crate::i::j",
            "crate::l",
            "crate::m",
        ]
    );
}

#[test]
fn climbing_paths_are_resolved() {
    let source = Source { path: "src/log/kafka/mod.rs".into(), text: String::new() };
    let code = "use super::super::node::x; use super::{y}; super::super::super::z;";
    assert_eq!(own_paths(&source, code), ["crate::node::x", "crate::log::y"]);
}

#[test]
fn layers_may_be_used_downwards_only() {
    for (user, used, allowed) in [
        ("api", "store", true),
        ("store", "api", false),
        ("log", "store", false),
        ("api", "actors", false),
        ("domain", "telemetry", false),
        ("actors", "telemetry", true),
        ("telemetry", "domain", true),
        ("telemetry", "api", false),
        ("answer", "feed", false),
        ("node", "check_invariant", true),
    ] {
        assert_eq!(may_use(user, used), allowed, "{user} {used}");
    }
}
