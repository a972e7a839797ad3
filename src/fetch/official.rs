//! The official DETR weights: where they lie, and making our own file of one.
//!
//! torch.hub publishes the first 8 hex digits of their sha256 and no more. That is a check against broken downloads, not against
//! forgeries: a file of one's own with the same 32 bits is a few minutes' work. So the network is held against the published
//! architecture too, and the whole sha256 is written down for the next time.

use super::client::Client;
use super::disk;
use super::download::{Expected, Progress, download};
use super::lock::Lock;
use crate::checkpoint::{Card, Guess, Storage, open, write_own};
use crate::config::{Activation, Backbone, Config, ResNet};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// A checkpoint that facebookresearch/detr publishes in its model zoo, under Apache-2.0.
#[derive(Clone, Copy, Debug)]
pub struct Official {
    pub name: &'static str,
    pub file: &'static str,
    /// How the file's sha256 begins; `torch.hub` puts that into the file's name.
    pub sha256: &'static str,
    /// Whether the last stage of the backbone is dilated (DC5), which the tensors don't tell.
    pub dilation: bool,
    /// The network that was published.
    pub architecture: fn() -> Option<Config>,
}

/// Where facebookresearch/detr publishes its weights.
pub const ADDRESS: &str = "https://dl.fbaipublicfiles.com/detr";

pub const OFFICIAL: [Official; 4] = [
    Official { name: "detr-r50", file: "detr-r50-e632da11.pth", sha256: "e632da11", dilation: false, architecture: || published(50, false) },
    Official { name: "detr-r101", file: "detr-r101-2c7b67e5.pth", sha256: "2c7b67e5", dilation: false, architecture: || published(101, false) },
    Official { name: "detr-r50-dc5", file: "detr-r50-dc5-f0fb7ef5.pth", sha256: "f0fb7ef5", dilation: true, architecture: || published(50, true) },
    Official { name: "detr-r101-dc5", file: "detr-r101-dc5-a2e86def.pth", sha256: "a2e86def", dilation: true, architecture: || published(101, true) },
];

/// The paper's transformer on a ResNet.
fn published(depth: usize, dilation: bool) -> Option<Config> {
    ResNet::of_depth(depth, dilation).map(Backbone::Resnet).map(Config::detr)
}

/// A file of ours, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    pub file: PathBuf,
    /// A sentence.
    pub verified: String,
}

impl Official {
    /// Where the file lies; `base` is [`ADDRESS`] or a mirror.
    pub fn address(&self, base: &str) -> String {
        format!("{}/{}", base.trim_end_matches('/'), self.file)
    }

    /// Downloads the file into `directory` and makes `NAME.safetensors` of it, unless that is there already.
    pub fn fetch(&self, client: &Client, base: &str, directory: &Path, max_bytes: u64, progress: &mut dyn FnMut(Progress)) -> Result<Converted> {
        let (file, record) = (directory.join(self.name).with_extension("safetensors"), directory.join(format!("{}.lock.json", self.name)));
        let out = format!("{}.safetensors", self.name);
        if disk::is_there(&file)? {
            return self.known(file, &record, &out);
        }
        std::fs::create_dir_all(directory).map_err(|source| disk::io(directory, source))?;
        let mut lock = Lock::read(&record)?.unwrap_or_else(|| Lock::new(self.name, None));
        let pinned = lock.files.get(self.file).map(|locked| locked.sha256.clone());
        let expected = Expected::sha256(pinned.as_deref().unwrap_or(self.sha256));
        let (address, downloaded) = (self.address(base), directory.join(self.file));
        let content = download(client, &address, &downloaded, &expected, max_bytes, progress)?;
        self.convert(&downloaded, &address, &content.sha256, &file)?;

        let hash = match pinned {
            Some(_) => "the whole sha256 of the download, as written down by an earlier fetch".into(),
            None => format!("the first {} hex digits of the download's sha256, which are all that is published of it", self.sha256.len()),
        };
        lock.complete = true;
        lock.enter(self.file, &content, &hash);
        lock.enter(&out, &disk::content(&file)?, "made of the download");
        lock.write(&record)?;
        disk::remove(&downloaded)?;
        let verified = format!("{hash}, and every tensor's name and shape; {} keeps the whole sha256 for the next time", record.display());
        Ok(Converted { file, verified })
    }

    /// Believes a file that is there if it is what an earlier fetch made, or at least the published network.
    fn known(&self, file: PathBuf, record: &Path, out: &str) -> Result<Converted> {
        let problem = |problem: String| Error::Checkpoint { file: file.display().to_string(), problem };
        let written_down = Lock::read(record)?.and_then(|lock| lock.files.get(out).cloned());
        let verified = match written_down {
            Some(locked) => {
                let found = disk::content(&file)?;
                if found.sha256 != locked.sha256 {
                    let record = record.display();
                    return Err(problem(format!(
                        "is not what was fetched: its sha256 is {}, but {record} has {} (remove both to fetch it again)",
                        found.sha256, locked.sha256
                    )));
                }
                format!("its sha256, as written down in {}", record.display())
            }
            None => {
                self.check(&open(&file, &Guess::default())?.config).map_err(problem)?;
                format!("every tensor's name and shape; not its sha256, for there is no {}", record.display())
            }
        };
        Ok(Converted { file, verified })
    }

    /// Makes our own file of the downloaded one. `address` is where it came from.
    fn convert(&self, downloaded: &Path, address: &str, sha256: &str, out: &Path) -> Result<()> {
        // Everything that shapes can't tell, as the original repository has it.
        let guess = Guess { heads: Some(8), dilation: Some(self.dilation), activation: Some(Activation::Relu), ..Guess::default() };
        let mut checkpoint = open(downloaded, &guess)?;
        self.check(&checkpoint.config).map_err(|problem| Error::Checkpoint { file: downloaded.display().to_string(), problem })?;
        checkpoint.card = Card {
            name: self.name.into(),
            threshold: Some(0.7),
            licence: "Apache-2.0".into(),
            provenance: vec![
                format!("weights of facebookresearch/detr from {address} (sha256 {sha256})"),
                format!("converted by detrim {}, f16", env!("CARGO_PKG_VERSION")),
            ],
        };
        write_own(out, &checkpoint, Storage::F16)
    }

    /// Refuses another network than the published one.
    fn check(&self, found: &Config) -> Result<(), String> {
        let wrong = |what: &str| format!("is not the published {}, whatever its hash: {what} (remove it to fetch it again)", self.name);
        let expected = (self.architecture)().ok_or_else(|| wrong("no such network is known"))?;
        let parts = [
            ("the backbone differs", found.backbone == expected.backbone),
            ("the encoder differs", found.encoder == expected.encoder && found.d_model == expected.d_model),
            ("the decoder differs", found.decoder == expected.decoder && found.queries == expected.queries),
            ("the classes differ", found.classes == expected.classes && found.labels == expected.labels),
            ("the input differs", found.pixels == expected.pixels),
        ];
        match parts.iter().find(|(_, same)| !same) {
            Some((what, _)) => Err(wrong(what)),
            None if *found != expected => Err(wrong("the architecture differs")),
            None => Ok(()),
        }
    }
}
