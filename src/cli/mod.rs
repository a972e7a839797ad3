//! One file for each command: its arguments and what it prints. The work is the library's.

pub mod bench;
pub mod convert;
pub mod detect;
pub mod fetch;
pub mod forward;
mod index;
pub mod inspect;
pub mod model;
