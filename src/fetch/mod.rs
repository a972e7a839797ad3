//! The official DETR weights: where they lie, and bringing one onto this machine.

mod download;

pub use download::{Progress, download};

use crate::checkpoint::{Card, Guess, Storage, open, write_own};
use crate::config::Activation;
use crate::error::Result;
use std::path::Path;

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
    /// Makes our own file of the downloaded one. `address` is where it came from.
    pub fn convert(&self, downloaded: &Path, address: &str, out: &Path) -> Result<()> {
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
