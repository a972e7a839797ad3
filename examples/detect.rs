//! Find objects in an image:
//!
//! ```sh
//! cargo run --release --example detect -- models/detr-lite0-base.safetensors www/samples/chelsea.png
//! ```

use anyhow::{Result, bail};
use detrim::checkpoint::{Guess, open_any};
use detrim::detector::{Detections, Detector, Device};
use detrim::image;
use std::path::Path;

/// What a model (detrim's own file or any supported checkpoint) finds in an image file.
pub fn detect(model: &Path, photo: &Path) -> Result<Detections> {
    let checkpoint = open_any(model, &Guess::default())?;
    // What the file didn't say.
    checkpoint.guesses.iter().for_each(|assumption| eprintln!("assumed: {assumption}"));
    // Loading and detecting are async for the browser's sake; natively, pollster waits.
    let mut detector = pollster::block_on(Detector::load(&checkpoint, Device::Cpu))?;
    Ok(pollster::block_on(detector.detect(&image::open(photo)?, checkpoint.threshold()))?)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, photo] = &arguments[..] else { bail!("usage: detect MODEL PHOTO") };
    let found = detect(model.as_ref(), photo.as_ref())?;
    for detection in &found.detections {
        let b = detection.bounds;
        println!("{:12} {:.2}  {:.0},{:.0} to {:.0},{:.0}", detection.label, detection.score, b.xmin, b.ymin, b.xmax, b.ymax);
    }
    println!("{} objects in {:.0} ms", found.detections.len(), found.times.pre + found.times.network + found.times.post);
    Ok(())
}
