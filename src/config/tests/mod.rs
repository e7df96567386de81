//! Layers, rules, problems and printed files of a configuration.

mod admin_keys;
mod identity;
mod links;
mod shipped;

use std::{collections::BTreeSet, ffi::OsString, path::PathBuf, time::Duration};

use super::{settings::KEYS, *};

/// A file in a temporary folder.
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

/// Returns the problems of `sources`, without the path of the temporary folder.
fn problems(sources: &Sources, folder: Option<&File>) -> Vec<String> {
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
    assert_eq!(problems(&sources, Some(&file)), expected, "{text}");
}

#[track_caller]
fn check_set(set: &[&str], expected: &[&str]) {
    assert_eq!(problems(&with_set(set), None), expected, "{set:?}");
}

#[track_caller]
fn check_environment(pairs: &[(&str, &str)], expected: &[&str]) {
    let sources = Sources { environment: environment(pairs), ..Sources::default() };
    assert_eq!(problems(&sources, None), expected, "{pairs:?}");
}

#[test]
fn defaults_are_an_embedded_demo_on_loopback() {
    let config = loaded(&Sources::default()).config;
    assert_eq!(config.mode, Mode::Embedded);
    assert!(config.demo);
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:8081");
    assert_eq!(config.embedded.dir, PathBuf::from("data"));
}

#[test]
fn set_beats_environment_beats_file() {
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
fn words_are_parsed_as_toml_or_else_as_text() {
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
    assert_eq!(config.admin.token, Some("12345".into()));
    assert_eq!(config.secret.exposed().as_deref(), Some("00000000000000000000000000000000"));
    assert_eq!(config.api.listen.to_string(), "127.0.0.1:0");
    assert_eq!(config.embedded.retention, Duration::from_secs(12 * 60 * 60));
    assert_eq!(config.admission.max_lag, 1_000);
    assert_eq!(config.api.identity, Identity::Header("x-user".into()));
}

#[test]
fn the_demo_is_on_by_default_if_embedded() {
    let distributed = ["mode=distributed", "kafka.brokers=a:1", "cql.nodes=b:1"];
    assert!(!loaded(&with_set(&distributed)).config.demo);
    let asked = [&distributed[..], &["demo=true"]].concat();
    assert!(loaded(&with_set(&asked)).config.demo);
}

#[test]
fn every_problem_is_reported_at_once() {
    check_file(
        include_str!("../wrong_key.toml"),
        &[
            "colour: unknown setting; run `coupond print-config --defaults` for a list of all \
             settings (node.toml:2)",
            "api.clock_margin: is 1, must be a duration from \"0s\" to \"1m\"; add the unit, \
             for example \"1s\" or \"1ms\" (node.toml:6)",
            "api.mode: unknown setting; did you mean mode? (node.toml:7)",
            "api.port: unknown setting; the settings of this table are api.listen, api.tls.cert_file, \
             api.tls.key_file, api.tls.client_ca_file, api.idle_timeout, api.drain, api.hosts, api.identity, \
             api.gateway_token, api.gateway_token_file, api.jwt.keys_file, api.jwt.jwks_url, api.jwt.ca_file, \
             api.jwt.issuer, api.jwt.audience, api.jwt.claim, api.jwt.leeway, api.cors_origins, api.path_prefix, \
             api.trust_network, api.clock_margin, api.waiters_max (node.toml:8)",
            "api.waiters_max: is -1, must be a whole number from 0 to 1,000,000; use a number \
             in this range (node.toml:9)",
            "admin.tokn: unknown setting; did you mean admin.token? (node.toml:12)",
            "kafak.brokers: unknown setting; did you mean kafka.brokers? (node.toml:15)",
        ],
    );
}

#[test]
fn wrong_types_are_reported_with_a_remedy() {
    check_file(
        "demo = 'yes'\nmode = 1\nkafka = 5\n[cql]\nnodes = [1]\n[embedded]\npartitions = '4'\n\
         retention = 1.5\nreserve_bytes = 99999999999999999999\n[embedded.dir]\nx = 1\n",
        &[
            "demo: is \"yes\", must be true or false; write true or false without quotes \
             (node.toml:1)",
            "mode: is 1, must be \"embedded\" or \"distributed\"; write one of these (node.toml:2)",
            "kafka: is a table, not a setting; set one of kafka.brokers, kafka.topic_prefix, \
             kafka.partitions, kafka.replication_factor, kafka.retention, kafka.group, \
             kafka.append_timeout, kafka.security, kafka.ca_file, kafka.cert_file, kafka.key_file, \
             kafka.sasl.mechanism, kafka.sasl.user, kafka.sasl.password, kafka.sasl.password_file, \
             kafka.properties (node.toml:3)",
            "cql.nodes: is [1], must be a list of \"host:port\", at most 100; write for \
             example [\"10.0.0.1:9042\"] (node.toml:5)",
            "embedded.partitions: is \"4\", must be a whole number from 1 to 256; write a number \
             without quotes (node.toml:7)",
            "embedded.retention: is a number with a fraction, must be a duration from \"0s\" to \
             \"3650d\"; write for example \"1s\", \"250ms\" or \"7d\" (node.toml:8)",
            "embedded.reserve_bytes: is a number beyond 64 bits, must be a whole number from 0 \
             to 1,125,899,906,842,624; use a number in this range (node.toml:9)",
            "embedded.dir: is a table, must be the path of a folder; write for example \"data\" or \
             \"/var/lib/coupond\" (node.toml:10)",
        ],
    );
}

#[test]
fn invalid_toml_is_reported_by_line() {
    let file = file("mode = \"embedded\"\nmode = \"embedded\"\n[api\n");
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    let found = problems(&sources, Some(&file));
    assert!(found.iter().all(|line| line.starts_with("node.toml: invalid TOML: ")), "{found:#?}");
    for line in ["(node.toml:2)", "(node.toml:3)"] {
        assert!(found.iter().any(|found| found.ends_with(line)), "{line} {found:#?}");
    }
}

#[test]
fn a_missing_file_hides_no_other_problem() {
    let sources = Sources {
        file: Some(PathBuf::from("/nowhere/coupond.toml")),
        set: vec!["mode=both".into()],
        ..Sources::default()
    };
    assert_eq!(
        problems(&sources, None),
        [
            "/nowhere/coupond.toml: cannot be read: No such file or directory (os error 2); check \
             the path and its permissions (--config)",
            "mode: is \"both\", must be \"embedded\" or \"distributed\"; write one of these (--set)",
        ]
    );
}

const LISTEN_RULE: &str =
    "an IP address and a port, or unix: and the absolute path of a socket (at most 107 bytes)";

const IDENTITY_RULE: &str = "\"trusted\", \"jwt\" or \"header:NAME\", where NAME is an HTTP header that \
                             clients, proxies and coupond use for nothing else";

#[test]
fn each_rule_of_a_key_is_checked() {
    for (set, rule) in [
        ("embedded.dir=", "the path of a folder"),
        ("embedded.partitions=0", "a whole number from 1 to 256"),
        ("kafka.brokers=a", "a list of \"host:port\", at most 100"),
        ("kafka.topic_prefix=a/b", "1 to 237 of A-Z, a-z, 0-9 and '.', '_', '-'"),
        ("kafka.append_timeout=5s", "a duration from \"100ms\" to \"4500ms\""),
        ("cql.keyspace=1a", "1 to 48 of a-z, 0-9 and '_', starting with a letter"),
        ("api.identity=header:", IDENTITY_RULE),
        ("api.identity=header:AUTHORIZATION", IDENTITY_RULE),
        ("api.identity=JWT", IDENTITY_RULE),
        ("admission.user_rate=0", "a whole number from 1 to 1,000,000"),
        ("api.listen=localhost:8080", LISTEN_RULE),
        ("admin.listen=unix:run/admin.sock", LISTEN_RULE),
        ("api.idle_timeout=4s", "a duration from \"5s\" to \"650s\""),
        ("api.drain=6s", "a duration from \"0s\" to \"5s\""),
    ] {
        let found = problems(&with_set(&[set]), None);
        assert_eq!(found.len(), 1, "{set}: {found:?}");
        assert!(found[0].contains(&format!("must be {rule};")), "{set}: {found:?}");
    }
}

#[test]
fn rules_between_keys_name_the_origin() {
    check_set(
        &["mode=distributed"],
        &[
            "kafka.brokers: is empty, must name at least one server if mode is \"distributed\"; set for \
             example kafka.brokers = [\"10.0.0.1:9092\"] (default)",
            "cql.nodes: is empty, must name at least one server if mode is \"distributed\"; set for \
             example cql.nodes = [\"10.0.0.1:9042\"] (default)",
        ],
    );
    check_set(
        &["api.listen=0.0.0.0:8080", "api.identity=trusted"],
        &[
            "api.identity: is \"trusted\" while api.listen is 0.0.0.0:8080, which is not loopback: any \
           client could act as any user; set api.identity = \"jwt\" or \"header:NAME\", or api.listen \
           to an address of loopback, or api.trust_network = true if only a gateway can reach it (--set)",
        ],
    );
    check_set(
        &["admin.listen=[::]:8081"],
        &["admin.token: is not set while admin.listen is [::]:8081, which is not loopback; set \
           admin.token_file or [[admin.keys]], or admin.listen to an address of loopback (default)"],
    );
    check_set(
        &["admin.listen=0.0.0.0:8081", "admin.token=fifteen-letters"],
        &[
            "admin.token: is shorter than 16 bytes while admin.listen is 0.0.0.0:8081, which is not \
           loopback; generate a token, for example with `openssl rand -hex 32`, or set admin.listen \
           to an address of loopback (--set)",
        ],
    );
    check_set(
        &["admin.listen=127.0.0.1:8080"],
        &[
            "admin.listen: is 127.0.0.1:8080, which collides with api.listen; use another port or path for one \
           of them (--set)",
        ],
    );
}

#[test]
fn valid_combinations_are_accepted() {
    for set in [
        &["api.listen=0.0.0.0:8080", "api.trust_network=true"][..],
        &[
            "api.listen=0.0.0.0:8080",
            "api.identity=header:x-user",
            "api.gateway_token=sixteen-letters.",
        ],
        &["api.identity=header:x-user", "api.gateway_token=short"],
        &["api.listen=[::1]:8080", "admin.listen=[::ffff:127.0.0.1]:8081"],
        &["admin.listen=0.0.0.0:8081", "admin.token=sixteen-letters."],
        &["admin.listen=127.0.0.1:8081", "admin.token=letmein"],
        &["api.hosts=coupons.example.com, shop", "admin.hosts=[]"],
        &["api.listen=127.0.0.1:0", "admin.listen=127.0.0.1:0"],
        &["api.listen=127.0.0.2:8081"],
    ] {
        check_set(set, &[]);
    }
    let everywhere = with_set(&["api.listen=0.0.0.0:8081", "api.trust_network=true"]);
    assert_eq!(problems(&everywhere, None).len(), 1);
}

#[test]
fn a_broken_key_is_reported_once() {
    check_set(
        &["mode=distributed", "kafka.brokers=a", "cql.nodes=b:1"],
        &["kafka.brokers: is \"a\", must be a list of \"host:port\", at most 100; write for \
           example [\"10.0.0.1:9092\"] (--set)"],
    );
}

#[test]
fn hosts_have_no_ports() {
    check_set(
        &["api.hosts=coupons.example.com:8080"],
        &[
            "api.hosts: is \"coupons.example.com:8080\", must be a list of host names without ports, \
           at most 100; write for example [\"coupons.example.com\"] (--set)",
        ],
    );
}

#[test]
fn a_path_prefix_begins_and_does_not_end_with_a_slash() {
    for good in ["", "/shop", "/shop/v1.0/~coupons_-"] {
        check_set(&[&format!("api.path_prefix={good}")], &[]);
    }
    for bad in ["shop", "/", "/shop/", "/a//b", "/a?b", "/a b", "/\u{e9}"] {
        assert_eq!(
            problems(&with_set(&[&format!("api.path_prefix={bad}")]), None).len(),
            1,
            "{bad}"
        );
    }
}

#[test]
fn unknown_variables_are_reported() {
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
            "COUPOND_API__LISTN: unknown environment variable; did you mean \
             COUPOND_API__LISTEN? (environment COUPOND_API__LISTN)",
            "COUPOND_API_LISTEN: unknown environment variable; did you mean \
             COUPOND_API__LISTEN? (environment COUPOND_API_LISTEN)",
            "COUPOND_FOO: unknown environment variable; unset it, or name a setting: \
             COUPOND_API__LISTEN sets api.listen (environment COUPOND_FOO)",
        ],
    );
}

#[test]
fn a_set_needs_an_equals_sign() {
    check_set(&["mode"], &["mode: has no '='; use --set key=value (--set)"]);
    check_set(&["secret.key: hush"], &["secret.key: has no '='; use --set key=value (--set)"]);
    check_set(&[" mode"], &["mode: has no '='; use --set key=value (--set)"]);
    for empty in ["", " "] {
        check_set(&[empty], &["\"\": is empty; use --set key=value (--set)"]);
    }
    check_set(&["'hush'"], &["\"…\": has no '='; use --set key=value (--set)"]);
    for hushed in ["=3", " = hush"] {
        check_set(&[hushed], &["\"=…\": has no key before '='; use --set key=value (--set)"]);
    }
}

proptest::proptest! {
    #[test]
    fn any_input_is_accepted_or_reported(
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
fn secrets_are_never_printed() {
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
        &[
            "secret.key: is 9 bytes long, must be at least 32 bytes long; generate one, for example \
           with `openssl rand -hex 32` (--set)",
        ],
    );
    check_file(
        "[secret]\nkey = 123456\n",
        &[
            "secret.key: is not a text, must be at least 32 bytes long; generate one, for example with \
           `openssl rand -hex 32` (node.toml:2)",
        ],
    );
}

#[test]
fn printed_settings_can_be_loaded() {
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
fn what_a_layer_sets_is_explicit() {
    let file = file("[api]\nwaiters_max = 10000\n");
    let sources = Sources {
        file: Some(file.path.clone()),
        environment: environment(&[("COUPOND_ADMISSION__MAX_LAG", "7")]),
        ..with_set(&["embedded.partitions=4"])
    };
    let explicit = loaded(&sources).explicit();
    let set = ["api.waiters_max", "admission.max_lag", "embedded.partitions"];
    assert!(set.iter().all(|key| explicit.has(key)), "also to the default: {explicit:?}");
    assert!(!explicit.has("admission.inflight_max"));
}

/// Uncomments a setting of the documented file. Secrets have no default.
fn uncommented(line: &str) -> Option<String> {
    let setting = line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line);
    (!line.starts_with("# ") && !setting.contains('…')).then(|| setting.to_owned())
}

#[test]
fn every_shipped_file_is_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        loaded(&Sources { file: Some(file), ..Sources::default() });
    }
}

#[test]
fn keys_of_a_table_stand_together() {
    let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
    let mut tables: Vec<_> = KEYS.iter().map(|key| key.split().0).collect();
    tables.dedup();
    let distinct: BTreeSet<_> = tables.iter().collect();
    assert_eq!(distinct.len(), tables.len(), "{tables:?}");
}
