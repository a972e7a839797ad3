// A workgroup makes a tile of 32 by 32, sixteen terms of the sums at a time from workgroup memory. Heads may be of any width.

#if SCORES
@group(0) @binding(1) var<storage, read> q: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
#else
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
#end

const TILE = 32u;
const TERMS = 16u;
var<workgroup> left: array<f32, TILE * (TERMS + 1u)>;
var<workgroup> right: array<f32, TERMS * (TILE + 1u)>;

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let head = group.z % p.heads;
    let batch = group.z / p.heads;
    let row0 = group.y * TILE;
    let column0 = group.x * TILE;
    let pitch = p.heads * p.width;
#if SCORES
    let terms = p.width;
    let columns = p.keys;
#else
    let terms = p.keys;
    let columns = p.width;
#end
#for i in 4
    var sum$i = vec4<f32>();
#end
    for (var term0 = 0u; term0 < terms; term0 += TERMS) {
        for (var e = index; e < TILE * TERMS; e += 64u) {
            let row = row0 + e / TERMS;
            let term = term0 + e % TERMS;
            var value = 0.0;
            if (row < p.count && term < terms) {
#if SCORES
                value = q[(batch * p.queries + p.first + row) * pitch + head * p.width + term];
#else
                value = scores[(group.z * p.count + row) * p.keys + term];
#end
            }
            left[e / TERMS * (TERMS + 1u) + e % TERMS] = value;
        }
        for (var e = index; e < TILE * TERMS; e += 64u) {
#if SCORES
            let column = e / TERMS;
            let term = e % TERMS;
#else
            let column = e % TILE;
            let term = e / TILE;
#end
            var value = 0.0;
            if (column0 + column < columns && term0 + term < terms) {
#if SCORES
                value = k[(batch * p.keys + column0 + column) * pitch + head * p.width + term0 + term];
#else
                value = v[(batch * p.keys + term0 + term) * pitch + head * p.width + column0 + column];
#end
            }
            right[term * (TILE + 1u) + column] = value;
        }
        workgroupBarrier();
        for (var term = 0u; term < TERMS; term++) {
            let at = term * (TILE + 1u) + local.x;
            let b = vec4<f32>(right[at], right[at + 8u], right[at + 16u], right[at + 24u]);
#for i in 4
            sum$i = fma(vec4<f32>(left[(local.y * 4u + $iu) * (TERMS + 1u) + term]), b, sum$i);
#end
        }
        workgroupBarrier();
    }
#for i in 4
    {
        let row = row0 + local.y * 4u + $iu;
        if (row < p.count) {
            for (var j = 0u; j < 4u; j++) {
                let column = column0 + local.x + j * 8u;
                if (column < columns) {
#if SCORES
                    var value = sum$i[j] * p.scale;
                    if (p.bias_batch != 0u) {
                        value += bias[(batch % p.bias_batch * p.bias_rows + (p.first + row) % p.bias_rows) * p.keys + column];
                    }
                    y[(group.z * p.count + row) * p.keys + column] = value;
#else
                    y[(batch * p.queries + p.first + row) * pitch + head * p.width + column] = sum$i[j];
#end
                }
            }
        }
    }
#end
}
