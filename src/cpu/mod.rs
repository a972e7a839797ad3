//! The [`Backend`](crate::backend::Backend) on candle-core tensors: native and wasm; differentiable when training.
