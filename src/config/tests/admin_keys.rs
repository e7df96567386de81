//! `[[admin.keys]]`: several people, each with a role.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::config::value::{Setting, Shown};

/// SHA-256 of "a-token-of-vera-1".
const DIGEST: &str = "5212cb6df53501d3fe6716b3d480491ea586181c1c25523e914417b733d999ce";

fn from(text: &str) -> Result<Config, Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("otto");
    std::fs::write(&token, "a-token-of-otto-1\n").unwrap();
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = text.replace("FOLDER", folder.path().to_str().unwrap());
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    let sources = Sources { file: Some(path), ..Sources::default() };
    let shown = |problem: &ConfigProblem| format!("{}: {}", problem.key, problem.fault);
    load(&sources).map(|it| it.config).map_err(|problems| problems.0.iter().map(shown).collect())
}

#[test]
fn keys_come_from_files_and_digests() {
    let config = from(&format!(
        "[[admin.keys]]\nname = \"vera\"\nrole = \"viewer\"\ntoken_sha256 = \"{DIGEST}\"\n\
         [[admin.keys]]\nname = \"otto@shop\"\nrole = \"operator\"\ntoken_file = \"FOLDER/otto\"\n"
    ))
    .unwrap();
    let [vera, otto] = config.admin.keys.0.as_slice() else { panic!("two keys") };
    assert_eq!((vera.name.as_str(), vera.role), ("vera", Role::Viewer));
    assert_eq!(vera.token_sha256, AdminKey::owner("a-token-of-vera-1").token_sha256);
    assert_eq!((otto.name.as_str(), otto.role), ("otto@shop", Role::Operator));
    assert_eq!(otto.token_sha256, AdminKey::owner("a-token-of-otto-1").token_sha256);
}

#[test]
fn every_problem_of_the_keys_is_named() {
    let problems = from(
        "[[admin.keys]]\nname = \"token\"\nrole = \"admin\"\n\
         [[admin.keys]]\nnam = \"x\"\nrole = \"owner\"\ntoken_sha256 = \"12\"\n\
         [[admin.keys]]\nname = \"a\"\nrole = 3\ntoken_file = \"FOLDER/missing\"\n",
    )
    .unwrap_err();
    let expected = [
        "admin.keys[0].name: is \"token\", must be 1 to 64",
        "admin.keys[0].role: is \"admin\", must be \"viewer\"",
        "admin.keys[0]: must have either token_file or token_sha256",
        "admin.keys[1].nam: is no member of a key",
        "admin.keys[1].name: is not given",
        "admin.keys[1].token_sha256: is \"12\", must be 64 hexadecimal digits",
        "admin.keys[2].role: is 3, must be",
        "admin.keys[2].token_file: names ",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (found, expected) in problems.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn two_keys_share_neither_name_nor_token() {
    let problems = from(&format!(
        "admin.keys = [{{ name = \"a\", role = \"owner\", token_sha256 = \"{DIGEST}\" }}, \
         {{ name = \"a\", role = \"owner\", token_file = \"FOLDER/otto\" }}, \
         {{ name = \"b\", role = \"owner\", token_sha256 = \"{DIGEST}\" }}]"
    ))
    .unwrap_err();
    assert_eq!(
        problems,
        [
            "admin.keys[1].name: is \"a\", which another key has",
            "admin.keys[2]: b has the token of another key"
        ]
    );
}

#[test]
fn off_loopback_keys_are_enough_if_they_are_long() {
    let of = |token: &str| {
        from(&format!(
            "admin.listen = \"10.0.0.1:8081\"\n[[admin.keys]]\nname = \"a\"\nrole = \"owner\"\n{token}"
        ))
    };
    assert!(of(&format!("token_sha256 = \"{DIGEST}\"")).is_ok());
    assert!(of("token_file = \"FOLDER/otto\"").is_ok());
    let folder = tempfile::tempdir().unwrap();
    let short = folder.path().join("short");
    std::fs::write(&short, "short").unwrap();
    std::fs::set_permissions(&short, std::fs::Permissions::from_mode(0o600)).unwrap();
    let problems = of(&format!("token_file = {short:?}")).unwrap_err();
    assert!(
        problems[0].starts_with("admin.keys: has a token of a that is shorter"),
        "{problems:?}"
    );
}

#[test]
fn printed_keys_hide_their_tokens() {
    let text = from(&format!(
        "[[admin.keys]]\nname = \"vera\"\nrole = \"viewer\"\ntoken_sha256 = \"{DIGEST}\"\n"
    ));
    let Shown::Value(shown) = Setting::show(&text.unwrap().admin.keys) else { panic!("shown") };
    assert_eq!(shown, "[{ name = \"vera\", role = \"viewer\", token_sha256 = \"(hidden)\" }]");
}

#[test]
fn no_key_has_the_token_of_the_owner() {
    let problems = from(&format!(
        "admin.token = \"a-token-of-vera-1\"\n\
         [[admin.keys]]\nname = \"vera\"\nrole = \"viewer\"\ntoken_sha256 = \"{DIGEST}\"\n"
    ));
    assert_eq!(problems.unwrap_err(), ["admin.keys: has the token of admin.token for vera"]);
}
