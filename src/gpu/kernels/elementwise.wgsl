// y = activation(x), or with BINARY activation(a + b) and a · b (MULTIPLY). A dimension of b may be 1 where a's isn't: it is
// repeated.
//
// DIMENSIONS: how many of a's tell where an element of b is, after neighbours were joined. SPLAT: b isn't as wide as a, so
// that one number of it goes with all four of a's.

struct Parameters {
    count: u32,        // elements of a
    code: u32,
    low: f32,
    high: f32,
    scale: f32,
    shift: f32,
#for d in DIMENSIONS
    // The innermost first: a's elements along it, and how far apart b's are (0 where they are repeated).
    size$d: u32,
    step$d: u32,
#end
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> a: array<Element>;
#if BINARY
#if SPLAT
@group(0) @binding(2) var<storage, read> b: array<f32>;
#else
@group(0) @binding(2) var<storage, read> b: array<Element>;
#end
@group(0) @binding(3) var<storage, read_write> y: array<Element>;
#else
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    var value = a[index];
#if BINARY
    var rest = index;
    var at = 0u;
#for d in DIMENSIONS
    at += rest % p.size$d * p.step$d;
    rest /= p.size$d;
#end
#if MULTIPLY
    value *= Element(b[at]);
#else
    value += Element(b[at]);
#end
#end
#if VECTOR
    y[index] = epilogue(value);
#else
    y[index] = epilogue(vec4<f32>(value)).x;
#end
}
