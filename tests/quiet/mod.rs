//! Settings of an embedded node that a test starts: on free ports, without a demo campaign, however
//! full the disk is.

use std::path::Path;

use coupond::config::Config;

/// With its data in a folder of its own below `folder`.
pub(crate) fn config(folder: &Path) -> Config {
    let mut config = Config { demo: false, ..Config::default() };
    config.embedded.dir = folder.join("data");
    config.embedded.reserve_bytes = 0;
    config.api.listen = "127.0.0.1:0".parse().expect("an address");
    config.admin.listen = "127.0.0.1:0".parse().expect("an address");
    config
}
