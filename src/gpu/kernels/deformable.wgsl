// Multi-scale deformable attention ("Deformable DETR", Zhu et al., 2020): each invocation makes one element of one head of one
// query. It looks at a few points of each level's feature map, at `centre + offset / points * size of the box * offset_scale`, and
// mixes what it finds there by a softmax over all points of the head. The elements of a head repeat the same few sums for where
// the points are, which is cheaper than to wait for one another.
//
// DISCRETE: the nearest place, clamped into the map, instead of a bilinear mix with zeros outside.

struct Parameters {
    count: u32,        // elements of y
    width: u32,        // of a head, in elements
    heads: u32,
    queries: u32,
    tokens: u32,       // of all levels
    points: u32,       // of a head on all levels
    offset_scale: f32,
#for l in LEVELS
    height$l: u32,
    width$l: u32,
    points$l: u32,
    share$l: f32,      // 1 / points
#end
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> value: array<Element>;
@group(0) @binding(2) var<storage, read> offsets: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> weights: array<f32>;
@group(0) @binding(4) var<storage, read> boxes: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<Element>;

// The value at a location in fractions of a map of `size` (x, y), whose first element for this invocation is `start`.
fn look(location: vec2<f32>, size: vec2<u32>, start: u32) -> Element {
    let pitch = p.heads * p.width;
    let end = vec2<i32>(size) - 1;
#if DISCRETE
    // Clamped before it is an integer, for which it may be too large.
    let place = floor(clamp(location * vec2<f32>(size) + 0.5, vec2<f32>(), vec2<f32>(end)));
    let at = clamp(vec2<i32>(place), vec2<i32>(), end);
    return value[start + u32(at.y * i32(size.x) + at.x) * pitch];
#else
    // One place beyond the edge there is nothing any more.
    let place = clamp(location * vec2<f32>(size) - 0.5, vec2<f32>(-1.0), vec2<f32>(size));
    let low = floor(place);
    let part = place - low;
    let first = vec2<i32>(low);
    var sum = Element();
#for j in 2
#for i in 2
    {
        let corner = first + vec2<i32>($i, $j);
        let inside = all(corner >= vec2<i32>()) && all(corner <= end);
        let at = clamp(corner, vec2<i32>(), end);
#if i
        let across = part.x;
#else
        let across = 1.0 - part.x;
#end
#if j
        let down = part.y;
#else
        let down = 1.0 - part.y;
#end
        sum += value[start + u32(at.y * i32(size.x) + at.x) * pitch] * select(0.0, across * down, inside);
    }
#end
#end
    return sum;
#end
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    let pitch = p.heads * p.width;
    let query = index / pitch;
    let box = boxes[query];
    // The first point of this query's head.
    let first = index / p.width * p.points;
    // The largest weight is subtracted, so that nothing overflows.
    var top = weights[first];
    for (var point = first + 1u; point < first + p.points; point++) {
        top = max(top, weights[point]);
    }
    var start = query / p.queries * p.tokens * pitch + index % pitch;
    var point = first;
    var total = 0.0;
    var sum = Element();
#for l in LEVELS
    for (var i = 0u; i < p.points$l; i++) {
        let weight = exp(weights[point] - top);
        let location = box.xy + offsets[point] * p.share$l * box.zw * p.offset_scale;
        total += weight;
        sum += look(location, vec2<u32>(p.width$l, p.height$l), start) * weight;
        point++;
    }
    start += p.height$l * p.width$l * pitch;
#end
    y[index] = sum / total;
}
