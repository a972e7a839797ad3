// Layer norm: a workgroup takes one row. The variance is summed from differences, not from squares, which would cancel.

struct Parameters {
    rows: u32,
    width: u32,
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;

const THREADS = 64u;
var<workgroup> parts: array<f32, 2u * THREADS>;

// The sum over the workgroup of each invocation's `part`; `half` alternates so that one barrier is enough.
fn total(part: f32, half: u32, local: u32) -> f32 {
    parts[half * THREADS + local] = part;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        sum += parts[half * THREADS + i];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y * groups.x + group.x;
    // A row too many is computed like the last one and not written.
    let start = min(row, p.rows - 1u) * p.width;
    var part = 0.0;
    for (var i = local; i < p.width; i += THREADS) {
        part += x[start + i];
    }
    let mean = total(part, 0u, local) / f32(p.width);
    part = 0.0;
    for (var i = local; i < p.width; i += THREADS) {
        let difference = x[start + i] - mean;
        part += difference * difference;
    }
    let scale = inverseSqrt(total(part, 1u, local) / f32(p.width) + p.epsilon);
    if (row < p.rows) {
        for (var i = local; i < p.width; i += THREADS) {
            y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
        }
    }
}
