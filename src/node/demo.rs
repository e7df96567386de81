//! The demo campaign, and the banner with commands to try.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::Node;
use crate::{
    api::service::{Basis, Service, ServiceError},
    config::{Config, Identity, Listen, Mode},
    domain::{code::CodeFormat, definition::Terms, ids::CampaignId},
};

/// Id of the demo campaign.
const CAMPAIGN: &str = "demo";

/// Who makes it, in its change.
const BY: &str = "coupond";

/// Coupons of the demo campaign.
const QUOTA: u32 = 1_000;

/// Pause between two attempts to define it. The first ones fail while the node takes over its
/// partitions.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// Attempts to define it before the node gives up.
const ATTEMPTS_MAX: u32 = 20;

/// Defines the demo campaign unless a campaign of this id exists.
pub(super) async fn define(service: Arc<dyn Service>) {
    let Ok(campaign) = CampaignId::parse(CAMPAIGN) else { return };
    let code = CodeFormat::with(Some("DEMO-".to_owned()), None, None);
    let terms = Terms { code, ..Terms::of(QUOTA) };
    for _ in 0..ATTEMPTS_MAX {
        match service.define(campaign.clone(), terms.clone(), Basis::Absent, BY).await {
            // An operator may have defined this id with other terms, which stay.
            Ok(_) | Err(ServiceError::PreconditionFailed { .. }) => return,
            Err(error) => tracing::debug!(%error, "defining the demo campaign failed, retrying"),
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    tracing::warn!("demo campaign not defined, giving up");
}

/// Logs the addresses of the node. Prints them with commands to try to the standard output, where
/// the banner does not mix with log lines, if that is a terminal or the demo is on.
pub(super) fn announce(config: &Config, node: &Node) {
    let (api, admin) = (&node.api, &node.admin);
    let (api_tls, admin_tls) =
        (config.api.tls_cert_file.is_some(), config.admin.tls_cert_file.is_some());
    tracing::info!(%api, %admin, mode = config.mode.name(), "node started");
    if !std::io::stdout().is_terminal() && !config.demo {
        return;
    }
    let mode = match config.mode {
        Mode::Embedded => format!("embedded, data in {}", config.embedded.dir.display()),
        Mode::Distributed => "distributed".to_owned(),
    };
    let mut lines = vec![
        format!("coupond {} · {mode}", env!("CARGO_PKG_VERSION")),
        format!("  public {}   admin {}", api.url(api_tls), admin.url(admin_tls)),
    ];
    if config.demo {
        lines.push(String::new());
        let program = std::env::args().next().unwrap_or_else(|| "coupond".to_owned());
        lines.extend(hints(config, &program, api, admin));
    }
    // A closed standard output loses only the banner.
    let _ = writeln!(std::io::stdout(), "\n{}\n", lines.join("\n"));
}

/// Returns commands that fit this configuration. A configured token is secret, so that the reader
/// fills it in.
fn hints(config: &Config, program: &str, api: &Listen, admin: &Listen) -> [String; 4] {
    let defaults = Config::default();
    let (api_tls, admin_tls) = (&config.api.tls_cert_file, &config.admin.tls_cert_file);
    let (api_url, admin_url) = (api.url(api_tls.is_some()), admin.url(admin_tls.is_some()));
    let url = quoted;
    let moved = |set: &Listen, default: &Listen, listens: &Listen| set != default || set != listens;
    let mut issue = format!("{} issue {CAMPAIGN} ada", quoted(program));
    let mut target = match api {
        Listen::Tcp(_) => quoted(&format!("{api_url}/coupon/issue")),
        Listen::Unix(path) => format!(
            "--unix-socket {} http://localhost/coupon/issue",
            quoted(&path.display().to_string())
        ),
    };
    if api_tls.is_some() {
        target = format!("--cacert \"$CA\" {target}");
    }
    let mut curl =
        format!("curl -s {target} -H 'content-type: application/json' -H 'prefer: wait=5'");
    let mut show = format!("{} campaign show {CAMPAIGN}", quoted(program));
    if moved(&config.api.listen, &defaults.api.listen, api) {
        issue += &format!(" --api {}", url(&api_url));
    }
    if let Identity::Header(name) = &config.api.identity {
        issue += &format!(" --set {}", quoted(&format!("api.identity=header:{name}")));
        curl += &format!(" -H {}", quoted(&format!("{name}: bob")));
    }
    if config.api.identity == Identity::Jwt {
        issue += " --user-token-file FILE";
        curl += " -H \"authorization: Bearer $(cat FILE)\"";
    }
    if config.api.gateway_token.is_some() {
        curl += " -H \"x-coupond-gateway: $GATEWAY_TOKEN\"";
    }
    curl += &format!(" -d '{{\"campaign_id\":\"{CAMPAIGN}\",\"user_id\":\"bob\"}}'");
    if moved(&config.admin.listen, &defaults.admin.listen, admin) {
        show += &format!(" --admin {}", url(&admin_url));
    }
    if api_tls.is_some() {
        issue += " --ca \"$CA\"";
    }
    if admin_tls.is_some() {
        show += " --ca \"$CA\"";
    }
    let mut title = "Try, with the demo campaign:".to_owned();
    if config.admin.token.is_some() {
        title = "Try, with the demo campaign ($TOKEN is what admin.token is set to):".to_owned();
        show += " --token \"$TOKEN\"";
    } else if config.embedded.dir != defaults.embedded.dir {
        show += &format!(" --set {}", quoted(&folder_setting(&config.embedded.dir)));
    }
    [title, format!("  {issue}"), format!("  {curl}"), format!("  {show}")]
}

/// Returns `embedded.dir` for `--set`: bare, or quoted where TOML would read a number or a date.
fn folder_setting(folder: &Path) -> String {
    let folder = folder.display().to_string();
    match toml::de::DeValue::parse(&folder) {
        Ok(_) => format!("embedded.dir='{folder}'"),
        Err(_) => format!("embedded.dir={folder}"),
    }
}

/// Quotes `word` for a shell. Paths and addresses of a configuration hold no NUL byte, the only
/// thing that cannot be quoted.
fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.to_owned(), Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: [&str; 4]) {
        let mut config = Config::default();
        change(&mut config);
        let (api, admin) = (&config.api.listen, &config.admin.listen);
        assert_eq!(hints(&config, "coupond", api, admin), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_existing_demo_campaign_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { demo: false, ..Config::default() };
        config.embedded.dir = folder.path().join("data");
        config.embedded.reserve_bytes = 0;
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.api.drain = Duration::ZERO;
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        let node = Node::start(&config).await.unwrap();
        let url = format!("http://{}/admin/campaigns/{CAMPAIGN}", node.admin);
        let theirs = reqwest::Client::new().put(url).bearer_auth(&node.admin_token);
        let defined = theirs.json(&serde_json::json!({ "quota": 7 })).send().await.unwrap();
        assert_eq!(defined.status(), 201);
        let defining = define(node.core.service.clone());
        let within = ATTEMPT_PAUSE * (ATTEMPTS_MAX / 2);
        tokio::time::timeout(within, defining).await.expect("no second attempt");
        node.stop().await;
    }

    const TITLE: &str = "Try, with the demo campaign:";
    const ISSUE: &str = "  coupond issue demo ada";
    const CURL: &str = "  curl -s http://127.0.0.1:8080/coupon/issue \
                        -H 'content-type: application/json' -H 'prefer: wait=5' \
                        -d '{\"campaign_id\":\"demo\",\"user_id\":\"bob\"}'";
    const SHOW: &str = "  coupond campaign show demo";

    #[test]
    fn defaults_need_no_options() {
        check(|_| {}, [TITLE, ISSUE, CURL, SHOW]);
    }

    #[test]
    fn an_identity_header_is_in_the_commands() {
        let issue = format!("{ISSUE} --set 'api.identity=header:x-user'");
        let curl = CURL.replace(" -d ", " -H 'x-user: bob' -d ");
        let identity = Identity::Header("x-user".to_owned());
        check(|config| config.api.identity = identity, [TITLE, &issue, &curl, SHOW]);
    }

    #[test]
    fn tokens_of_users_and_gateways_are_in_the_commands() {
        let issue = format!("{ISSUE} --user-token-file FILE");
        let headers = " -H \"authorization: Bearer $(cat FILE)\" \
                       -H \"x-coupond-gateway: $GATEWAY_TOKEN\" -d ";
        let curl = CURL.replace(" -d ", headers);
        let change = |config: &mut Config| {
            config.api.identity = Identity::Jwt;
            config.api.gateway_token = Some("a-secret".into());
        };
        check(change, [TITLE, &issue, &curl, SHOW]);
    }

    #[test]
    fn a_configured_token_is_not_printed() {
        let title = "Try, with the demo campaign ($TOKEN is what admin.token is set to):";
        let show = format!("{SHOW} --token \"$TOKEN\"");
        let token = Some("a-secret".into());
        check(|config| config.admin.token = token, [title, ISSUE, CURL, &show]);
    }

    #[test]
    fn a_folder_is_quoted() {
        for (folder, expected) in [
            ("/var/lib/coupond", "'embedded.dir=/var/lib/coupond'"),
            ("my data", "'embedded.dir=my data'"),
            ("it's", r#""embedded.dir=it's""#),
            ("2026", r#""embedded.dir='2026'""#),
        ] {
            let show = format!("{SHOW} --set {expected}");
            check(|config| config.embedded.dir = folder.into(), [TITLE, ISSUE, CURL, &show]);
        }
    }

    #[test]
    fn unspecified_addresses_become_loopback() {
        for (listen, reached) in [("0.0.0.0:9000", "127.0.0.1:9000"), ("[::]:9000", "[::1]:9000")] {
            let url = quoted(&format!("http://{reached}"));
            let issue = format!("{ISSUE} --api {url}");
            let to = quoted(&format!("http://{reached}/coupon/issue"));
            let curl = CURL.replace("http://127.0.0.1:8080/coupon/issue", &to);
            let show = format!("{SHOW} --admin {url}");
            let change = |config: &mut Config| {
                config.api.listen = listen.parse().unwrap();
                config.admin.listen = listen.parse().unwrap();
            };
            check(change, [TITLE, &issue, &curl, &show]);
        }
    }
}
