// Nearest-neighbour upsampling by two: each invocation writes one element of a feature map to its four places.

struct Parameters {
    count: u32,        // elements of x
    channels: u32,     // in elements
    width: u32,        // of x
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
    let c = index % p.channels;
    let place = index / p.channels;
    // Lines of all images follow one another, before and after.
    let above = (place / p.width * 4u * p.width + place % p.width * 2u) * p.channels + c;
    let below = above + 2u * p.width * p.channels;
    let value = x[index];
    y[above] = value;
    y[above + p.channels] = value;
    y[below] = value;
    y[below + p.channels] = value;
}
