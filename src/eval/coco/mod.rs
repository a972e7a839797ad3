//! How good a detector is: COCO's average precision on labelled pictures.

pub mod bootstrap;
pub mod categories;
pub mod dataset;
pub mod detections;
pub mod id;
pub mod image_folder;
mod json;
pub mod matching;
pub mod metrics;
pub mod operating;
mod outline;
pub mod plot;
pub mod read;
pub mod run;
pub mod tally;
