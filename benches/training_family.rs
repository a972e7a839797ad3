//! How many images a second the embedded DEIMv2-Femto is trained on, from pixels in memory at 416×416, batch 8; `training_family.py` does the same steps in
//! PyTorch.
//!
//!     cargo bench --bench training_family -- [seconds]

use detrim::checkpoint::{Guess, open_any};
use detrim::config::Architecture;
use detrim::train::Target;
use detrim::train::loss::Criterion;
use detrim::train::optimiser::{AdamW, Group, Moments, parameters};
use detrim::train::rt_detr::{Example, LossWeights, Method, Teacher, step, with_label};
use detrim::train::step::trainable;
use detrim::train::trained::Trained;
use detrim::{Error, HostTensor};
use std::path::Path;
use std::time::Instant;

const BATCH: usize = 8;
const SIDE: usize = 416;
const TARGETS: usize = 7;

fn main() -> detrim::Result<()> {
    // candle's own threads would spin while ours work.
    // SAFETY: no other thread is running yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(20.0);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/deimv2-femto.safetensors");
    for (name, weights) in
        [("features", LossWeights { features: 1.0, outputs: 0.0, labels: 0.0 }), ("labels", LossWeights { features: 0.0, outputs: 0.0, labels: 1.0 })]
    {
        println!("{name}: {:.2} images/s", measure(&file, weights, seconds)?);
    }
    Ok(())
}

fn measure(file: &Path, kinds: LossWeights, seconds: f64) -> detrim::Result<f64> {
    let checkpoint = open_any(file, &Guess::default())?;
    let Architecture::RtDetr(config) = &checkpoint.config else { return Err(Error::Config("not of RT-DETR's family".into())) };
    let teacher = Teacher::new(&checkpoint, config, true, false)?;
    let mut weights = trainable(&checkpoint.weights);
    with_label(config, &mut weights, 1);
    let mut rng = fastrand::Rng::with_seed(3);
    let images: Vec<HostTensor> = (0..BATCH).map(|_| HostTensor::f32(&[SIDE, SIDE, 3], (0..SIDE * SIDE * 3).map(|_| rng.f32()).collect())).collect();
    let mut target = || Target {
        class: rng.usize(..80),
        bounds: [0.3 + 0.4 * rng.f32(), 0.3 + 0.4 * rng.f32(), 0.1 + 0.4 * rng.f32(), 0.1 + 0.4 * rng.f32()],
        weight: 1.0,
    };
    let targets: Vec<Vec<Target>> = (0..BATCH).map(|_| (0..TARGETS).map(|_| target()).collect()).collect();
    let method = Method {
        weights: kinds,
        criterion: Criterion::of_family(config.model_type),
        denoising: 100,
        noise: Method::noise(),
        shards: 2,
        device: candle_core::Device::Cpu,
    };
    let mut moments = Moments::default();
    let mut rng = fastrand::Rng::with_seed(4);
    let mut advance = || -> detrim::Result<()> {
        // The teacher looks at each image anew, as in a run.
        let looked = std::thread::scope(|scope| {
            let pieces = images.chunks(BATCH / 2).map(|images| {
                let teacher = &teacher;
                scope.spawn(move || images.iter().map(|image| (kinds.features > 0.0).then(|| teacher.outputs(image)).transpose()).collect::<Vec<_>>())
            });
            let workers: Vec<_> = pieces.collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
        });
        let mut examples = Vec::with_capacity(BATCH);
        for ((pixels, targets), teacher) in images.iter().zip(&targets).zip(looked) {
            examples.push(Example { pixels: pixels.clone(), targets: targets.clone(), known: vec![true; 80].into(), teacher: teacher? });
        }
        let outcome = step(config, &weights, &Trained::everything(), &method, &examples, &mut rng)?;
        let parameters = parameters(&mut weights, &outcome.gradients, |_| Group { rate: 1.0, decay: true })?;
        AdamW::default().step(&mut moments, parameters, 1e-6, 1.0)
    };
    advance()?;
    let begun = Instant::now();
    let mut steps = 0;
    while begun.elapsed().as_secs_f64() < seconds {
        advance()?;
        steps += 1;
    }
    Ok((steps * BATCH) as f64 / begun.elapsed().as_secs_f64())
}
