// Softmax of each row, in place: a workgroup takes one row. The largest score is subtracted first, so that nothing overflows.

struct Parameters {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> x: array<f32>;

const THREADS = 64u;
var<workgroup> parts: array<f32, 2u * THREADS>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let row = group.y * groups.x + group.x;
    // A row too many is read like the last one and not written.
    let start = min(row, p.rows - 1u) * p.width;
    var part = -3.4e38;
    for (var i = local; i < p.width; i += THREADS) {
        part = max(part, x[start + i]);
    }
    parts[local] = part;
    workgroupBarrier();
    var top = -3.4e38;
    for (var i = 0u; i < THREADS; i++) {
        top = max(top, parts[i]);
    }
    part = 0.0;
    for (var i = local; i < p.width; i += THREADS) {
        part += exp(x[start + i] - top);
    }
    parts[THREADS + local] = part;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        sum += parts[THREADS + i];
    }
    if (row < p.rows) {
        for (var i = local; i < p.width; i += THREADS) {
            x[start + i] = exp(x[start + i] - top) / sum;
        }
    }
}
