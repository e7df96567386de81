//! Flips single bits in a node's files: afterwards it answers as before, or refuses to answer.

use std::{path::PathBuf, time::Instant};

use coupond::random::Random;

use super::{
    how_many,
    image::{Image, folder, judge_all, print_header},
    judge::{Fate, read},
    origin::{Files, with_tables},
    runtime,
};

/// Most bits flipped in one file. Of larger files, a random sample is flipped.
const EVERY_BIT_MAX: usize = 4_096;

/// Returns `count` bits to flip: all bits of small files, and a sample of large files by size.
fn flips(files: &Files, count: usize) -> Vec<(PathBuf, usize)> {
    let mut flips = Vec::new();
    let mut large = Vec::new();
    for (path, bytes) in files.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        if bytes.len() * 8 <= EVERY_BIT_MAX {
            flips.extend((0..bytes.len() * 8).map(|bit| (path.clone(), bit)));
        } else {
            large.push((path, bytes.len() * 8));
        }
    }
    let total: usize = large.iter().map(|(_, bits)| bits).sum();
    let mut draw = Random(7);
    // At most a third of the bits come from small files.
    while flips.len() > count / 3 {
        let place = draw.index(flips.len());
        flips.swap_remove(place);
    }
    while flips.len() < count {
        let mut bit = draw.index(total);
        for (path, bits) in &large {
            if bit < *bits {
                flips.push(((*path).clone(), bit));
                break;
            }
            bit -= bits;
        }
    }
    flips
}

/// Hides panics of the database over damaged files, which the tests only count. Panics of the tests
/// are printed.
fn hide_panics_of_the_database() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_ours = panic.location().is_none_or(|place| place.file().starts_with("tests/"));
        if is_ours {
            print(panic);
        }
    }));
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let origin = folder();
    let [journal_only, _, with_tables] =
        runtime().block_on(with_tables(origin.path(), how_many(60, 200)));
    hide_panics_of_the_database();
    print_header();
    for (what, files, few, all) in [
        ("bits flipped, journal only", &journal_only, 200, 50_000),
        ("bits flipped, tables and journal", &with_tables, 300, 60_000),
    ] {
        let bytes: usize = files.values().map(Vec::len).sum();
        assert!(bytes <= 1 << 20, "{bytes} bytes");
        let folder = folder();
        let as_it_is = Image { name: String::new(), changed: vec![], acknowledged: vec![] };
        super::image::lay_out(folder.path(), files, &as_it_is);
        let truth = read(folder.path(), None).unwrap();
        let acknowledged: Vec<_> =
            truth.records.iter().map(|records| records.len() as u64).collect();
        let flips = flips(files, how_many(few, all));
        let started = Instant::now();
        let tally = judge_all(files, &truth, flips.len(), |number| {
            let (path, bit) = &flips[number];
            let mut bytes = files[path].clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Image {
                name: format!("bit {bit} of {}", path.display()),
                changed: vec![(path.clone(), Some(bytes))],
                acknowledged: acknowledged.clone(),
            }
        });
        tally.print(what, started);
        assert!(tally.count(Fate::Refused) > 0, "nothing was refused");
    }
}
