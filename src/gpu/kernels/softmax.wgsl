// Softmax of each row: sixteen invocations take one row. The largest score is subtracted first, so that nothing overflows.
// IN_PLACE: a row is written where it was read.

struct Parameters {
    rows: u32,
    width: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
#if IN_PLACE
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#end

fn load(i: u32) -> f32 {
#if IN_PLACE
    return y[i];
#else
    return x[i];
#end
}

const LANES = 16u;
const ROWS = 4u;
var<workgroup> tops: array<f32, ROWS * LANES>;
var<workgroup> sums: array<f32, ROWS * LANES>;

@compute @workgroup_size(16, 4)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = (group.y * groups.x + group.x) * ROWS + local.y;
    let first = local.y * LANES;
    let start = row * p.width;
    // A row too many has no elements, but its invocations must come to the barriers.
    let width = select(0u, p.width, row < p.rows);
    var part = -3.4e38;
    for (var i = local.x; i < width; i += LANES) {
        part = max(part, load(start + i));
    }
    tops[first + local.x] = part;
    workgroupBarrier();
    var top = -3.4e38;
    for (var i = 0u; i < LANES; i++) {
        top = max(top, tops[first + i]);
    }
    part = 0.0;
    for (var i = local.x; i < width; i += LANES) {
        part += exp(load(start + i) - top);
    }
    sums[first + local.x] = part;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES; i++) {
        sum += sums[first + i];
    }
    for (var i = local.x; i < width; i += LANES) {
        y[start + i] = exp(load(start + i) - top) / sum;
    }
}
