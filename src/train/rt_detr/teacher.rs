//! A teacher of the family: what it makes of the same view of an image.

use super::grid::Levels;
use crate::backend::Backend;
use crate::checkpoint::Checkpoint;
use crate::config::{Architecture, BoxHead, Label, Pixels, RtDetr as Config};
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::model::RtDetr;
use crate::trace::{Shapes, Tracer};
use crate::train::data::one_size;
use crate::train::distil::Distillation;
use crate::train::loss::Normaliser;
use crate::train::teacher::Layer;
use crate::weights::HostTensor;

/// What a teacher makes of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct TeacherOutputs {
    /// Of its neck.
    pub levels: Levels,
    /// What its decoder looks at, `[tokens of all levels, d_model]`.
    pub tokens: Vec<f32>,
    /// None where only the maps are learnt from.
    pub predictions: Option<Predictions>,
}

/// What a teacher's decoder says of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// The tokens that it has selected, the best first.
    pub chosen: Vec<u32>,
    /// What the selection says of them.
    pub selection: Layer,
    /// What the last decoder layer says of them.
    pub last: Layer,
    /// Logits of its box distributions `[queries, 4, bins]`, where the student has the same bins.
    pub distributions: Option<Vec<f32>>,
    /// What `selection` and `last` add to the batch's normalisers.
    pub shares: [Normaliser; 2],
}

/// A detector that teaches.
pub struct Teacher {
    config: Config,
    network: RtDetr<Cpu>,
    /// For each of the student's classes the teacher's.
    classes: Vec<Option<usize>>,
    distillation: Distillation,
    /// Of the student.
    queries: usize,
    same_bins: bool,
    /// Whether the decoder is asked.
    predicts: bool,
}

/// Height and width of the feature maps that a network's decoder looks at. Fails where its images aren't of one size.
pub fn levels(config: &Config) -> Result<Levels> {
    let [height, width] = one_size(config.pixels.resize)?;
    let tracer = Tracer::default();
    let network = RtDetr::load(&tracer, config, &Shapes::default())?;
    let maps = network.features(&tracer, &tracer.input(&[1, height, width, 3])?)?;
    Ok(network.encode(&tracer, maps)?.deformable.levels)
}

impl Teacher {
    /// With `predicts`, its decoder's outputs are learnt from, and classes go by their names: it fails where the two have none in common. With
    /// `features`, its maps are: it fails where the student has others.
    pub fn new(checkpoint: &Checkpoint<Architecture>, student: &Config, features: bool, predicts: bool) -> Result<Self> {
        let Architecture::RtDetr(config) = &checkpoint.config else {
            let problem = format!("a teacher of {} must be of RT-DETR's family, not a DETR", student.model_type.name());
            return Err(Error::Config(problem));
        };
        let classes: Vec<Option<usize>> =
            student.labels.iter().map(|label| config.labels.iter().position(|other| other.name == label.name)).collect();
        if predicts && classes.iter().all(Option::is_none) {
            let name = |labels: &[Label]| labels.first().map_or("nothing".into(), |label| format!("{:?}", label.name));
            let (teachers, students) = (name(&config.labels), name(&student.labels));
            return Err(Error::Config(format!(
                "teacher and student have no class name in common: one's first is {teachers}, the other's {students}; --losses features needs none"
            )));
        }
        let (theirs, ours) = (levels(config)?, levels(student)?);
        if features && (&theirs, config.d_model) != (&ours, student.d_model) {
            let maps = |levels: &Levels, width: usize| {
                let sizes: Vec<String> = levels.iter().map(|[height, width]| format!("{height}×{width}")).collect();
                format!("{} of width {width}", sizes.join(", "))
            };
            return Err(Error::Config(format!(
                "the teacher's maps are {}, the student's {}: they can't be compared; --losses outputs compares predictions alone",
                maps(&theirs, config.d_model),
                maps(&ours, student.d_model)
            )));
        }
        Ok(Self {
            network: RtDetr::load(&Cpu, config, &checkpoint.weights)?,
            classes,
            distillation: Distillation::new(crate::config::ClassActivation::Sigmoid),
            queries: student.queries,
            same_bins: same_bins(&config.decoder.boxes, &student.decoder.boxes),
            predicts,
            config: *config.clone(),
        })
    }

    /// How many of the student's classes it knows.
    pub fn known(&self) -> usize {
        self.classes.iter().flatten().count()
    }

    /// How it wants its images.
    pub fn pixels(&self) -> &Pixels {
        &self.config.pixels
    }

    /// What it makes of an image `[height, width, 3]`.
    pub fn outputs(&self, pixels: &HostTensor) -> Result<TeacherOutputs> {
        let shape: Vec<usize> = std::iter::once(1).chain(pixels.shape.iter().copied()).collect();
        let pixels = Cpu.constant(&HostTensor::f32(&shape, pixels.to_f32().into_owned()))?;
        let maps = self.network.features(&Cpu, &pixels)?;
        let levels = self.network.encode(&Cpu, maps)?;
        let numbers = |x: &_| -> Result<Vec<f32>> { Ok(cpu::to_host(x)?.to_f32().into_owned()) };
        let tokens = numbers(&levels.tokens)?;
        if let Some(at) = tokens.iter().position(|x| !x.is_finite()) {
            return Err(Error::Output(format!("a teacher's maps hold {} at {at}", tokens[at])));
        }
        let mut predictions = None;
        if self.predicts {
            let candidates = self.network.candidates(&Cpu, &levels)?;
            let chosen = self.network.choose(&Cpu, &candidates.scores)?;
            let selected = self.network.select_chosen(&Cpu, &candidates, &chosen)?;
            let selection = Layer {
                logits: self.logits(&numbers(&Cpu.gather(&candidates.scores, &chosen)?)?),
                boxes: numbers(&Cpu.activate(&selected.boxes, crate::config::Activation::Sigmoid)?)?,
                content: None,
                classes: self.classes.len(),
            };
            let decoded = self.network.decode_each(&Cpu, selected, &levels, None)?;
            let layer = decoded.layers.last().ok_or_else(|| Error::Config("a teacher without decoder layers has nothing to say".into()))?;
            let last = Layer {
                logits: self.logits(&numbers(&layer.output.logits)?),
                boxes: numbers(&layer.output.boxes)?.into_iter().map(|x| x.clamp(0.0, 1.0)).collect(),
                content: None,
                classes: self.classes.len(),
            };
            selection.check()?;
            last.check()?;
            let distributions = layer.distributions.as_ref().filter(|_| self.same_bins).map(|all| numbers(&all.logits)).transpose()?;
            let shares = [&selection, &last].map(|layer| self.distillation.surest(&layer.predicted(), self.queries));
            let chosen = numbers(&Cpu.index_values(&chosen)?)?.into_iter().map(|token| token as u32).collect();
            predictions = Some(Predictions { chosen, selection, last, distributions, shares });
        }
        Ok(TeacherOutputs { levels: levels.deformable.levels, tokens, predictions })
    }

    /// The teacher's logits `[queries, its classes]` in the student's order of classes.
    fn logits(&self, own: &[f32]) -> Vec<f32> {
        let rows = own.chunks_exact(self.config.classes.max(1));
        rows.flat_map(|row| self.classes.iter().map(|class| class.map_or(f32::NEG_INFINITY, |class| row[class]))).collect()
    }
}

/// Whether box distributions are over the same distances.
fn same_bins(a: &BoxHead, b: &BoxHead) -> bool {
    let key = |head: &BoxHead| match *head {
        BoxHead::Distributions { bins, reg_scale, up, .. } => Some((bins, reg_scale, up)),
        BoxHead::Offsets => None,
    };
    key(a).is_some() && key(a) == key(b)
}
