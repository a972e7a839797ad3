//! The ways in that the tests know, for a fuzzer to find what they don't.

#[path = "../../tests/entries.rs"]
pub mod entries;
#[path = "../../tests/tiny.rs"]
#[allow(dead_code)]
mod tiny;

use entries::{ENTRIES, Entry};
use std::path::Path;

fn entry(name: &str) -> &'static Entry {
    ENTRIES.iter().find(|entry| entry.name == name).expect("an entry of this name")
}

/// Writes the files that an entry takes into `corpus/ENTRY/`, where the fuzzer begins.
pub fn seed(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    std::fs::create_dir_all(&folder).expect("the corpus");
    for (i, seed) in (entry(name).seeds)().into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i}")), seed).expect("a seed");
    }
}

pub fn call(name: &str, bytes: &[u8]) {
    let _ = (entry(name).call)(bytes);
}
