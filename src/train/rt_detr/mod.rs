//! Training of RT-DETR's family (RT-DETR, RT-DETRv2, D-FINE, DEIMv2): the whole network from pixels on, against a teacher, labels, or both.
//!
//! Three kinds of losses, each with a weight of its own ([`LossWeights`]):
//!
//! * **features**: the maps that the neck makes are held to those of a teacher (`features.rs`). It needs no labels, runs no decoder, and is
//!   what heals a pruned network at a small learning rate;
//! * **outputs**: the teacher's selected tokens are the student's queries, and its scores, boxes and box distributions are their targets
//!   (`distil.rs` of the parent module);
//! * **labels**: the losses that the architectures were trained with, on every decoder layer, on the selected tokens and on denoising queries
//!   (`labelled.rs`): `loss_rt_detr.py`, `loss_d_fine.py` and `loss_deimv2.py` of Hugging Face transformers.

pub mod classes;
mod example;
mod features;
mod grid;
pub mod heads;
mod labelled;
mod localisation;
mod network;
pub mod step;
pub mod teacher;

pub use example::Example;
pub use network::{LABEL, check, finished, with_label};
pub use step::{LossWeights, Method, outcome, step};
pub use teacher::{Teacher, TeacherOutputs};
