//! `detrim bench`

use anyhow::{Result, bail};

/// Measure how long each stage takes.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
