// Copies runs of `length` elements that lie equally far apart, to places that lie equally far apart: a part of a concatenation
// into the whole, or some channels out of all.

struct Parameters {
    count: u32,        // elements to copy
    length: u32,       // of a run
    from_start: u32,
    from_step: u32,    // from one run to the next
    to_start: u32,
    to_step: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    let run = index / p.length;
    let at = index % p.length;
    y[p.to_start + run * p.to_step + at] = x[p.from_start + run * p.from_step + at];
}
