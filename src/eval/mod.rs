//! What a detector costs and how good it is: parameters, multiply-accumulates, time.

pub mod bench;
pub mod cost;
