//! `detrim fetch`

use super::print;
use anyhow::{Context, Result};
use detrim::fetch::{ADDRESS, OFFICIAL, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Download an official DETR checkpoint and convert it.
///
/// The weights come from the model zoo of facebookresearch/detr (Apache-2.0), are verified by their hash, and become one file that
/// `detrim detect --model` and the page read. A download that was cut off goes on where it stopped.
#[derive(clap::Args)]
pub struct Arguments {
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(OFFICIAL.map(|official| official.name)))]
    model: String,
    /// Directory for the files.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Where the file lies, for a mirror of one's own.
    #[arg(long, value_name = "URL", default_value = ADDRESS)]
    url_base: String,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let official = OFFICIAL.iter().find(|official| official.name == arguments.model).context("no such model")?;
    let style = ProgressStyle::with_template("{msg} {bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left")?;
    let bar = ProgressBar::no_length().with_style(style).with_message(official.name);
    let result = official.fetch(&arguments.url_base, &arguments.out, &mut |Progress { done, total }| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let file = result.with_context(|| {
        let (address, by_hand) = (official.address(&arguments.url_base), arguments.out.join(official.file));
        format!("{} can't be had. If another way leads to {address}, put the file at {} and run this again", official.name, by_hand.display())
    })?;
    print(&format!("{} is ready; try: detrim detect --model {0} PHOTO\n", file.display()))
}
