//! Fine-tune a pruned detector with the unpruned one as its teacher:
//!
//! ```sh
//! cargo run --release --example fine_tune -- smaller.safetensors base.safetensors labels.json photos 1000 better.safetensors
//! ```
//!
//! `labels.json` is in COCO's format; with a teacher it may be a list of images and categories without annotations.
//! `detrim train` does the same with a folder, a log, saved states and more options.

use anyhow::{Context, Result, bail};
use candle_core::Device;
use detrim::checkpoint::{Checkpoint, Guess, Storage, open, write_own};
use detrim::progress::Silent;
use detrim::train::data::{Data, Features, Pictures, Views};
use detrim::train::denoise::Noise;
use detrim::train::ema::Ema;
use detrim::train::loss::Criterion;
use detrim::train::optimiser::AdamW;
use detrim::train::run::{Settings, State};
use detrim::train::schedule::{Schedule, Shape};
use detrim::train::step::{Method, step, trainable};
use detrim::train::teacher::Teacher;
use detrim::train::trained::Trained;
use std::path::Path;

/// Trains the transformer of `student` for some steps and writes the detector to `out`; the total loss of each step.
pub fn fine_tune(student: &Path, teacher: &Path, labels: &Path, images: &Path, steps: u64, out: &Path) -> Result<Vec<f32>> {
    let (student, teacher) = (open(student, &Guess::default())?, open(teacher, &Guess::default())?);
    let config = &student.config;
    let mut state = State { provenance: student.card.provenance.clone(), ..State::new(trainable(&student.weights)) };

    // Labelled images in two augmented views. The backbones are frozen: their features are computed once, into a folder.
    let pictures = Pictures::open(&[labels.into()], images, &config.labels, false, false)?;
    let views = Views::new(2, 0, 0.0, &pictures);
    let cache = tempfile::tempdir()?;
    let features = |of: &Checkpoint| Features::open_or_build(cache.path(), of, of.config.backbone.stages(), &pictures, &views, &Silent);
    let (ours, theirs) = (features(&student)?, features(&teacher)?);
    let batch = 4;
    let data = Data::new(pictures, ours, 0.0, batch, 0)?.taught(Teacher::new(&teacher, config, &state.weights, 1.0)?, theirs);
    data.pictures().problems.iter().chain(data.undecoded()).for_each(|problem| eprintln!("{problem}"));

    let shards = std::thread::available_parallelism().map_or(1, |cores| cores.get()).min(batch);
    let criterion = Criterion::new(config.class_activation);
    let method = Method { criterion, denoising: 0, noise: Noise::default(), tokens: 4, shards, device: Device::Cpu };
    let settings = Settings {
        optimiser: AdamW::default(),
        ema: Ema { decay: 0.999 },
        schedule: Schedule { warmup: steps / 10, shape: Shape::Constant },
        rate: 1e-4,
        trained: Trained::default(),
        backbone_rate: 0.1,
        clip: 0.1,
        steps,
        seed: 0,
    };
    let mut losses = Vec::new();
    while state.step < steps {
        let report = state
            .advance(&settings, |state, rng| step(config, &state.weights, &settings.trained, &method, &data.batch(state.step as usize)?, rng))?;
        losses.push(report.losses.total);
        if state.step.is_multiple_of(50) {
            println!("step {}: loss {:.3}", state.step, losses.last().context("no step")?);
        }
    }
    write_own(out, &state.detector(config)?, Storage::F16)?;
    Ok(losses)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [student, teacher, labels, images, steps, out] = &arguments[..] else { bail!("usage: fine_tune STUDENT TEACHER LABELS IMAGES STEPS OUT") };
    let steps = steps.parse().with_context(|| format!("{steps}: not a number of steps"))?;
    fine_tune(student.as_ref(), teacher.as_ref(), labels.as_ref(), images.as_ref(), steps, out.as_ref())?;
    println!("wrote {out}");
    Ok(())
}
