//! What a newcomer sees: a banner, an open campaign, and what to try next.

use std::{
    io::{IsTerminal, Write},
    sync::Arc,
    time::Duration,
};

use super::Node;
use crate::{
    api::desk::model::Desk,
    config::{Config, Mode},
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

/// Defines the demo campaign, if it is not there.
pub(super) async fn define(desk: Arc<dyn Desk>) {
    let Ok(campaign) = CampaignId::parse(CAMPAIGN) else { return };
    let terms = Terms {
        quota: QUOTA,
        per_user_limit: 1,
        opens_at: None,
        closes_at: None,
        code: CodeFormat::with(Some("DEMO-".to_owned()), None, None),
    };
    for _ in 0..ATTEMPTS_MAX {
        match desk.define(campaign.clone(), terms.clone()).await {
            Ok(_) => return,
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
        lines.extend(hints(config, node));
    }
    // Nobody reads it: nothing is lost.
    let _ = writeln!(std::io::stdout(), "\n{}\n", lines.join("\n"));
}

/// Commands that work as they stand, also where the node listens elsewhere than by default.
fn hints(config: &Config, node: &Node) -> [String; 4] {
    let (api, admin) = (node.api, node.admin);
    let defaults = Config::default();
    let program = std::env::args().next().unwrap_or_else(|| "coupond".to_owned());
    let api_flag = (config.api.listen != defaults.api.listen || api != config.api.listen)
        .then(|| format!(" --api http://{api}"));
    let moved = config.admin.listen != defaults.admin.listen || admin != config.admin.listen;
    let admin_flag = moved.then(|| format!(" --admin http://{admin}"));
    let dir_flag = (config.embedded.dir != defaults.embedded.dir)
        .then(|| format!(" --set embedded.dir={}", config.embedded.dir.display()));
    let (api_flag, admin_flag) = (api_flag.unwrap_or_default(), admin_flag.unwrap_or_default());
    let dir_flag = dir_flag.unwrap_or_default();
    [
        "Try, with the demo campaign:".to_owned(),
        format!("  {program} issue {CAMPAIGN} ada{api_flag}"),
        format!(
            "  curl -s http://{api}/coupon/issue -H 'content-type: application/json' \
             -H 'prefer: wait=5' -d '{{\"campaign_id\":\"{CAMPAIGN}\",\"user_id\":\"bob\"}}'"
        ),
        format!("  {program} campaign show {CAMPAIGN}{admin_flag}{dir_flag}"),
    ]
}
