//! Training: a network, labelled pictures (by people or by another detector) and a teacher go in, better weights come out.
//!
//! The transformer, and as many of the backbone's last stages as one likes (`trained.rs`), are trained on what the frozen rest makes
//! of the pictures, which is computed once (`data/cache.rs`). A step is: some examples → the network on candle's autograd → each decoder layer's queries matched with the targets → losses and their gradients
//! → AdamW.

pub mod anchors;
pub mod classes;
pub mod clip;
pub mod data;
pub mod denoise;
pub mod distil;
pub mod ema;
mod example;
pub mod folder;
pub mod fresh;
pub mod groups;
pub mod hints;
pub mod log;
pub mod loss;
pub mod matching;
pub mod network;
pub mod optimiser;
pub mod options;
pub mod plot;
pub mod rt_detr;
pub mod run;
pub mod schedule;
mod scored;
pub mod state;
pub mod step;
pub mod teacher;
pub mod trained;

pub use example::{Example, Target};
