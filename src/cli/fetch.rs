//! `detrim fetch`

use anyhow::{Result, bail};

/// Download an official DETR checkpoint and convert it.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
