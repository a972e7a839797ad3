//! The [`Backend`](crate::backend::Backend) on wgpu: the network is recorded once for an input shape and replayed.
