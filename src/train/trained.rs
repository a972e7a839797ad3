//! Which tensors are trained: the transformer, and as many of the backbone's last stages as one likes.
//!
//! Batch norm is folded into the backbone's convolutions, so that their weights and biases are trained as they are.

use crate::config::Backbone;
use crate::error::{Error, Result};
use crate::model::FIXED;
use std::collections::BTreeSet;

/// What the names of the backbone's tensors begin with.
const BACKBONE: &str = "backbone.";

/// The choice of what is trained. The default is everything but the backbone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trained {
    /// What the names of the trained stages' tensors begin with.
    stages: Vec<String>,
}

impl Trained {
    /// The transformer, and the last `stages` stages of a backbone. (Its stem is never trained.)
    pub fn with_stages(backbone: &Backbone, stages: usize) -> Result<Self> {
        let all = backbone.stages();
        let first = all.checked_sub(stages).ok_or_else(|| Error::Config(format!("the backbone has {all} stages; {stages} can't be trained")))?;
        Ok(Self { stages: (first..all).map(|stage| format!("{BACKBONE}{}.", backbone.stage_name(stage))).collect() })
    }

    /// Everything, the backbone with its stem too.
    pub fn everything() -> Self {
        Self { stages: vec![BACKBONE.into()] }
    }

    /// By a tensor's name.
    pub fn includes(&self, name: &str) -> bool {
        // What follows from the architecture is no weight.
        !name.starts_with(FIXED) && (!Self::is_backbone(name) || self.stages.iter().any(|stage| name.starts_with(stage)))
    }

    /// The first of the backbone's stages (counted from 0) that is trained: examples hold what it is given. The number of stages where
    /// none is.
    pub fn first_stage(&self, backbone: &Backbone) -> usize {
        backbone.stages().saturating_sub(self.stages.len())
    }

    pub fn is_backbone(name: &str) -> bool {
        name.starts_with(BACKBONE)
    }

    /// How many of the backbone's stages some tensors are of.
    pub fn count_stages<'a>(names: impl Iterator<Item = &'a String>) -> usize {
        names.filter_map(|name| name.strip_prefix(BACKBONE)?.split('.').next()).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EfficientNetLite, ResNet, ResNetStage};

    #[test]
    fn the_last_stages_are_trained_as_each_backbone_counts_them() {
        let lite = Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![]; 11] });
        let resnet = Backbone::Resnet(ResNet { stem: 4, stages: vec![ResNetStage { channels: 4, blocks: vec![] }; 4] });
        for (backbone, unfrozen, trained, frozen) in [
            (&lite, 1, "backbone.stage10.block0.expand.weight", "backbone.stage1.block0.expand.weight"),
            (&lite, 2, "backbone.stage9.block0.expand.bias", "backbone.stage8.block0.expand.weight"),
            (&resnet, 1, "backbone.stage4.block0.conv1.weight", "backbone.stage3.block0.conv1.weight"),
            (&resnet, 4, "backbone.stage1.block0.conv1.weight", "backbone.stem.weight"),
            (&resnet, 0, "encoder.0.norm1.weight", "backbone.stage4.block0.conv1.weight"),
        ] {
            let choice = Trained::with_stages(backbone, unfrozen).unwrap();
            assert!(choice.includes(trained) && choice.includes("training.label") && !choice.includes(frozen), "{choice:?}");
            assert_eq!(choice.first_stage(backbone), backbone.stages() - unfrozen);
        }
        let error = Trained::with_stages(&resnet, 5).unwrap_err().to_string();
        assert!(error.contains("4 stages") && error.contains('5'), "{error}");
    }
}
