//! `detrim convert`

use anyhow::{Result, bail};

/// Convert a checkpoint to detrim's own file.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
