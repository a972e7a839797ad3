//! `detrim fetch`

use super::{print, printable};
use anyhow::{Context, Result, bail};
use detrim::checkpoint::{self, Guess};
use detrim::fetch::hub::{self, Event, LOCK, Repository};
use detrim::fetch::{ADDRESS, Client, MAX_BYTES, OFFICIAL, Official, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::PathBuf;

/// Download an official DETR checkpoint and convert it, or a detector of the Hugging Face Hub as it is.
///
/// The official weights come from the model zoo of facebookresearch/detr (Apache-2.0) and become one file that `detrim detect --model`
/// and the page read. From the Hub come config.json, preprocessor_config.json and the weights, into a folder that is called as the
/// repository is. Everything is verified by what is known of it, which is said and written down: the next fetch is pinned to the same commit
/// and the same bytes. A download that was cut off goes on where it stopped.
#[derive(clap::Args)]
pub struct Arguments {
    /// detr-r50, detr-r101, detr-r50-dc5, detr-r101-dc5, or hf:OWNER/NAME[@REVISION]
    #[arg(value_parser = source)]
    model: Source,
    /// Directory for the files.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Of an official checkpoint, where the file lies, for a mirror of one's own.
    #[arg(long, value_name = "URL", default_value = ADDRESS)]
    url_base: String,
    /// Where the Hub is, for a mirror (otherwise the environment variable HF_ENDPOINT says it, or https://huggingface.co).
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Of the Hub: take what the revision is now, whatever an earlier fetch wrote down.
    #[arg(long)]
    update: bool,
    /// The most bytes of all files together, as 500MB or 4GB.
    #[arg(long, value_name = "SIZE", default_value_t = MAX_BYTES, value_parser = bytes)]
    max_size: u64,
    /// Take addresses of http: too, which anybody on the way can read and change.
    #[arg(long)]
    allow_http: bool,
}

#[derive(Clone)]
enum Source {
    Official(Official),
    Hub(Repository),
}

fn source(text: &str) -> Result<Source, String> {
    if let Some(official) = OFFICIAL.iter().find(|official| official.name == text) {
        return Ok(Source::Official(*official));
    }
    if text.starts_with("hf:") {
        return text.parse().map(Source::Hub);
    }
    Err(format!("neither of {} nor a repository of the Hub (hf:OWNER/NAME)", OFFICIAL.map(|official| official.name).join(", ")))
}

/// `500MB`: a number, perhaps with a unit of a power of 1000.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => return Err(format!("{other} is not a unit: B, kB, MB and GB are")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| "expected a whole number of bytes, kB, MB or GB, as 500MB")?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(|| "the size must be above 0 and fit into 64 bits".into())
}

pub fn run(arguments: Arguments) -> Result<()> {
    match &arguments.model {
        Source::Official(official) => fetch_official(official, &arguments),
        Source::Hub(repository) => fetch_from_hub(repository, &arguments),
    }
}

fn fetch_official(official: &Official, arguments: &Arguments) -> Result<()> {
    if arguments.update || arguments.endpoint.is_some() {
        bail!("--update and --endpoint are for repositories of the Hub (hf:OWNER/NAME), not for {}", official.name);
    }
    let bar = Bar::new()?;
    bar.begin(official.name);
    let client = Client::new(arguments.allow_http);
    let result = official.fetch(&client, &arguments.url_base, &arguments.out, arguments.max_size, &mut |progress| bar.show(progress));
    bar.end();
    let converted = result.with_context(|| {
        let (address, by_hand) = (official.address(&arguments.url_base), arguments.out.join(official.file));
        format!("{} can't be had. If another way leads to {address}, put the file at {} and run this again", official.name, by_hand.display())
    })?;
    print(&format!("{} is ready; try: detrim detect --model {0} PHOTO\nverified: {}\n", converted.file.display(), converted.verified))
}

fn fetch_from_hub(repository: &Repository, arguments: &Arguments) -> Result<()> {
    let of_environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = arguments.endpoint.clone().or_else(|| of_environment("HF_ENDPOINT")).unwrap_or_else(|| hub::ENDPOINT.into());
    let mut client = Client::new(arguments.allow_http);
    if let Some(token) = of_environment("HF_TOKEN") {
        client = client.with_token(&endpoint, &token)?;
    }
    let folder = arguments.out.join(&repository.name);
    let (update, max_bytes) = (arguments.update, arguments.max_size);
    let request = hub::Request { client: &client, endpoint: &endpoint, repository, folder: &folder, update, max_bytes };
    let bar = Bar::new()?;
    let result = request.fetch(&mut |event| match event {
        Event::File(file) => bar.begin(file),
        Event::Bytes(progress) => bar.show(progress),
        Event::Verified(file, how) => {
            bar.end();
            eprintln!("{file}: verified by {how}");
        }
    });
    bar.end();
    let fetched = result.with_context(|| format!("{repository} can't be had"))?;
    let was = if fetched.was_there { "was there already" } else { "is ready" };
    print(&format!("{} {was}: {repository} at commit {}, as {LOCK} in it has it\n", folder.display(), fetched.commit))?;
    match checkpoint::open(&folder, &Guess::default()) {
        Ok(_) => print(&format!("try: detrim detect --model {} PHOTO\n", folder.display())),
        Err(error) => {
            eprintln!("warning: the files are as the repository has them, but detrim can't read them: {}", printable(&error.to_string()));
            Ok(())
        }
    }
}

/// The progress of one file after another.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Result<Self> {
        let style = ProgressStyle::with_template("{msg} {bar:30} {binary_bytes}/{binary_total_bytes}, {binary_bytes_per_sec}, {eta} left")?;
        let bar = ProgressBar::no_length().with_style(style);
        Ok(Self(bar))
    }

    fn begin(&self, file: &str) {
        self.0.reset();
        self.0.unset_length();
        self.0.set_message(file.to_string());
    }

    fn show(&self, Progress { done, total }: Progress) {
        if let Some(total) = total {
            self.0.set_length(total);
        }
        self.0.set_position(done);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes("500MB"), Ok(500_000_000));
        assert_eq!(bytes("4gb"), Ok(4_000_000_000));
        assert_eq!(bytes("17"), Ok(17));
        for wrong in ["", "MB", "-1MB", "0", "1.5GB", "5 parsecs", "99999999999GB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
