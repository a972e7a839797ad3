//! The one integration-test binary.

mod attention;
mod checkpoint;
mod coco;
mod cpu;
mod detect;
mod examples;
mod fetch;
mod fold;
mod foreign;
mod forward;
mod gpu;
mod hostile;
mod importance;
mod kernels;
mod labels;
mod losses;
mod naive;
mod parity;
mod pictures;
mod prune;
mod report;
mod tiny;
mod train;
mod training;
