//! Training of RT-DETR's family: the whole network, from pixels on.

use super::work::work;
use super::{Arguments, Losses, Run, model};
use crate::cli::{complain, photos};
use anyhow::{Context, Result, ensure};
use detrim::config::{Architecture, RtDetr};
use detrim::train::data::{Images, Pictures, Views};
use detrim::train::loss::Criterion;
use detrim::train::options::write;
use detrim::train::rt_detr::heads::replace_lost;
use detrim::train::rt_detr::{LossWeights, Method, Teacher, step, with_label};
use detrim::train::run::State;
use detrim::train::trained::Trained;
use fastrand::Rng;

impl Run<'_> {
    pub fn family(self, config: RtDetr, mut state: State) -> Result<bool> {
        let arguments = self.arguments;
        let weights = weights(arguments)?;
        for (given, option) in [
            (arguments.unfreeze > 0, "--unfreeze: the whole network is trained"),
            (arguments.groups > 0, "--groups: of a DETR only"),
            (arguments.anchors.is_some(), "--anchors: of a DETR only"),
        ] {
            ensure!(!given, "{option}; {} has no use for it", config.model_type.name());
        }
        let pictures = self.images(&config, weights.labels > 0.0)?;
        let views = Views::new(arguments.views(), arguments.seed, arguments.close_ups, &pictures);
        let mut images = Images::new(pictures, views, &config.pixels, arguments.repeat_rare, arguments.batch, arguments.seed)?;
        if let Some(path) = &arguments.teacher {
            let checkpoint = model::open_any(path, &arguments.guess)?;
            let teacher = Teacher::new(&checkpoint, &config, weights.features > 0.0, weights.outputs > 0.0)
                .with_context(|| format!("--teacher {}", path.display()))?;
            if weights.outputs > 0.0 {
                eprintln!("the teacher knows {} of {} classes", teacher.known(), config.labels.len());
            }
            images = images.taught(teacher);
        }
        eprintln!("every picture is seen once in {:.0} steps", images.steps_per_epoch().ceil());
        // What only these losses train begins with them, be it in the middle of a run.
        if weights.labels > 0.0 && !state.moments.0.contains_key("class_head.0.weight") {
            if arguments.denoising() > 0 {
                with_label(&config, &mut state.weights, arguments.seed);
            }
            let some: Vec<_> = images.batch(state.step as usize)?.into_iter().take(8).map(|example| example.pixels).collect();
            let lost = replace_lost(&config, &mut state.weights, &some)?;
            if !lost.is_empty() {
                let layers: Vec<String> = lost.iter().map(|layer| layer.to_string()).collect();
                eprintln!("class heads that begin as the last decoder layer's, which serves better than their own: of layer {}", layers.join(", "));
            }
        }
        let method = Method {
            weights,
            criterion: Criterion::of_family(config.model_type),
            denoising: arguments.denoising(),
            noise: Method::noise(),
            shards: self.shards()?,
            device: self.device.clone(),
        };
        let settings = self.settings(Trained::everything());
        write(&self.folder.options(), &self.options)?;
        let losses = |state: &State, rng: &mut Rng| {
            let examples = images.batch(state.step as usize)?;
            step(&config, &state.weights, &settings.trained, &method, &examples, rng)
        };
        let architecture = Architecture::RtDetr(Box::new(config.clone()));
        let done = work(arguments, self.folder, &architecture, &settings, &losses, self.dev.as_ref(), state)?;
        complain("--images", "could not be decoded and were left out", &images.broken());
        Ok(done)
    }

    /// The labelled images, or all that there are.
    fn images(&self, config: &RtDetr, labelled: bool) -> Result<Pictures> {
        let Arguments { labels, images, .. } = self.arguments;
        if !labels.is_empty() {
            return self.pictures(&config.labels);
        }
        ensure!(!labelled, "--labels: needed for --losses labels; without, a --teacher is learnt from (--losses features)");
        let files = photos::expand(std::slice::from_ref(images))?.files;
        let names = files.iter().filter_map(|file| Some(file.strip_prefix(images).ok()?.to_str()?.to_string()));
        let pictures = Pictures::unlabelled(images, names, config.classes)?;
        eprintln!("{}", pictures.counts);
        Ok(pictures)
    }
}

/// How much each kind of losses counts.
fn weights(arguments: &Arguments) -> Result<LossWeights> {
    let taught = arguments.teacher.is_some();
    let default = [if taught { Losses::Features } else { Losses::Labels }];
    let losses = if arguments.losses.is_empty() { &default[..] } else { &arguments.losses };
    let weight = |kind: Losses, weight: f32| if losses.contains(&kind) { weight } else { 0.0 };
    let weights = LossWeights {
        features: weight(Losses::Features, arguments.teach_weight),
        outputs: weight(Losses::Outputs, arguments.teach_weight),
        labels: weight(Losses::Labels, 1.0),
    };
    ensure!(taught || weights.features + weights.outputs == 0.0, "--losses features and outputs are a teacher's: --teacher names one");
    Ok(weights)
}
