//! The arguments of every command that opens a model, and the opening.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use detrim::backend::SamplingMethod;
use detrim::checkpoint::{self, Checkpoint, ClassNames, Guess};
use detrim::config::{Activation, Architecture, ClassActivation, NetworkConfig, Resize};
use detrim::limits::{self, Limits};
use detrim::{hash, image};
use std::path::{Path, PathBuf};

/// A model, and what its file may not say.
#[derive(clap::Args)]
pub struct ModelArguments {
    /// A detrim model, the state of a training run, a DETR checkpoint (.safetensors, .pth) or a directory as Hugging Face saves it
    pub model: PathBuf,
    #[command(flatten)]
    pub guess: GuessArguments,
}

/// What the tensors of a foreign checkpoint can't tell. Goes before its config.json. (A new transformer is made as it says.)
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "What a foreign checkpoint may not say")]
pub struct GuessArguments {
    /// Attention heads of every layer
    #[arg(long, value_name = "N")]
    heads: Option<usize>,
    /// Width of every attention head
    #[arg(long, value_name = "N")]
    head_width: Option<usize>,
    /// The backbone's last stage is dilated instead of strided (DC5)
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    dilation: Option<bool>,
    /// Activation of the feed-forward networks
    #[arg(long)]
    activation: Option<FeedForward>,
    /// How class logits become scores
    #[arg(long)]
    class_activation: Option<Classes>,
    /// Names of the classes: a text file with a name a line, or JSON (a config.json with id2label, a list of names, annotations with categories)
    #[arg(long, value_name = "FILE", value_parser = class_names)]
    class_names: Option<ClassNames>,
    /// Input size in place of the model's own: 800:1333 (short side, longest long side), 384x384 (stretched to height x width),
    /// max:480x640 (as large as fits into it) or none (pictures as they are)
    #[arg(long, value_name = "SIZE", value_parser = resize, help_heading = "Input")]
    resize: Option<Resize>,
    /// Multiply-accumulates that the network may take for a picture, in thousand millions [default: 3000]
    #[arg(long, value_name = "N", help_heading = "Input")]
    max_gmac: Option<u64>,
    /// What the network's largest activation may take for a picture, in MiB [default: 2048]
    #[arg(long, value_name = "N", help_heading = "Input")]
    max_activation: Option<u64>,
    /// Mean of red, green and blue pixels, from 0 to 1
    #[arg(long, value_name = "R,G,B", value_parser = colours)]
    mean: Option<[f32; 3]>,
    /// Standard deviation of red, green and blue pixels
    #[arg(long, value_name = "R,G,B", value_parser = colours)]
    std: Option<[f32; 3]>,
    /// DEIMv2 under transformers' names: compute exactly what transformers 5.24 does, in place of what the weights were trained for (the default,
    /// and what the names of DEIMv2's own repository mean)
    #[arg(long)]
    exact_transformers: bool,
    /// RT-DETR and its descendants: how many tokens become queries
    #[arg(long, value_name = "N")]
    num_queries: Option<usize>,
    /// RT-DETR and its descendants: how many decoder layers are evaluated
    #[arg(long, value_name = "N")]
    eval_layers: Option<usize>,
    /// RT-DETR and its descendants: how values between pixels are sampled
    #[arg(long)]
    sampling: Option<Sampling>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sampling {
    /// Interpolated
    Default,
    /// Those of the nearest pixel
    Discrete,
}

#[derive(Clone, Copy, ValueEnum)]
enum FeedForward {
    Relu,
    Gelu,
    Silu,
}

#[derive(Clone, Copy, ValueEnum)]
enum Classes {
    Softmax,
    Sigmoid,
}

impl ModelArguments {
    /// Opens a DETR and says on the standard error what had to be assumed.
    pub fn open(&self) -> Result<Checkpoint> {
        open(&self.model, &self.guess)
    }

    /// As [`ModelArguments::open`] for any architecture.
    pub fn open_any(&self) -> Result<Checkpoint<Architecture>> {
        open_any(&self.model, &self.guess)
    }

    /// As [`ModelArguments::open_any`] for what isn't to be run.
    pub fn read(&self) -> Result<Checkpoint<Architecture>> {
        read(&self.model, &self.guess)
    }
}

/// Of the file that a model is read from, or of all its shards one after the other.
pub fn sha256(model: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    for file in checkpoint::files_of(model)? {
        bytes.extend(std::fs::read(&file).with_context(|| file.display().to_string())?);
    }
    Ok(hash::sha256(&bytes))
}

/// Opens a model of any architecture and says on the standard error what had to be assumed. Refuses one that takes more for a photo than is allowed.
pub fn open_any(model: &Path, guess: &GuessArguments) -> Result<Checkpoint<Architecture>> {
    let checkpoint = read(model, guess)?;
    affordable(&checkpoint.config, guess)?;
    Ok(checkpoint)
}

/// The same of a DETR.
pub fn open(model: &Path, guess: &GuessArguments) -> Result<Checkpoint> {
    Ok(open_any(model, guess)?.into_detr("this command")?)
}

/// As [`open_any`] for a model that isn't to be run.
pub fn read(model: &Path, guess: &GuessArguments) -> Result<Checkpoint<Architecture>> {
    Ok(told(checkpoint::open_any(model, &guess.guess())?))
}

/// Opens a model or a backbone alone, and says on the standard error what had to be assumed.
pub fn open_backbone(file: &Path, guess: &GuessArguments) -> Result<Checkpoint> {
    Ok(told(checkpoint::open_backbone(file, &guess.guess())?))
}

/// Allows networks as much as the options say, from now on.
pub fn allow(guess: &GuessArguments) {
    limits::allow(guess.limits());
}

/// Refuses a model that takes more for a photo than is allowed.
pub fn affordable(config: &impl NetworkConfig, guess: &GuessArguments) -> Result<()> {
    allow(guess);
    Ok(limits::check(config, image::typical_size(config.architecture().pixels().resize)?)?)
}

fn told<C>(checkpoint: Checkpoint<C>) -> Checkpoint<C> {
    for guess in &checkpoint.guesses {
        eprintln!("assumed: {}", super::printable(guess));
    }
    checkpoint
}

impl GuessArguments {
    /// A model that comes from no file, with the input size that was asked for.
    pub fn resized(&self, mut checkpoint: Checkpoint) -> Result<Checkpoint> {
        checkpoint.config.pixels.resize = self.resize.unwrap_or(checkpoint.config.pixels.resize);
        checkpoint.config.check()?;
        Ok(checkpoint)
    }

    /// Names the classes, where that is asked for by another option.
    pub fn name_classes(&mut self, names: Option<ClassNames>) {
        self.class_names = names.or(self.class_names.take());
    }

    /// What the network may take for a picture.
    fn limits(&self) -> Limits {
        let default = Limits::default();
        Limits {
            macs: self.max_gmac.map_or(default.macs, |gmac| gmac.saturating_mul(1_000_000_000)),
            bytes: self.max_activation.map_or(default.bytes, |mib| mib.saturating_mul(1 << 20)),
        }
    }

    pub fn guess(&self) -> Guess {
        let activation = self.activation.map(|name| match name {
            FeedForward::Relu => Activation::Relu,
            FeedForward::Gelu => Activation::Gelu,
            FeedForward::Silu => Activation::Silu,
        });
        let class_activation = self.class_activation.map(|name| match name {
            Classes::Softmax => ClassActivation::Softmax,
            Classes::Sigmoid => ClassActivation::Sigmoid,
        });
        Guess {
            heads: self.heads,
            head_width: self.head_width,
            dilation: self.dilation,
            activation,
            class_activation,
            class_names: self.class_names.clone(),
            resize: self.resize,
            mean: self.mean,
            std: self.std,
            exact_transformers: self.exact_transformers,
            queries: self.num_queries,
            decoder_layers: self.eval_layers,
            sampling: self.sampling.map(|method| match method {
                Sampling::Default => SamplingMethod::Default,
                Sampling::Discrete => SamplingMethod::Discrete,
            }),
        }
    }
}

/// A larger picture than anybody has; costs at this size can still be counted in 64 bits.
const MAX_SIDE: usize = 1 << 16;

/// `384x512`: height and width.
pub fn height_width(text: &str) -> Result<[usize; 2]> {
    let (height, width) = text.split_once('x').context("expected HEIGHTxWIDTH, as 800x1066")?;
    let (height, width) = (height.trim().parse()?, width.trim().parse()?);
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        bail!("a side must be from 1 to {MAX_SIDE}");
    }
    Ok([height, width])
}

/// A file of names.
pub fn class_names(path: &str) -> Result<ClassNames, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    ClassNames::parse(&String::from_utf8_lossy(&bytes), path)
}

fn resize(text: &str) -> Result<Resize> {
    if text == "none" {
        return Ok(Resize::Original);
    }
    if let Some(size) = text.strip_prefix("max:") {
        let [height, width] = height_width(size)?;
        return Ok(Resize::Within { height, width });
    }
    if let Some((short, long)) = text.split_once(':') {
        return Ok(Resize::ShortestSide { short: short.parse()?, long: long.parse()? });
    }
    let [height, width] = height_width(text)?;
    Ok(Resize::Stretch { height, width })
}

fn colours(text: &str) -> Result<[f32; 3]> {
    let numbers: Vec<f32> = text.split(',').map(|number| number.trim().parse()).collect::<Result<_, _>>()?;
    numbers.try_into().ok().context("expected three numbers, as 0.5,0.5,0.5")
}
