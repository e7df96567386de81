//! The documented file of all settings, as it is shipped.

use super::*;

#[test]
fn the_shipped_file_is_current() {
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
