//! What a newcomer sees: a banner, an open campaign, and what to try next.

use std::{io::IsTerminal, sync::Arc, time::Duration};

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

/// Says where the node listens and, to a person, what to try next.
pub(super) fn announce(config: &Config, node: &Node) {
    let (api, admin) = (node.api, node.admin);
    tracing::info!(%api, %admin, mode = ?config.mode, "node serves");
    if !std::io::stderr().is_terminal() && !config.demo {
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
        lines.extend([
            String::new(),
            format!("Try, with the demo campaign of {QUOTA} coupons:"),
            format!("  coupond issue {CAMPAIGN} ada"),
            format!(
                "  curl -s http://{api}/coupon/issue -H 'content-type: application/json' \
                 -H 'prefer: wait=5' -d '{{\"campaign_id\":\"{CAMPAIGN}\",\"user_id\":\"ada\"}}'"
            ),
            format!("  coupond campaign show {CAMPAIGN}"),
        ]);
    }
    eprintln!("\n{}\n", lines.join("\n"));
}
