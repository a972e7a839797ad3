//! The official DETR weights: where they lie, and bringing one onto this machine.

mod download;

pub use download::{Progress, download};

use crate::checkpoint::{Card, Guess, Storage, open, write_own};
use crate::config::Activation;
use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A checkpoint that facebookresearch/detr publishes in its model zoo, under Apache-2.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Official {
    pub name: &'static str,
    pub file: &'static str,
    /// How the file's sha256 begins; `torch.hub` puts that into the file's name.
    pub sha256: &'static str,
    /// Whether the last stage of the backbone is dilated (DC5), which the tensors don't tell.
    pub dilation: bool,
}

/// Where facebookresearch/detr publishes its weights.
pub const ADDRESS: &str = "https://dl.fbaipublicfiles.com/detr";

pub const OFFICIAL: [Official; 4] = [
    Official { name: "detr-r50", file: "detr-r50-e632da11.pth", sha256: "e632da11", dilation: false },
    Official { name: "detr-r101", file: "detr-r101-2c7b67e5.pth", sha256: "2c7b67e5", dilation: false },
    Official { name: "detr-r50-dc5", file: "detr-r50-dc5-f0fb7ef5.pth", sha256: "f0fb7ef5", dilation: true },
    Official { name: "detr-r101-dc5", file: "detr-r101-dc5-a2e86def.pth", sha256: "a2e86def", dilation: true },
];

impl Official {
    /// Where the file lies; `base` is [`ADDRESS`] or a mirror.
    pub fn address(&self, base: &str) -> String {
        format!("{}/{}", base.trim_end_matches('/'), self.file)
    }

    /// Downloads the file into `directory` and makes `NAME.safetensors` of it, unless that is there already. Gives its path.
    pub fn fetch(&self, base: &str, directory: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let out = directory.join(self.name).with_extension("safetensors");
        if out.exists() {
            return Ok(out);
        }
        fs::create_dir_all(directory).map_err(|source| Error::Io { file: directory.display().to_string(), source })?;
        let (address, downloaded) = (self.address(base), directory.join(self.file));
        download(&address, &downloaded, self.sha256, progress)?;
        self.convert(&downloaded, &address, &out)?;
        fs::remove_file(&downloaded).map_err(|source| Error::Io { file: downloaded.display().to_string(), source })?;
        Ok(out)
    }

    /// Makes our own file of the downloaded one. `address` is where it came from.
    fn convert(&self, downloaded: &Path, address: &str, out: &Path) -> Result<()> {
        // Everything that shapes can't tell, as the original repository has it.
        let guess = Guess { heads: Some(8), dilation: Some(self.dilation), activation: Some(Activation::Relu), ..Guess::default() };
        let mut checkpoint = open(downloaded, &guess)?;
        let sha256 = download::sha256_of(downloaded)?;
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
}
