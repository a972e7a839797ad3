// Windows that treat each channel by itself: depthwise convolution (DEPTHWISE) and the pools of pool.wgsl. Each invocation makes COLUMNS
// neighbours of a row, whose windows (KERNEL wide, STRIDE and DILATION apart) share what they read: SPAN elements.
//
// VECTOR: channels are a multiple of four, and an element holds four of them. HALF: two f16 weights in each u32 (with VECTOR only).
// INT8: four integers, whose sums are scaled at the end.

struct Parameters {
    count: u32,        // invocations that have work
    channels: u32,     // in elements
    kernel_height: u32,
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    top: i32,
    left: i32,
    code: u32,
    low: f32,
    high: f32,
    scale: f32,
    shift: f32,
}

#if INT8
alias Packed = u32;
#else
#if HALF
alias Packed = vec2<u32>;
#else
alias Packed = Element;
#end
#end

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
#if DEPTHWISE
// [kernel height * kernel width][channels]
@group(0) @binding(2) var<storage, read> weight: array<Packed>;
// With INT8 followed by the scales.
@group(0) @binding(3) var<storage, read> bias: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

fn weight_at(i: u32) -> Element {
#if INT8
    // Each byte to the top, and down again with its sign.
#if VECTOR
    return vec4<f32>(vec4<i32>(vec4<u32>(weight[i]) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
#else
    return f32(i32(weight[i / 4u] << (24u - i % 4u * 8u)) >> 24u);
#end
#else
#if HALF
    let packed = weight[i];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
#else
    return weight[i];
#end
#end
}
#else
@group(0) @binding(2) var<storage, read_write> y: array<Element>;
#end

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let index = (group.y * groups.x + group.x) * 64u + local;
    if (index >= p.count) {
        return;
    }
    let c = index % p.channels;
    let strips = (p.out_width + $COLUMNSu - 1u) / $COLUMNSu;
    let column = index / p.channels % strips * $COLUMNSu;
    let line = index / p.channels / strips;
    let image = line / p.out_height;
    let top = i32(line % p.out_height * $STRIDEu) - p.top;
    let left = i32(column * $STRIDEu) - p.left;
#if DEPTHWISE
    let outside = Element();
#for i in COLUMNS
#if INT8
    var value$i = Element();
#else
    var value$i = bias[c];
#end
#end
#else
    let outside = Element(NOTHING);
#for i in COLUMNS
    var value$i = outside;
#end
#end
    for (var i = 0u; i < p.kernel_height; i++) {
        let row = top + i32(i * $DILATIONu);
        if (row < 0 || row >= i32(p.in_height)) {
            continue;
        }
        let start = (image * p.in_height + u32(row)) * p.in_width;
#for s in SPAN
        let inside$s = left + $s >= 0 && left + $s < i32(p.in_width);
        let x$s = select(outside, x[(start + u32(select(0, left + $s, inside$s))) * p.channels + c], inside$s);
#end
#for t in KERNEL
#if DEPTHWISE
        let weight$t = weight_at((i * $KERNELu + $tu) * p.channels + c);
#for i in COLUMNS
        value$i = fma(x$[i*STRIDE+t*DILATION], weight$t, value$i);
#end
#else
#for i in COLUMNS
        value$i = combine(value$i, x$[i*STRIDE+t*DILATION]);
#end
#end
#end
    }
#if INT8
#for i in COLUMNS
    value$i = fma(value$i, bias[p.channels + c], bias[c]);
#end
#end
#if !DEPTHWISE
    let rows_within = taps_within(top, p.kernel_height, $DILATIONu, p.in_height);
    let rows = rows_within.y - rows_within.x;
#end
    let to = (line * p.out_width + column) * p.channels + c;
#for i in COLUMNS
    if (column + $iu < p.out_width) {
#if !DEPTHWISE
        let columns = taps_within(left + $i * $STRIDE, $KERNELu, $DILATIONu, p.in_width);
        y[to + $iu * p.channels] = pooled(value$i, rows * (columns.y - columns.x), p.kernel_height * $KERNELu);
#else
#if VECTOR
        y[to + $iu * p.channels] = epilogue(value$i);
#else
        y[to + $iu * p.channels] = epilogue(vec4<f32>(value$i)).x;
#end
#end
    }
#end
}
