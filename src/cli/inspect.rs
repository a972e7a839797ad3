//! `detrim inspect`

use anyhow::{Result, bail};

/// Show what a checkpoint holds: parts, shapes, parameters, bytes, multiply-accumulates.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
