//! What a configuration may be, where it comes from, and what is told of a wrong one.

use std::{collections::BTreeSet, ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    documented,
    keys::KEYS,
    layers::Sources,
    load::{Loaded, load},
    *,
};

/// A file in a folder of its own, named as problems name it.
struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    std::fs::write(&path, text).unwrap();
    File { folder, path }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn with_set(set: &[&str]) -> Sources {
    Sources { set: set.iter().map(|text| (*text).to_owned()).collect(), ..Sources::default() }
}

fn loaded(sources: &Sources) -> Loaded {
    load(sources).unwrap_or_else(|problems| panic!("{problems}"))
}

/// The lines that are told of `sources`, without the folder of a temporary file.
fn told(sources: &Sources, folder: Option<&File>) -> Vec<String> {
    let problems = match load(sources) {
        Ok(_) => return Vec::new(),
        Err(Problems(problems)) => problems,
    };
    let folder = folder.map(|file| format!("{}/", file.folder.path().display()));
    let lines = problems.iter().map(|problem| match &folder {
        Some(folder) => problem.to_string().replace(folder, ""),
        None => problem.to_string(),
    });
    lines.collect()
}

#[track_caller]
fn check_file(text: &str, expected: &[&str]) {
    let file = file(text);
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    assert_eq!(told(&sources, Some(&file)), expected, "{text}");
}

#[track_caller]
fn check_set(set: &[&str], expected: &[&str]) {
    assert_eq!(told(&with_set(set), None), expected, "{set:?}");
}

#[track_caller]
fn check_environment(pairs: &[(&str, &str)], expected: &[&str]) {
    let sources = Sources { environment: environment(pairs), ..Sources::default() };
    assert_eq!(told(&sources, None), expected, "{pairs:?}");
}

#[test]
fn nothing_given_is_an_embedded_node_on_loopback_with_the_demo() {
    let config = loaded(&Sources::default()).config;
    assert_eq!(config.mode, Mode::Embedded);
    assert!(config.demo);
    assert_eq!(config.api.listen, SocketAddr::from(([127, 0, 0, 1], 8080)));
    assert_eq!(config.admin.listen, SocketAddr::from(([127, 0, 0, 1], 8081)));
    assert_eq!(config.embedded.dir, PathBuf::from("data"));
}

#[test]
fn set_wins_over_environment_over_file_over_default() {
    let file = file(
        "[kafka]\npartitions = 1\nreplication_factor = 1\ngroup = 'file'\n\
         [admission]\nuser_rate = 7\n",
    );
    let pairs =
        [("COUPOND_KAFKA__REPLICATION_FACTOR", "2"), ("COUPOND_KAFKA__GROUP", "environment")];
    let sources = Sources {
        file: Some(file.path.clone()),
        environment: environment(&pairs),
        set: vec!["kafka.group=first".into(), "kafka.group=set".into()],
    };
    let config = loaded(&sources).config;
    assert_eq!(config.kafka.partitions, 1);
    assert_eq!(config.kafka.replication_factor, 2);
    assert_eq!(config.kafka.group, "set");
    assert_eq!(config.admission.user_rate, 7);
    assert_eq!(config.admission.user_burst, 200);
}

#[test]
fn a_word_is_toml_if_it_can_be_and_the_text_itself_otherwise() {
    let config = loaded(&with_set(&[
        "kafka.brokers=a:9092, b:9092",
        "cql.nodes=[\"c:9042\", 'd:9042']",
        "embedded.dir=/srv/coupon data",
        "kafka.group=\"quoted\"",
        "admin.token=12345",
        "secret.key=00000000000000000000000000000000",
        "api.listen=127.0.0.1:0",
        "embedded.retention=12h",
        "admission.max_lag=1_000",
        "api.identity=header:X-User",
    ]))
    .config;
    assert_eq!(config.kafka.brokers, ["a:9092", "b:9092"]);
    assert_eq!(config.cql.nodes, ["c:9042", "d:9042"]);
    assert_eq!(config.embedded.dir, PathBuf::from("/srv/coupon data"));
    assert_eq!(config.kafka.group, "quoted");
    assert_eq!(config.admin.token.as_deref(), Some("12345"));
    assert_eq!(config.secret.as_deref(), Some("00000000000000000000000000000000"));
    assert_eq!(config.api.listen.port(), 0);
    assert_eq!(config.embedded.retention, Duration::from_secs(12 * 60 * 60));
    assert_eq!(config.admission.max_lag, 1_000);
    assert_eq!(config.api.identity, Identity::Header("x-user".into()));
}

#[test]
fn the_demo_is_for_embedded_nodes_unless_asked_for() {
    let distributed = ["mode=distributed", "kafka.brokers=a:1", "cql.nodes=b:1"];
    assert!(!loaded(&with_set(&distributed)).config.demo);
    let asked = [&distributed[..], &["demo=true"]].concat();
    assert!(loaded(&with_set(&asked)).config.demo);
}

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    check_file(
        include_str!("wrong_key.toml"),
        &[
            "colour: is not a setting; `coupond print-config --defaults` shows every setting \
             (node.toml:2)",
            "api.clock_margin: is 1, must be a duration from \"0s\" to \"1m\"; add the unit, \
             for example \"1s\" or \"1ms\" (node.toml:6)",
            "api.mode: is not a setting; did you mean mode? (node.toml:7)",
            "api.port: is not a setting; there are api.listen, api.identity, api.trust_network, \
             api.clock_margin, api.waiters_max (node.toml:8)",
            "api.waiters_max: is -1, must be a whole number from 0 to 1,000,000; give a number \
             in this range (node.toml:9)",
            "admin.tokn: is not a setting; did you mean admin.token? (node.toml:12)",
            "kafak.brokers: is not a setting; did you mean kafka.brokers? (node.toml:15)",
        ],
    );
}

#[test]
fn a_wrong_type_is_told_with_what_to_write() {
    check_file(
        "demo = 'yes'\nmode = 1\nkafka = 5\n[cql]\nnodes = [1]\n[embedded]\npartitions = '4'\n\
         retention = 1.5\nreserve_bytes = 99999999999999999999\n[embedded.dir]\nx = 1\n",
        &[
            "demo: is \"yes\", must be true or false; write true or false without quotes \
             (node.toml:1)",
            "mode: is 1, must be \"embedded\" or \"distributed\"; give such a text (node.toml:2)",
            "kafka: is a table, not a setting; set one of kafka.brokers, kafka.topic_prefix, \
             kafka.partitions, kafka.replication_factor, kafka.group, kafka.append_timeout \
             (node.toml:3)",
            "cql.nodes: is [1], must be a list of \"host:port\", at most 100; write for \
             example [\"10.0.0.1:9042\"] (node.toml:5)",
            "embedded.partitions: is \"4\", must be a whole number from 1 to 256; write a number \
             without quotes (node.toml:7)",
            "embedded.retention: is a number with a fraction, must be a duration from \"0s\" to \
             \"3650d\"; write for example \"1s\", \"250ms\" or \"7d\" (node.toml:8)",
            "embedded.reserve_bytes: is a number beyond 64 bits, must be a whole number from 0 \
             to 1,125,899,906,842,624; give a number in this range (node.toml:9)",
            "embedded.dir: is a table, must be the path of a folder; give such a text \
             (node.toml:10)",
        ],
    );
}

#[test]
fn what_is_not_toml_is_told_by_line() {
    let file = file("mode = \"embedded\"\nmode = \"embedded\"\n[api\n");
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    let told = told(&sources, Some(&file));
    assert!(told.iter().all(|line| line.starts_with("node.toml: is not TOML: ")), "{told:#?}");
    for line in ["(node.toml:2)", "(node.toml:3)"] {
        assert!(told.iter().any(|told| told.ends_with(line)), "{line} {told:#?}");
    }
}

#[test]
fn a_named_file_must_be_there_and_the_rest_is_checked_all_the_same() {
    let sources = Sources {
        file: Some(PathBuf::from("/nowhere/coupond.toml")),
        set: vec!["mode=both".into()],
        ..Sources::default()
    };
    assert_eq!(
        told(&sources, None),
        [
            "/nowhere/coupond.toml: cannot be read: No such file or directory (os error 2); name \
             a file that can be read (--config)",
            "mode: is \"both\", must be \"embedded\" or \"distributed\"; give such a text (--set)",
        ]
    );
}

const IDENTITY_RULE: &str = "\"trusted\" or \"header:NAME\" with the name of an HTTP header that \
                             HTTP and coupond do not use themselves";

#[test]
fn each_rule_of_a_single_key_is_checked() {
    for (set, rule) in [
        ("embedded.dir=", "the path of a folder"),
        ("embedded.partitions=0", "a whole number from 1 to 256"),
        ("kafka.brokers=a", "a list of \"host:port\", at most 100"),
        ("kafka.topic_prefix=a/b", "1 to 237 of A-Z, a-z, 0-9 and '.', '_', '-'"),
        ("kafka.append_timeout=5s", "a duration from \"100ms\" to \"4500ms\""),
        ("cql.keyspace=1a", "1 to 48 of a-z, 0-9 and '_', starting with a letter"),
        ("api.identity=header:", IDENTITY_RULE),
        ("api.identity=header:Host", IDENTITY_RULE),
        ("api.identity=header:content-type", IDENTITY_RULE),
        ("api.identity=header:Content-Length", IDENTITY_RULE),
        ("api.identity=header:Transfer-Encoding", IDENTITY_RULE),
        ("api.identity=header:Connection", IDENTITY_RULE),
        ("api.identity=header:Expect", IDENTITY_RULE),
        ("api.identity=header:Idempotency-Key", IDENTITY_RULE),
        ("api.identity=header:AUTHORIZATION", IDENTITY_RULE),
        ("api.identity=header:Prefer", IDENTITY_RULE),
        ("admission.user_rate=0", "a whole number from 1 to 1,000,000"),
        (
            "api.listen=localhost:8080",
            "an IP address and a port, as in \"127.0.0.1:8080\" or \"[::1]:8080\"",
        ),
    ] {
        let told = told(&with_set(&[set]), None);
        assert_eq!(told.len(), 1, "{set}: {told:?}");
        assert!(told[0].contains(&format!("must be {rule};")), "{set}: {told:?}");
    }
}

#[test]
fn rules_between_keys_name_where_the_value_comes_from() {
    check_set(
        &["mode=distributed"],
        &[
            "kafka.brokers: is empty, must name at least one if mode is \"distributed\"; set for \
             example kafka.brokers = [\"10.0.0.1:9092\"] (default)",
            "cql.nodes: is empty, must name at least one if mode is \"distributed\"; set for \
             example cql.nodes = [\"10.0.0.1:9042\"] (default)",
        ],
    );
    check_set(
        &["api.listen=0.0.0.0:8080", "api.identity=trusted"],
        &["api.identity: is \"trusted\" while api.listen is 0.0.0.0:8080, must be on loopback so \
           that not anybody can ask as anybody; set api.identity = \"header:NAME\", or \
           api.listen on 127.0.0.1, or api.trust_network = true if only a gateway reaches it \
           (--set)"],
    );
    check_set(
        &["admin.listen=[::]:8081"],
        &["admin.token: is not set while admin.listen is [::]:8081, must be set off loopback; \
           set admin.token (COUPOND_ADMIN__TOKEN), or admin.listen on 127.0.0.1 (default)"],
    );
    check_set(
        &["admin.listen=127.0.0.1:8080"],
        &["admin.listen: is 127.0.0.1:8080, must be another address than api.listen; give one of \
           them another port (--set)"],
    );
}

#[test]
fn rules_between_keys_leave_sound_combinations_alone() {
    for set in [
        &["api.listen=0.0.0.0:8080", "api.trust_network=true"][..],
        &["api.listen=0.0.0.0:8080", "api.identity=header:x-user"],
        &["api.listen=[::1]:8080", "admin.listen=[::ffff:127.0.0.1]:8081"],
        &["admin.listen=0.0.0.0:8081", "admin.token=letmein"],
        &["api.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0"],
        &["api.listen=127.0.0.2:8081"],
    ] {
        check_set(set, &[]);
    }
    let everywhere = with_set(&["api.listen=0.0.0.0:8081", "api.trust_network=true"]);
    assert_eq!(told(&everywhere, None).len(), 1);
}

#[test]
fn a_key_with_a_problem_of_its_own_is_not_blamed_twice() {
    check_set(
        &["mode=distributed", "kafka.brokers=a", "cql.nodes=b:1"],
        &["kafka.brokers: is \"a\", must be a list of \"host:port\", at most 100; write for \
           example [\"10.0.0.1:9092\"] (--set)"],
    );
}

#[test]
fn unknown_variables_are_problems_and_those_of_others_are_not() {
    check_environment(
        &[
            ("COUPOND_API__LISTEN", "127.0.0.1:0"),
            ("COUPOND_LOG", "debug"),
            ("COUPOND_ENGINES", "none"),
            ("COUPOND_TEST_SEED", "1"),
            ("COUPOND_SERVICE_HOST", "10.0.0.1"),
            ("COUPOND_PORT", "tcp://10.0.0.1:8080"),
            ("COUPOND_ADMIN_PORT_8081_TCP_ADDR", "10.0.0.1"),
            ("PATH", "/bin"),
        ],
        &[],
    );
    check_environment(
        &[("COUPOND_API__LISTN", "x"), ("COUPOND_API_LISTEN", "x"), ("COUPOND_FOO", "x")],
        &[
            "COUPOND_API__LISTN: is not a setting's environment variable; did you mean \
             COUPOND_API__LISTEN? (environment COUPOND_API__LISTN)",
            "COUPOND_API_LISTEN: is not a setting's environment variable; did you mean \
             COUPOND_API__LISTEN? (environment COUPOND_API_LISTEN)",
            "COUPOND_FOO: is not a setting's environment variable; unset it, or name a setting: \
             COUPOND_API__LISTEN is api.listen (environment COUPOND_FOO)",
        ],
    );
}

#[test]
fn a_set_without_an_equals_sign_is_told() {
    check_set(&["mode"], &["mode: has no '='; write --set key=value (--set)"]);
    check_set(&["secret.key: hush"], &["secret.key: has no '='; write --set key=value (--set)"]);
    check_set(&[" mode"], &["mode: has no '='; write --set key=value (--set)"]);
    for empty in ["", " "] {
        check_set(&[empty], &["\"\": is empty; write --set key=value (--set)"]);
    }
    check_set(&["'hush'"], &["\"…\": has no '='; write --set key=value (--set)"]);
    for hushed in ["=3", " = hush"] {
        check_set(&[hushed], &["\"=…\": has no key before '='; write --set key=value (--set)"]);
    }
}

proptest::proptest! {
    #[test]
    fn whatever_is_given_is_taken_or_told(
        text in "([a-z._]{0,12}|[\\[\\]{}=\"'#\n,0-9]|\\PC){0,40}",
        word in "\\PC{0,40}",
        key in 0..KEYS.len(),
    ) {
        let file = file(&text);
        let key = &KEYS[key];
        let sources = Sources {
            file: Some(file.path.clone()),
            environment: environment(&[(&key.variable(), &word)]),
            set: vec![format!("{}={word}", key.name), text.clone()],
        };
        if let Err(Problems(problems)) = load(&sources) {
            proptest::prop_assert!(!problems.is_empty());
        }
    }
}

#[test]
fn secrets_are_never_shown() {
    let key = "a key that nobody should ever read";
    let pairs = [("COUPOND_SECRET__KEY", key), ("COUPOND_ADMIN__TOKEN", "letmein")];
    let sources = Sources { environment: environment(&pairs), ..Sources::default() };
    let loaded = loaded(&sources);
    let shown = loaded.print();
    assert!(shown.contains("\n# key is set and hidden # environment COUPOND_SECRET__KEY\n"));
    for text in [shown, format!("{:?}", loaded.config)] {
        assert!(!text.contains(key) && !text.contains("letmein"), "{text}");
    }
    check_set(
        &["secret.key=too short"],
        &["secret.key: is 9 bytes long, must be at least 32 bytes long; give such a text (--set)"],
    );
    check_file(
        "[secret]\nkey = 123456\n",
        &["secret.key: is of another kind, must be at least 32 bytes long; give such a text \
           (node.toml:2)"],
    );
}

#[test]
fn printed_settings_can_be_read_again() {
    let set = ["kafka.brokers=a:1,b:2", "embedded.retention=90s", "embedded.dir=a\"b\\c"];
    let before = loaded(&with_set(&set));
    let printed = file(&before.print());
    let after = loaded(&Sources { file: Some(printed.path.clone()), ..Sources::default() });
    assert_eq!(format!("{:?}", after.config), format!("{:?}", before.config));
    assert!(before.print().starts_with("mode = \"embedded\" # default\n"), "{}", before.print());
    assert!(before.print().contains("\nbrokers = [\"a:1\", \"b:2\"] # --set\n"));
    assert_eq!(
        before.summary(),
        "built-in defaults, 0 from the environment, 3 by --set: no problem"
    );
}

#[test]
fn the_documented_file_is_current_and_changes_nothing() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/coupond.toml");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        text,
        documented(),
        "write it with `cargo run -- print-config --defaults > config/coupond.toml`"
    );
    let sources = Sources { file: Some(PathBuf::from(path)), ..Sources::default() };
    let defaults = format!("{:?}", Config::default());
    assert_eq!(format!("{:?}", loaded(&sources).config), defaults);

    let settings: String = text.lines().filter_map(uncommented).map(|line| line + "\n").collect();
    let file = file(&settings);
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    assert_eq!(format!("{:?}", loaded(&sources).config), defaults, "{settings}");
}

/// A line of the documented file as it would set something; secrets have no default.
fn uncommented(line: &str) -> Option<String> {
    let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
    (!line.starts_with("# ") && !setting.contains('…')).then(|| setting.to_owned())
}

#[test]
fn every_file_in_the_config_folder_has_no_problem() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        loaded(&Sources { file: Some(file), ..Sources::default() });
    }
}

#[test]
fn keys_are_distinct_and_tables_stand_together() {
    let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
    let mut tables: Vec<_> = KEYS.iter().map(|key| key.split().0).collect();
    tables.dedup();
    let distinct: BTreeSet<_> = tables.iter().collect();
    assert_eq!(distinct.len(), tables.len(), "{tables:?}");
}
