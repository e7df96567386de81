//! Settings of an embedded node for tests: free ports, no demo campaign, and no minimum of free
//! space on the disk.

use std::path::Path;

use coupond::config::Config;

/// Returns the settings, with the data in its own folder below `folder`.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config { demo: false, ..Config::default() };
    config.embedded.dir = folder.join("data");
    config.embedded.reserve_bytes = 0;
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.api.drain = std::time::Duration::ZERO;
    config.admin.listen = "127.0.0.1:0".parse().expect("an address");
    config
}
