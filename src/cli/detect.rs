//! `detrim detect`

use anyhow::{Result, bail};

/// Detect objects in photos.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
