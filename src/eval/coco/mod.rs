//! How good a detector is: COCO's average precision on labelled pictures.

pub mod bootstrap;
pub mod dataset;
pub mod matching;
pub mod metrics;
pub mod operating;
pub mod plot;
pub mod run;
