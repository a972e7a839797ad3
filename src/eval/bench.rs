//! How long a detector takes: medians over runs, stage by stage.

use crate::checkpoint::Checkpoint;
use crate::config::{NetworkConfig, Resize};
use crate::detector::{Detector, Device, Info, Times};
use crate::error::{Error, Result};
use crate::eval::cost::{Part, cost};
use crate::image::{Picture, TYPICAL_PHOTO, target_size, typical_size};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub info: Info,
    /// Height and width of the network's input.
    pub size: [usize; 2],
    pub runs: usize,
    pub stages: Vec<Stage>,
}

/// Milliseconds over all runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stage {
    pub name: &'static str,
    pub median: f64,
    pub fastest: f64,
    /// Multiply-accumulates, where it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<u64>,
}

impl Stage {
    /// Billions of multiply-accumulates a second, by the median.
    pub fn speed(&self) -> Option<f64> {
        Some(self.macs? as f64 / self.median / 1e6)
    }
}

/// Runs a detector `runs` times, after once to warm up. With `size` (height, width) every picture is stretched to it.
pub async fn bench(checkpoint: &Checkpoint<impl NetworkConfig>, device: Device, runs: usize, size: Option<[usize; 2]>) -> Result<Report> {
    if runs == 0 {
        return Err(Error::Config("a benchmark needs at least one run".into()));
    }
    let Checkpoint { config, weights, card, guesses } = checkpoint.clone();
    let mut checkpoint = Checkpoint { config: config.architecture(), weights, card, guesses };
    if let Some([height, width]) = size {
        checkpoint.config.pixels_mut().resize = Resize::Stretch { height, width };
    }
    let photo = size.map_or_else(|| photo(TYPICAL_PHOTO), photo_for)?;
    let size = target_size(checkpoint.config.pixels().resize, photo.width, photo.height)?;
    let cost = cost(&checkpoint.config, size);
    let mut detector = Detector::load(&checkpoint, device).await?;
    drop(checkpoint);
    let mut times = Vec::with_capacity(runs);
    for run in 0..=runs {
        let found = detector.detect(&photo, 0.5).await?;
        if run > 0 {
            times.push(found.times);
        }
    }
    Ok(Report { info: detector.info(), size, runs, stages: stages(&times, &cost) })
}

/// Height and width of the network's input: `size`, or what the model makes of a photo.
pub fn input_size(config: &impl NetworkConfig, size: Option<[usize; 2]>) -> Result<[usize; 2]> {
    size.map_or_else(|| typical_size(config.architecture().pixels().resize), Ok)
}

/// Milliseconds of the network in a report.
pub fn network(report: &Report) -> f64 {
    report.stages.iter().find(|stage| stage.name == "network").map_or(f64::NAN, |stage| stage.median)
}

fn stages(times: &[Times], cost: &[Part]) -> Vec<Stage> {
    type Pick = fn(&Times) -> Option<f64>;
    // How long it took, and the beginnings of the names of its parts.
    let stages: [(&str, Pick, &[&str]); 8] = [
        ("pre-processing", |t| Some(t.pre), &[]),
        ("backbone", |t| Some(t.parts?.backbone), &["backbone"]),
        ("encoder", |t| Some(t.parts?.encoder), &["input_projection", "encoder", "neck"]),
        ("decoder", |t| Some(t.parts?.decoder), &["decoder", "selection", "query_position"]),
        ("heads", |t| Some(t.parts?.heads), &["heads"]),
        ("network", |t| Some(t.network), &[""]),
        ("post-processing", |t| Some(t.post), &[]),
        ("total", |t| Some(t.pre + t.network + t.post), &[]),
    ];
    let stage = |(name, pick, names): (&'static str, Pick, &[&str])| {
        let mut sorted: Vec<f64> = times.iter().filter_map(pick).collect();
        sorted.sort_by(f64::total_cmp);
        let parts = cost.iter().filter(|part| names.iter().any(|name| part.name.starts_with(name)));
        let macs = (!names.is_empty()).then(|| parts.map(|part| part.macs).sum());
        Some(Stage { name, median: median(&sorted)?, fastest: *sorted.first()?, macs })
    };
    stages.into_iter().filter_map(stage).collect()
}

/// The middle of numbers in ascending order.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { upper } else { (sorted[middle - 1] + upper) / 2.0 })
}

/// A photo for an input size: twice as large on each side, so that resizing has as much to do as with a camera's picture.
pub fn photo_for(size: [usize; 2]) -> Result<Picture> {
    photo(size.map(|side| 2 * side))
}

/// A picture that no two pixels of are alike for long: what is in it doesn't matter to the time.
fn photo([height, width]: [usize; 2]) -> Result<Picture> {
    let pixel = |i: usize| [(i % 251) as u8, (i / width % 241) as u8, (i % width % 239) as u8, 255];
    Picture::new(width, height, (0..height * width).flat_map(pixel).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Parts;

    #[test]
    fn stages_are_medians_and_absent_parts_are_left_out() {
        let times = |pre, network| Times { pre, network, post: 1.0, parts: None };
        let part = |name: &str, macs| Part { name: name.into(), shape: String::new(), parameters: 0, macs };
        let cost = [part("backbone.stem", 1_000_000), part("input_projection", 300_000), part("encoder.0", 700_000), part("heads", 50)];
        let found = stages(&[times(5.0, 30.0), times(1.0, 10.0), times(4.0, 20.0), times(2.0, 40.0)], &cost);
        let rows: Vec<_> = found.iter().map(|s| (s.name, s.median, s.fastest)).collect();
        assert_eq!(rows, [("pre-processing", 3.0, 1.0), ("network", 25.0, 10.0), ("post-processing", 1.0, 1.0), ("total", 30.5, 12.0)]);
        assert_eq!(found[1].macs, Some(2_000_050));
        assert_eq!(found[3].speed(), None);

        let parts = Some(Parts { backbone: 7.0, encoder: 2.0, decoder: 1.0, heads: 1.0 });
        let found = stages(&[Times { parts, ..times(0.0, 10.0) }], &cost);
        let rows: Vec<_> = found.iter().map(|s| (s.name, s.median, s.macs)).collect();
        assert_eq!(rows[2], ("encoder", 2.0, Some(1_000_000)));
        assert_eq!(rows[3], ("decoder", 1.0, Some(0)));
        assert_eq!(found[2].speed(), Some(0.5));
    }
}
