// Which tokens score best: first each token's key (KEYS), that of its best class, then each token's rank, which is the number
// of tokens that are better. Of equals the first is better, so that no rank is taken twice and none is left out: exact, and the
// same on every run, without atomics.
//
// VECTOR (with KEYS): the classes are a multiple of four, and are read four at a time.

#if KEYS
struct Parameters {
    count: u32,        // keys of all images
    tokens: u32,
    padded: u32,       // keys of an image: tokens as a multiple of four
    classes: u32,      // in elements
}

@group(0) @binding(0) var<uniform> p: Parameters;
#if VECTOR
@group(0) @binding(1) var<storage, read> scores: array<vec4<u32>>;
#else
@group(0) @binding(1) var<storage, read> scores: array<u32>;
#end
@group(0) @binding(2) var<storage, read_write> keys: array<u32>;
#else
struct Parameters {
    count: u32,        // tokens of all images
    tokens: u32,
    blocks: u32,       // four keys each, of an image
    k: u32,
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> indices: array<u32>;
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
#if KEYS
    let token = index % p.padded;
    // What only fills up comes after all tokens, and so is no better than any.
    var best = 0u;
    if (token < p.tokens) {
        let start = (index / p.padded * p.tokens + token) * p.classes;
        for (var i = 0u; i < p.classes; i++) {
            let score = scores[start + i];
#if VECTOR
            best = max(best, max(max(key(score.x), key(score.y)), max(key(score.z), key(score.w))));
#else
            best = max(best, key(score));
#end
        }
    }
    keys[index] = best;
#else
    let token = index % p.tokens;
    let image = index / p.tokens;
    let start = image * p.blocks;
    let own = vec4<u32>(keys[start + token / 4u][token % 4u]);
    var at = vec4<u32>(0u, 1u, 2u, 3u);
    var counts = vec4<u32>();
    var rank = 0u;
    for (var block = 0u; block < p.blocks; block++) {
        let others = keys[start + block];
        counts += select(vec4<u32>(0u), vec4<u32>(1u), (others > own) | ((others == own) & (at < vec4<u32>(token))));
        at += vec4<u32>(4u);
        rank = counts.x + counts.y + counts.z + counts.w;
        // Most tokens needn't be ranked to the end.
        if (rank >= p.k) {
            return;
        }
    }
    indices[image * p.k + rank] = token;
#end
}
