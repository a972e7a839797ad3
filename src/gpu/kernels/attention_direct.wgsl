// The two matrix products of attention as in attention.wgsl, without workgroup memory and with heads that are a multiple of four
// wide: each invocation makes four rows by four columns in registers.

#if SCORES
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
#end

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    let head = at.z % p.heads;
    let batch = at.z / p.heads;
    let width = p.width / 4u;
    let pitch = p.heads * width;
    let row = at.y * 4u;
#if SCORES
    let column = at.x * 4u;
    if (row >= p.count || column >= p.keys) {
        return;
    }
#for i in 4
    let q$i = (batch * p.queries + p.first + min(row + $iu, p.count - 1u)) * pitch + head * width;
    let k$i = (batch * p.keys + min(column + $iu, p.keys - 1u)) * pitch + head * width;
    var sum$i = vec4<f32>();
#end
    for (var term = 0u; term < width; term++) {
#for j in 4
        let b$j = k[k$j + term];
#end
#for i in 4
        let a$i = q[q$i + term];
        sum$i += vec4<f32>(dot(a$i, b0), dot(a$i, b1), dot(a$i, b2), dot(a$i, b3));
#end
    }
    let columns = min(4u, p.keys - column);
#for i in 4
    if (row + $iu < p.count) {
        for (var j = 0u; j < columns; j++) {
            var value = sum$i[j] * p.scale;
            if (p.bias_batch != 0u) {
                value += bias[(batch % p.bias_batch * p.bias_rows + (p.first + row + $iu) % p.bias_rows) * p.keys + column + j];
            }
            y[(at.z * p.count + row + $iu) * p.keys + column + j] = value;
        }
    }
#end
#else
    let column = at.x;
    if (row >= p.count || column >= width) {
        return;
    }
#for i in 4
    let score$i = (at.z * p.count + min(row + $iu, p.count - 1u)) * p.keys;
    var sum$i = vec4<f32>();
#end
    var value = batch * p.keys * pitch + head * width + column;
    for (var term = 0u; term < p.keys; term++) {
        let b = v[value];
        value += pitch;
#for i in 4
        sum$i = fma(vec4<f32>(scores[score$i + term]), b, sum$i);
#end
    }
#for i in 4
    if (row + $iu < p.count) {
        y[(batch * p.queries + p.first + row + $iu) * pitch + head * width + column] = sum$i;
    }
#end
#end
}
