// The rows of chosen tokens; with VALUES the numbers of the tokens themselves.

#if VALUES
struct Parameters {
    count: u32,        // indices
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> indices: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
#else
struct Parameters {
    count: u32,        // elements of y
    width: u32,        // in elements
    k: u32,            // indices of an image
    tokens: u32,       // rows from one image of x to the next: zero where x is one for all
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read> indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
#if VALUES
    y[index] = f32(indices[index]);
#else
    let row = index / p.width;
    y[index] = x[(row / p.k * p.tokens + indices[row]) * p.width + index % p.width];
#end
}
