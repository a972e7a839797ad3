//! `detrim forward`

use super::model::ModelArguments;
use super::{Backend, print};
use anyhow::{Context, Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use detrim::forward::{Case, Difference, Runner, compare, to_bytes};
use detrim::output;
use std::path::PathBuf;

/// Run a case's pixel values through a model and write every stage: the parity tool.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// A .safetensors file of pixel_values [batch, 3, height, width], perhaps pixel_mask [batch, height, width], and perhaps
    /// expected stages
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// What to compute on
    #[arg(long, value_enum, default_value_t)]
    backend: Backend,
    /// The .safetensors file to write every stage to
    #[arg(long, value_name = "FILE", required_unless_present = "compare")]
    out: Option<PathBuf>,
    /// Compare with the stages that the case expects; fail where one is too far off
    #[arg(long)]
    compare: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let name = arguments.case.display().to_string();
    let bytes = std::fs::read(&arguments.case).with_context(|| name.clone())?;
    let case = Case::read(&bytes, &name)?;
    drop(bytes);
    if arguments.compare && case.expected.is_empty() {
        bail!("{name}: there are no stages to compare with");
    }
    let checkpoint = arguments.model.open_any()?;
    let stages = pollster::block_on(async { Runner::load(&checkpoint, arguments.backend.device()).await?.run(&case).await })?;
    if let Some(out) = &arguments.out {
        output::write(out, &to_bytes(&stages)?)?;
        print(&format!("wrote {} stages to {}\n", stages.len(), out.display()))?;
    }
    if !arguments.compare {
        return Ok(());
    }
    let differences = compare(&stages, &case.expected).with_context(|| name.clone())?;
    print(&table(&differences))?;
    match differences.iter().filter(|difference| !difference.fits()).count() {
        0 => Ok(()),
        bad => bail!("{bad} of {} stages differ by more than is allowed", differences.len()),
    }
}

fn table(differences: &[Difference]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["stage", "shape", "largest", "difference", "relative", "allowed", ""]);
    for row in differences {
        table.add_row([
            row.stage.clone(),
            format!("{:?}", row.shape),
            format!("{:.3}", row.largest),
            format!("{:.1e}", row.absolute),
            format!("{:.1e}", row.relative()),
            format!("{:.1e}", row.allowed),
            if row.fits() { "" } else { "too far" }.into(),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}
