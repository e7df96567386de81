//! TLS, logins, secrets from files and properties of the Kafka library.

use std::{os::unix::fs::PermissionsExt, path::Path};

use super::*;
use crate::tls::testing::Authority;

/// Writes a file into a temporary folder, with this mode.
fn written(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// Returns the problems of these settings, without the path of `folder`.
fn problems_in(folder: &Path, set: &[String]) -> Vec<String> {
    let sources = Sources { set: set.to_vec(), ..Sources::default() };
    let folder = format!("{}/", folder.display());
    problems(&sources, None).iter().map(|problem| problem.replace(&folder, "")).collect()
}

#[test]
fn a_login_needs_user_and_password() {
    check_set(
        &["kafka.security=sasl_tls", "cql.user=coupond"],
        &[
            "kafka.sasl.user: is not set while kafka.security is \"sasl_tls\"; set kafka.sasl.user \
             (default)",
            "kafka.sasl.password: is not set while kafka.security is \"sasl_tls\"; set \
             kafka.sasl.password_file (default)",
            "cql.password: is not set while cql.user is set; set cql.password_file (default)",
        ],
    );
    check_set(
        &["cql.password=hidden-one"],
        &["cql.user: is not set while there is a password; set cql.user (default)"],
    );
    check_set(
        &["kafka.sasl.mechanism=GSSAPI"],
        &["kafka.sasl.mechanism: is \"GSSAPI\", must be \"PLAIN\", \"SCRAM-SHA-256\" or \
           \"SCRAM-SHA-512\"; write the one for which the brokers have the user (--set)"],
    );
}

#[test]
fn what_has_no_use_is_refused() {
    check_set(
        &[
            "kafka.sasl.user=coupond",
            "kafka.sasl.password=hidden-one",
            "kafka.ca_file=/nowhere/ca.pem",
            "cql.tls.cert_file=/nowhere/me.pem",
        ],
        &[
            "kafka.ca_file: is set while kafka.security is \"plaintext\", which has no TLS; set \
             kafka.security = \"tls\", or leave it out (--set)",
            "kafka.sasl.user: is set while kafka.security is \"plaintext\", which has no login; set \
             kafka.security = \"sasl_plaintext\", or leave it out (--set)",
            "kafka.sasl.password: is set while kafka.security is \"plaintext\", which has no login; \
             set kafka.security = \"sasl_plaintext\", or leave it out (--set)",
            "kafka.ca_file: names /nowhere/ca.pem, which cannot be read: I/O error: No such file or \
             directory (os error 2); check the path, its permissions and that the file is PEM (--set)",
            "cql.tls.cert_file: is set while cql.tls.ca_file is not; set cql.tls.ca_file, which \
             turns TLS on; the authorities of the system are often in \
             /etc/ssl/certs/ca-certificates.crt (--set)",
            "cql.tls.key_file: is not set while cql.tls.cert_file is set; name the file of its \
             private key (default)",
            "cql.tls.cert_file: names /nowhere/me.pem, which cannot be read: I/O error: No such file \
             or directory (os error 2); check the path, its permissions and that the file is PEM \
             (--set)",
        ],
    );
}

#[test]
fn a_secret_comes_from_a_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let password = written(folder.path(), "password", "with space \n", 0o600);
    let key = written(folder.path(), "key", "0123456789abcdef0123456789abcdef\r\n", 0o400);
    let config = loaded(&with_set(&[
        "cql.user=coupond",
        &format!("cql.password_file={password}"),
        &format!("secret.key_file={key}"),
    ]))
    .config;
    assert_eq!(config.cql.password, Some("with space ".into()));
    assert_eq!(config.secret.exposed().as_deref(), Some("0123456789abcdef0123456789abcdef"));
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = written(folder.path(), "open", "hidden-one\n", 0o640);
    let empty = written(folder.path(), "empty", "\n", 0o600);
    let both = written(folder.path(), "both", "hidden-one\n", 0o600);
    let set = [
        "kafka.security=sasl_plaintext".to_owned(),
        "kafka.sasl.user=coupond".to_owned(),
        format!("kafka.sasl.password_file={open}"),
        "cql.user=coupond".to_owned(),
        format!("cql.password_file={empty}"),
        format!("secret.key_file={both}"),
        "admin.token=hidden-two".to_owned(),
        format!("admin.token_file={both}"),
    ];
    let expected = [
        "kafka.sasl.password_file: names open, which group or others may use (mode 640); run \
         `chmod 600 open` (--set)",
        "cql.password_file: names empty, whose content is 0 bytes long, must be 1 to 1,024 bytes \
         long; set the password of the user, or leave it out (--set)",
        "secret.key_file: names both, whose content is 10 bytes long, must be at least 32 bytes \
         long; generate one, for example with `openssl rand -hex 32` (--set)",
        "admin.token_file: is set, and admin.token too (--set); leave out admin.token (--set)",
    ];
    assert_eq!(problems_in(folder.path(), &set), expected);
}

#[test]
fn keys_of_certificates_are_secrets_too() {
    let folder = tempfile::tempdir().unwrap();
    let open = written(folder.path(), "open.pem", "", 0o644);
    let no_key = written(folder.path(), "none.pem", "", 0o600);
    let set = [
        "kafka.security=tls".to_owned(),
        format!("kafka.cert_file={open}"),
        format!("kafka.key_file={open}"),
        format!("cql.tls.ca_file={open}"),
        format!("cql.tls.key_file={no_key}"),
    ];
    let expected = [
        "kafka.cert_file: names open.pem, which holds no certificate in PEM; name a file with a \
         block BEGIN CERTIFICATE (--set)",
        "kafka.key_file: names open.pem, which group or others may use (mode 644); run `chmod 600 \
         open.pem` (--set)",
        "cql.tls.ca_file: names open.pem, which holds no certificate in PEM; name a file with a \
         block BEGIN CERTIFICATE (--set)",
        "cql.tls.cert_file: is not set while cql.tls.key_file is set; name the file of its \
         certificate (default)",
        "cql.tls.key_file: names none.pem, which holds no unencrypted private key in PEM; decrypt \
         it, for example with `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW` (--set)",
    ];
    assert_eq!(problems_in(folder.path(), &set), expected);
}

#[test]
fn the_files_of_a_listener_fit_each_other() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let files = authority.write_pair(folder.path());
    let ca = authority.write(folder.path(), "ca.pem").display().to_string();
    let [certificate, key] = [&files.certificate, &files.key].map(|path| path.display());
    let sound = [
        format!("api.tls.cert_file={certificate}"),
        format!("api.tls.key_file={key}"),
        format!("api.tls.client_ca_file={ca}"),
    ];
    assert_eq!(problems_in(folder.path(), &sound), [] as [&str; 0]);
    let (_, other) = authority.issue(&["localhost"]);
    let other = written(folder.path(), "other.key", &other, 0o600);
    let set = [
        format!("api.tls.cert_file={certificate}"),
        format!("api.tls.key_file={other}"),
        format!("admin.tls.client_ca_file={ca}"),
    ];
    let [pair, no_use] = &problems_in(folder.path(), &set)[..] else { panic!("two problems") };
    assert!(pair.starts_with("api.tls.cert_file: cannot be used: "), "{pair}");
    assert!(
        pair.ends_with("name a certificate and its own key (api.tls.key_file) (--set)"),
        "{pair}"
    );
    assert_eq!(
        no_use,
        "admin.tls.client_ca_file: is set while admin.tls.cert_file is not; set \
         admin.tls.cert_file and its key, which turn TLS on (--set)"
    );
    let half = [format!("admin.tls.cert_file={certificate}")];
    let expected = "admin.tls.key_file: is not set while admin.tls.cert_file is set; name the file \
                    of its private key (default)";
    assert_eq!(problems_in(folder.path(), &half), [expected]);
}

#[test]
fn secrets_in_the_open_warn() {
    let text = "[cql]\nuser = 'a'\npassword = 'hidden-one'\n";
    let file = file(text);
    let sources = |mode: u32| {
        std::fs::set_permissions(&file.path, PermissionsExt::from_mode(mode)).unwrap();
        let set = vec!["admin.token=hidden-two".to_owned()];
        Sources { file: Some(file.path.clone()), set, ..Sources::default() }
    };
    let on_line = "admin.token is on the command line, where every user of this machine can read \
                   it; use admin.token_file";
    assert_eq!(loaded(&sources(0o600)).warnings, [on_line]);
    let path = file.path.display();
    let in_file = format!(
        "{path} holds cql.password and may be read by others; run `chmod 600 {path}`, or use \
         cql.password_file"
    );
    assert_eq!(loaded(&sources(0o644)).warnings, [&in_file, on_line]);
}

#[test]
fn properties_go_to_the_library() {
    let file = file("[kafka.properties]\nsocket.nagle.disable = true\n\"client.id\" = 'mine'\n");
    let sources = Sources {
        file: Some(file.path.clone()),
        environment: environment(&[(
            "COUPOND_KAFKA__PROPERTIES__STATISTICS__INTERVAL__MS",
            "1000",
        )]),
        set: vec!["kafka.properties.ssl.key.password=hidden-one".to_owned()],
    };
    let loaded = loaded(&sources);
    let properties: Vec<_> = loaded.config.kafka.properties.iter().collect();
    assert_eq!(
        properties,
        [
            ("client.id", "mine"),
            ("socket.nagle.disable", "true"),
            ("ssl.key.password", "hidden-one"),
            ("statistics.interval.ms", "1000"),
        ]
    );
    let printed = loaded.print();
    assert!(printed.contains("\"client.id\" = \"mine\""), "{printed}");
    assert!(!printed.contains("hidden-one"), "{printed}");
    assert!(!format!("{:?}", loaded.config).contains("hidden-one"));
}

#[test]
fn properties_that_coupond_decides_are_refused() {
    let file = file(
        "[kafka.properties]\nacks = 1\nsasl.password = 'hidden-one'\nno.such = 1\nlog_level = 'x'\n\
         \"ssl.ca.pem\" = [1]\n",
    );
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    assert_eq!(
        problems(&sources, Some(&file)),
        [
            "kafka.properties.acks: is decided by coupond: an answer 2xx promises that the request \
             is in the log, once, in its campaign's partition; leave it out (node.toml:2)",
            "kafka.properties.sasl.password: has a setting of its own; set kafka.sasl.password_file \
             instead (node.toml:3)",
            "kafka.properties.no.such: is \"1\", which librdkafka refuses: No such configuration \
             property: \"no.such\"; see CONFIGURATION.md of librdkafka for the names and values of \
             its properties (node.toml:4)",
            "kafka.properties.log_level: is \"x\", which librdkafka refuses: Invalid value for \
             configuration property \"log_level\"; see CONFIGURATION.md of librdkafka for the names \
             and values of its properties (node.toml:5)",
            "kafka.properties.ssl.ca.pem: must be a text, a whole number, true or false; write the \
             value in quotes (node.toml:6)",
        ]
    );
}
