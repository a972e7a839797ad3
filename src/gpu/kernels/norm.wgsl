// Layer norm: sixteen invocations take one row. The variance is summed from differences, not from squares, which would cancel.
// RMS: neither the mean is taken out nor a bias added.

struct Parameters {
    rows: u32,
    width: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
#if RMS
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
#end

const LANES = 16u;
const ROWS = 4u;
// For two sums, so that one barrier each is enough.
var<workgroup> parts: array<f32, 2u * ROWS * LANES>;

// The sum over a row's invocations of each one's `part`.
fn total(part: f32, which: u32, local: vec3<u32>) -> f32 {
    let start = (which * ROWS + local.y) * LANES;
    parts[start + local.x] = part;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += parts[start + i];
    }
    return sum;
}

@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * groups.x + group.x) * ROWS + local.y;
    let start = row * p.width;
    // A row too many has no elements, but its invocations must come to the barriers.
    let width = select(0u, p.width, row < p.rows);
    var part = 0.0;
#if RMS
    let mean = 0.0;
#else
    for (var i = local.x; i < width; i += LANES) {
        part += x[start + i];
    }
    let mean = total(part, 0u, local) / f32(p.width);
    part = 0.0;
#end
    for (var i = local.x; i < width; i += LANES) {
        let difference = x[start + i] - mean;
        part += difference * difference;
    }
    let scale = inverseSqrt(total(part, 1u, local) / f32(p.width) + p.epsilon);
    for (var i = local.x; i < width; i += LANES) {
#if RMS
        y[start + i] = x[start + i] * scale * weight[i];
#else
        y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
#end
    }
}
