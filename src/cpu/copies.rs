//! What only moves numbers: concat, narrow, and upsampling by repetition.

/// `parts` one after another, each `rows` rows of its own length.
pub fn concat(parts: &[&[f32]], rows: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for row in 0..rows {
        for part in parts {
            let length = part.len() / rows;
            out.extend_from_slice(&part[row * length..][..length]);
        }
    }
    out
}

/// Numbers `start..start + length` of each row of `width`.
pub fn narrow(x: &[f32], width: usize, start: usize, length: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / width * length);
    for row in x.chunks_exact(width) {
        out.extend_from_slice(&row[start..][..length]);
    }
    out
}

/// Each place of the lines twice in both directions; a line has `width` places of `channels`.
pub fn upsample(x: &[f32], width: usize, channels: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(4 * x.len());
    for line in x.chunks_exact(width * channels) {
        let first = out.len();
        for place in line.chunks_exact(channels) {
            out.extend_from_slice(place);
            out.extend_from_slice(place);
        }
        out.extend_from_within(first..);
    }
    out
}
