//! Work on many rows, shared among rayon's threads where there are any: in wasm everything happens on the one thread.

/// Below so many multiply-accumulates, waking a thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 18;

/// How many of `rows` rows a block takes: at most `most`, and blocks come out even among the threads.
/// `cost` is a row's multiply-accumulates.
pub fn block(rows: usize, most: usize, cost: usize) -> usize {
    let threads = if rows * cost < WORTH_SHARING { 1 } else { count() };
    let blocks = rows.div_ceil(most).next_multiple_of(threads);
    rows.div_ceil(blocks.max(1)).max(1)
}

#[cfg(not(target_arch = "wasm32"))]
fn count() -> usize {
    rayon::current_num_threads()
}

#[cfg(target_arch = "wasm32")]
fn count() -> usize {
    1
}

/// Calls `work` with each block of `size` numbers and its index.
#[cfg(not(target_arch = "wasm32"))]
pub fn each_block(out: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    use rayon::prelude::*;
    if out.len() <= size || count() == 1 {
        out.chunks_mut(size).enumerate().for_each(|(index, block)| work(index, block));
    } else {
        out.par_chunks_mut(size).enumerate().for_each(|(index, block)| work(index, block));
    }
}

#[cfg(target_arch = "wasm32")]
pub fn each_block(out: &mut [f32], size: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    out.chunks_mut(size).enumerate().for_each(|(index, block)| work(index, block));
}
