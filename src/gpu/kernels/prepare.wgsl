// An RGBA picture becomes the network's input: resized in two passes of fixed-point sums that are rounded to bytes as Pillow's
// are (see image/resample.rs, where the tables come from), then normalised.

struct Parameters {
    in_width: u32,
    in_height: u32,
    out_width: u32,
    out_height: u32,
    taps: u32,         // weights of one output place
    scale: vec4<f32>,  // of each channel: 1 / (255 * deviation)
    offset: vec4<f32>, // mean / deviation
}

@group(0) @binding(0) var<uniform> p: Parameters;
// Four bytes in each: red first.
@group(0) @binding(1) var<storage, read> picture: array<u32>;
// The first input place of each output place.
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> weights: array<i32>;
#if ACROSS
@group(0) @binding(4) var<storage, read_write> y: array<u32>;
#else
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
#end

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) at: vec3<u32>) {
#if ACROSS
    let height = p.in_height;
    let place = at.x;
#else
    let height = p.out_height;
    let place = at.y;
#end
    if (at.x >= p.out_width || at.y >= height) {
        return;
    }
    let start = starts[place];
    var sum = vec3<i32>(1 << ($PRECISION_BITSu - 1u));
    for (var tap = 0u; tap < p.taps; tap++) {
#if ACROSS
        let pixel = picture[at.y * p.in_width + start + tap];
#else
        let pixel = picture[(start + tap) * p.out_width + at.x];
#end
        let bytes = vec3<i32>(vec3<u32>(pixel, pixel >> 8u, pixel >> 16u) & vec3<u32>(255u));
        sum += bytes * weights[place * p.taps + tap];
    }
    let rounded = vec3<u32>(clamp(sum >> vec3<u32>($PRECISION_BITSu), vec3<i32>(0), vec3<i32>(255)));
#if ACROSS
    y[at.y * p.out_width + at.x] = rounded.x | (rounded.y << 8u) | (rounded.z << 16u);
#else
    let value = vec3<f32>(rounded) * p.scale.xyz - p.offset.xyz;
    let to = (at.y * p.out_width + at.x) * 3u;
    y[to] = value.x;
    y[to + 1u] = value.y;
    y[to + 2u] = value.z;
#end
}
