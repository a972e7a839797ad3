//! Options whose defaults depend on the architecture that is trained.

use super::Arguments;
use anyhow::Result;
use detrim::checkpoint;
use detrim::config::Architecture;
use detrim::train::folder::Folder;
use detrim::train::state;

impl Arguments {
    /// With the defaults of what is trained: a DETR, or RT-DETR's family, where the whole network is trained, and small steps are what helps.
    pub fn with_defaults(self, folder: &Folder) -> Result<Self> {
        let family = matches!(self.architecture(folder)?, Some(Architecture::RtDetr(_)));
        let (views, rate, backbone_rate, warmup, denoising) = if family { (64, 1e-5, 1.0, 50, 100) } else { (4, 2e-4, 0.1, 500, 40) };
        Ok(Self {
            views: self.views.or(Some(views)),
            rate: self.rate.or(Some(rate)),
            backbone_rate: self.backbone_rate.or(Some(backbone_rate)),
            warmup: self.warmup.or(Some(warmup)),
            denoising: self.denoising.or(Some(denoising)),
            ..self
        })
    }

    /// What is trained; nothing where a new DETR begins, or nothing that there is.
    fn architecture(&self, folder: &Folder) -> Result<Option<Architecture>> {
        let state = if folder.last().exists() { Some(folder.last()) } else { self.state.clone() };
        Ok(match (state, &self.model) {
            (Some(state), _) => Some(state::read_any(&state)?.0),
            // What is wrong with it is told when it is opened.
            (None, Some(model)) => checkpoint::open_any(model, &self.guess.guess()).ok().map(|checkpoint| checkpoint.config),
            (None, None) => None,
        })
    }

    pub fn views(&self) -> usize {
        self.views.unwrap_or(1)
    }

    pub fn rate(&self) -> f64 {
        self.rate.unwrap_or(1e-5)
    }

    pub fn backbone_rate(&self) -> f64 {
        self.backbone_rate.unwrap_or(1.0)
    }

    pub fn warmup(&self) -> u64 {
        self.warmup.unwrap_or(0)
    }

    pub fn denoising(&self) -> usize {
        self.denoising.unwrap_or(0)
    }
}
