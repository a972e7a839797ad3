// The two matrix products of attention, for all heads at once: scores = q · kᵀ / √width + bias (SCORES), and their mix of values.
// What their variants have in common.

struct Parameters {
    first: u32,        // query of the first row of scores
    count: u32,        // rows of scores in each head
    queries: u32,
    keys: u32,
    heads: u32,
    width: u32,        // of a head
    bias_batch: u32,   // zero where there is no bias
    bias_rows: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
