// y = activation(a + b), where b may be one for all pictures of a batch.

struct Parameters {
    count: u32,      // elements of a
    period: u32,     // elements of b
    code: u32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> a: array<Element>;
@group(0) @binding(2) var<storage, read> b: array<Element>;
@group(0) @binding(3) var<storage, read_write> y: array<Element>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    let sum = a[index] + b[index % p.period];
#if VECTOR
    y[index] = activate(sum);
#else
    y[index] = activate(vec4<f32>(sum)).x;
#end
}
