// Windows that treat each channel by itself: depthwise convolution (DEPTHWISE) and max pool.
//
// VECTOR: channels are a multiple of four, and an element holds four of them. HALF: two f16 weights in each u32 (with VECTOR only).

struct Parameters {
    count: u32,        // elements of the output
    channels: u32,     // in elements
    kernel_height: u32,
    kernel_width: u32,
    stride: u32,
    dilation: u32,
    in_height: u32,
    in_width: u32,
    out_height: u32,
    out_width: u32,
    top: i32,
    left: i32,
    activation: u32,
}

#if VECTOR
alias Element = vec4<f32>;
#else
alias Element = f32;
#end
#if HALF
alias Packed = vec2<u32>;
#else
alias Packed = Element;
#end

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
#if DEPTHWISE
// [kernel height * kernel width][channels]
@group(0) @binding(2) var<storage, read> weight: array<Packed>;
@group(0) @binding(3) var<storage, read> bias: array<Element>;
@group(0) @binding(4) var<storage, read_write> y: array<Element>;

fn weight_at(i: u32) -> Element {
#if HALF
    let packed = weight[i];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
#else
    return weight[i];
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
    let place = index / p.channels;
    let column = place % p.out_width;
    let line = place / p.out_width;
    let image = line / p.out_height;
    let y0 = i32(line % p.out_height * p.stride) - p.top;
    let x0 = i32(column * p.stride) - p.left;
#if DEPTHWISE
    var value = bias[c];
#else
    var value = Element(-3.4e38);
#end
    for (var i = 0u; i < p.kernel_height; i++) {
        let row = y0 + i32(i * p.dilation);
        if (row < 0 || row >= i32(p.in_height)) {
            continue;
        }
        let start = (image * p.in_height + u32(row)) * p.in_width;
        for (var j = 0u; j < p.kernel_width; j++) {
            let at = x0 + i32(j * p.dilation);
            if (at >= 0 && at < i32(p.in_width)) {
                let element = x[(start + u32(at)) * p.channels + c];
#if DEPTHWISE
                value = fma(element, weight_at((i * p.kernel_width + j) * p.channels + c), value);
#else
                value = max(value, element);
#end
            }
        }
    }
#if DEPTHWISE
#if VECTOR
    y[index] = activate(value, p.activation);
#else
    y[index] = activate(vec4<f32>(value), p.activation).x;
#end
#else
    y[index] = value;
#end
}
