// The largest values of each row, the largest first: each invocation takes one value and counts those of its row that come
// before it, which is the place where it belongs. Rows are short.

struct Parameters {
    count: u32,        // values of all rows
    width: u32,
    k: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    let row = index / p.width;
    let value = x[index];
    let own = key(value);
    var rank = 0u;
    for (var at = row * p.width; at < (row + 1u) * p.width; at++) {
        let other = key(x[at]);
        rank += select(0u, 1u, other > own || (other == own && at < index));
    }
    if (rank < p.k) {
        y[row * p.k + rank] = value;
    }
}
