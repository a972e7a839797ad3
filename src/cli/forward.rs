//! `detrim forward`

use anyhow::{Result, bail};

/// Run a case's pixel values through a model and write every stage: the parity tool.
#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: Arguments) -> Result<()> {
    bail!("not written yet")
}
