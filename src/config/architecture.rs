//! Which network a file holds, and what all of them have.

use super::{ClassActivation, Config, Label, Pixels, RtDetr};
use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de};

/// The config of a detector of any architecture. In JSON, the family of RT-DETR is told by its `model_type`; DETR has none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Architecture {
    Detr(Config),
    RtDetr(Box<RtDetr>),
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        // Not serde's untagged enum, whose error names no field.
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.get("model_type") {
            None => serde_json::from_value(value).map(Self::Detr),
            Some(_) => serde_json::from_value(value).map(Self::RtDetr),
        }
        .map_err(de::Error::custom)
    }
}

impl Architecture {
    /// transformers' name of the architecture.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Detr(_) => "detr",
            Self::RtDetr(config) => config.model_type.name(),
        }
    }

    /// The config of a DETR, for what is made for that architecture only; `what` is that, as "`detrim prune`".
    pub fn detr(&self, what: &str) -> Result<&Config> {
        match self {
            Self::Detr(config) => Ok(config),
            Self::RtDetr(config) => Err(Error::Config(format!("{what} works on DETR, not yet on {}", config.model_type.name()))),
        }
    }

    /// The config of a DETR, if it is one.
    pub fn as_detr(&self) -> Option<&Config> {
        match self {
            Self::Detr(config) => Some(config),
            Self::RtDetr(_) => None,
        }
    }

    /// Of encoder and decoder: those that can be dropped. (RT-DETR's encoder has one, which stays.)
    pub fn layers(&self) -> [usize; 2] {
        match self {
            Self::Detr(config) => [config.encoder.len(), config.decoder.len()],
            Self::RtDetr(config) => [0, config.decoder.layers],
        }
    }

    /// Width of the decoder's tokens.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Detr(config) => config.d_model,
            Self::RtDetr(config) => config.d_model,
        }
    }

    pub fn check(&self) -> Result<()> {
        match self {
            Self::Detr(config) => config.check(),
            Self::RtDetr(config) => config.check(),
        }
    }

    /// What each class logit stands for (no-object excluded).
    pub fn labels(&self) -> &[Label] {
        match self {
            Self::Detr(config) => &config.labels,
            Self::RtDetr(config) => &config.labels,
        }
    }

    pub fn labels_mut(&mut self) -> &mut Vec<Label> {
        match self {
            Self::Detr(config) => &mut config.labels,
            Self::RtDetr(config) => &mut config.labels,
        }
    }

    pub fn pixels(&self) -> &Pixels {
        match self {
            Self::Detr(config) => &config.pixels,
            Self::RtDetr(config) => &config.pixels,
        }
    }

    pub fn pixels_mut(&mut self) -> &mut Pixels {
        match self {
            Self::Detr(config) => &mut config.pixels,
            Self::RtDetr(config) => &mut config.pixels,
        }
    }

    /// Class logits of a query.
    pub fn classes(&self) -> usize {
        match self {
            Self::Detr(config) => config.classes,
            Self::RtDetr(config) => config.classes,
        }
    }

    pub fn queries(&self) -> usize {
        match self {
            Self::Detr(config) => config.queries,
            Self::RtDetr(config) => config.queries,
        }
    }

    pub fn set_queries(&mut self, queries: usize) {
        match self {
            Self::Detr(config) => config.queries = queries,
            Self::RtDetr(config) => config.queries = queries,
        }
    }

    pub fn class_activation(&self) -> ClassActivation {
        match self {
            Self::Detr(config) => config.class_activation,
            Self::RtDetr(_) => ClassActivation::Sigmoid,
        }
    }
}

/// What tells which network a checkpoint holds: the config of one architecture, or of any.
pub trait NetworkConfig: Clone {
    fn architecture(&self) -> Architecture;
}

impl NetworkConfig for Config {
    fn architecture(&self) -> Architecture {
        Architecture::Detr(self.clone())
    }
}

impl NetworkConfig for Architecture {
    fn architecture(&self) -> Architecture {
        self.clone()
    }
}

impl From<Config> for Architecture {
    fn from(config: Config) -> Self {
        Self::Detr(config)
    }
}
