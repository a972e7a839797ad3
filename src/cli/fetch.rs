//! `detrim fetch`

use super::print;
use anyhow::{Context, Result};
use detrim::fetch::{ADDRESS, OFFICIAL, Official, Progress, download};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};

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
    /// Keep the checkpoint as it was downloaded, too.
    #[arg(long)]
    keep: bool,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let official = OFFICIAL.iter().find(|official| official.name == arguments.model).context("no such model")?;
    let directory = &arguments.out;
    let out = directory.join(official.name).with_extension("safetensors");
    if out.exists() {
        return print(&format!("{} is already there\n", out.display()));
    }
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    let downloaded = directory.join(official.file);
    let address = format!("{}/{}", arguments.url_base.trim_end_matches('/'), official.file);
    bring(official, &address, &downloaded)?;
    official.convert(&downloaded, &address, &out)?;
    if !arguments.keep {
        std::fs::remove_file(&downloaded).with_context(|| downloaded.display().to_string())?;
    }
    print(&format!("{} is ready: detrim detect --model {0} PHOTO\n", out.display()))
}

fn bring(official: &Official, address: &str, to: &Path) -> Result<()> {
    let bar = ProgressBar::no_length()
        .with_style(ProgressStyle::with_template("{msg} {bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left")?);
    bar.set_message(official.name);
    let result = download(address, to, official.sha256, &mut |Progress { done, total }| {
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    result.with_context(|| {
        format!(
            "{} could not be downloaded. If another way leads to {address}, put the file at {} and run the same command again",
            official.name,
            to.display()
        )
    })
}
