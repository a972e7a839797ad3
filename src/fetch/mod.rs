//! Bringing weights onto this machine: the official DETR's, and any detector's from the Hugging Face Hub.
//!
//! Whatever comes is held against what is known of it, and what is known is said and written down (`lock`).

mod client;
mod disk;
mod download;
pub mod hub;
mod lock;
mod official;

pub use client::Client;
pub use disk::Content;
pub use download::{Expected, Progress, download};
pub use official::{ADDRESS, Converted, OFFICIAL, Official};

/// The most bytes that a fetch brings unless told otherwise.
pub const MAX_BYTES: u64 = 2_000_000_000;
