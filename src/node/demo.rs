//! What a newcomer sees: a banner, an open campaign, and what to try next.

use std::{
    io::{IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use super::Node;
use crate::{
    api::service::{Service, ServiceError},
    config::{Config, Identity, Mode},
    domain::{code::CodeFormat, definition::Terms, ids::CampaignId},
};

/// The demo campaign.
const CAMPAIGN: &str = "demo";

/// Coupons of the demo campaign.
const QUOTA: u32 = 1_000;

/// Pause between two attempts to define it, while the node's partitions are being taken over.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);

/// Attempts to define it before the node goes on without.
const ATTEMPTS_MAX: u32 = 20;

/// Defines the demo campaign, if there is none of this id.
pub(super) async fn define(service: Arc<dyn Service>) {
    let Ok(campaign) = CampaignId::parse(CAMPAIGN) else { return };
    let code = CodeFormat::with(Some("DEMO-".to_owned()), None, None);
    let terms = Terms { code, ..Terms::of(QUOTA) };
    for _ in 0..ATTEMPTS_MAX {
        match service.define(campaign.clone(), terms.clone()).await {
            // With what content is up to whoever defined it.
            Ok(_) | Err(ServiceError::AlreadyDefined { .. }) => return,
            Err(error) => tracing::debug!(%error, "demo campaign not defined yet"),
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
    tracing::warn!("demo campaign could not be defined");
}

/// Says where the node listens and, to a person, what to try next: on the standard output, where
/// it does not get between the lines of the log.
pub(super) fn announce(config: &Config, node: &Node) {
    let (api, admin) = (node.api, node.admin);
    tracing::info!(%api, %admin, mode = config.mode.name(), "node serves");
    if !std::io::stdout().is_terminal() && !config.demo {
        return;
    }
    let mode = match config.mode {
        Mode::Embedded => format!("embedded, data in {}", config.embedded.dir.display()),
        Mode::Distributed => "distributed".to_owned(),
    };
    let mut lines = vec![
        format!("coupond {} · {mode}", env!("CARGO_PKG_VERSION")),
        format!("  public http://{api}   admin http://{admin}"),
    ];
    if config.demo {
        lines.push(String::new());
        let program = std::env::args().next().unwrap_or_else(|| "coupond".to_owned());
        lines.extend(hints(config, &program, api, admin));
    }
    // Nobody reads it: nothing is lost.
    let _ = writeln!(std::io::stdout(), "\n{}\n", lines.join("\n"));
}

/// Commands that work as they stand, however the node is configured; only a token that was set is
/// left for the reader to fill in.
fn hints(config: &Config, program: &str, api: SocketAddr, admin: SocketAddr) -> [String; 4] {
    let defaults = Config::default();
    let url = |listen: SocketAddr| quoted(&format!("http://{}", reachable(listen)));
    let moved = |set, default, listens| set != default || set != listens;
    let mut issue = format!("{} issue {CAMPAIGN} ada", quoted(program));
    let mut curl = format!(
        "curl -s {} -H 'content-type: application/json' -H 'prefer: wait=5'",
        quoted(&format!("http://{}/coupon/issue", reachable(api)))
    );
    let mut show = format!("{} campaign show {CAMPAIGN}", quoted(program));
    if moved(config.api.listen, defaults.api.listen, api) {
        issue += &format!(" --api {}", url(api));
    }
    if let Identity::Header(name) = &config.api.identity {
        issue += &format!(" --set {}", quoted(&format!("api.identity=header:{name}")));
        curl += &format!(" -H {}", quoted(&format!("{name}: bob")));
    }
    curl += &format!(" -d '{{\"campaign_id\":\"{CAMPAIGN}\",\"user_id\":\"bob\"}}'");
    if moved(config.admin.listen, defaults.admin.listen, admin) {
        show += &format!(" --admin {}", url(admin));
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

/// `embedded.dir` as `--set` takes it: bare unless it would be read as something else than text.
fn folder_setting(folder: &Path) -> String {
    let folder = folder.display().to_string();
    match toml::de::DeValue::parse(&folder) {
        Ok(_) => format!("embedded.dir='{folder}'"),
        Err(_) => format!("embedded.dir={folder}"),
    }
}

/// Where whoever is on this machine reaches what listens there.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    listen
}

/// `word` as a shell takes it for one word.
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: [&str; 4]) {
        let mut config = Config::default();
        change(&mut config);
        let (api, admin) = (config.api.listen, config.admin.listen);
        assert_eq!(hints(&config, "coupond", api, admin), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn somebody_elses_demo_campaign_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { demo: false, ..Config::default() };
        config.embedded.dir = folder.path().join("data");
        config.embedded.reserve_bytes = 0;
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.admin.listen = "127.0.0.1:0".parse().unwrap();
        let node = Node::start(&config).await.unwrap();
        let url = format!("http://{}/admin/campaigns/{CAMPAIGN}", node.admin);
        let theirs = reqwest::Client::new().put(url).bearer_auth(&node.admin_token);
        let defined = theirs.json(&serde_json::json!({ "quota": 7 })).send().await.unwrap();
        assert_eq!(defined.status(), 201);
        let defining = define(node.service.clone());
        let within = ATTEMPT_PAUSE * (ATTEMPTS_MAX / 2);
        tokio::time::timeout(within, defining).await.expect("it is not tried again");
        node.stop().await;
    }

    const TITLE: &str = "Try, with the demo campaign:";
    const ISSUE: &str = "  coupond issue demo ada";
    const CURL: &str = "  curl -s http://127.0.0.1:8080/coupon/issue \
                        -H 'content-type: application/json' -H 'prefer: wait=5' \
                        -d '{\"campaign_id\":\"demo\",\"user_id\":\"bob\"}'";
    const SHOW: &str = "  coupond campaign show demo";

    #[test]
    fn by_default_nothing_has_to_be_said() {
        check(|_| {}, [TITLE, ISSUE, CURL, SHOW]);
    }

    #[test]
    fn who_is_asking_is_said_where_a_header_says_it() {
        let issue = format!("{ISSUE} --set api.identity=header:x-user");
        let curl = CURL.replace(" -d ", " -H 'x-user: bob' -d ");
        let identity = Identity::Header("x-user".to_owned());
        check(|config| config.api.identity = identity, [TITLE, &issue, &curl, SHOW]);
    }

    #[test]
    fn a_token_that_was_set_is_asked_for_and_not_printed() {
        let title = "Try, with the demo campaign ($TOKEN is what admin.token is set to):";
        let show = format!("{SHOW} --token \"$TOKEN\"");
        let token = Some("a-secret".into());
        check(|config| config.admin.token = token, [title, ISSUE, CURL, &show]);
    }

    #[test]
    fn a_folder_is_one_word_and_text() {
        for (folder, expected) in [
            ("/var/lib/coupond", "embedded.dir=/var/lib/coupond"),
            ("my data", "'embedded.dir=my data'"),
            ("it's", r"'embedded.dir=it'\''s'"),
            ("2026", r"'embedded.dir='\''2026'\'''"),
        ] {
            let show = format!("{SHOW} --set {expected}");
            check(|config| config.embedded.dir = folder.into(), [TITLE, ISSUE, CURL, &show]);
        }
    }

    #[test]
    fn who_listens_everywhere_is_reached_on_this_machine() {
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
