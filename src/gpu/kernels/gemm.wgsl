// y = epilogue(x · weight + bias + residual), where a row of x may be gathered from a picture's window: a convolution as a
// matrix product whose left side is never written down. What all variants have in common.
//
// VECTOR: the input channels are a multiple of four, and x is read four at a time. OUT_VECTOR: the output channels are.
// HALF: two f16 weights in each u32. INT8: four integers, whose sums are scaled at the end. GATHER: a window instead of plain rows.

struct Parameters {
    rows: u32,         // places of the output
    outs: u32,
    outs4: u32,        // groups of four output channels; the weights are padded to them
    inner: u32,        // elements of x at one place
    taps: u32,         // places of the kernel
    kernel_width: u32,
    stride: u32,
    dilation: u32,
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
    residual: u32,
}

#if INT8
alias Packed = u32;
#else
#if HALF
alias Packed = vec2<u32>;
#else
alias Packed = vec4<f32>;
#end
#end
#if OUT_VECTOR
alias Out = vec4<f32>;
#else
alias Out = f32;
#end

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
// [taps * input channels][outs4]
@group(0) @binding(2) var<storage, read> weight: array<Packed>;
// With INT8 followed by the scales.
@group(0) @binding(3) var<storage, read> bias: array<vec4<f32>>;
// Something unused where there is none.
@group(0) @binding(4) var<storage, read> residual: array<Out>;
@group(0) @binding(5) var<storage, read_write> y: array<Out>;

const NOWHERE = 0xffffffffu;

// Four output channels' weights for one input.
fn weight_at(i: u32) -> vec4<f32> {
#if INT8
    // Each byte to the top, and down again with its sign.
    return vec4<f32>(vec4<i32>(vec4<u32>(weight[i]) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
#else
#if HALF
    let packed = weight[i];
    return vec4<f32>(unpack2x16float(packed.x), unpack2x16float(packed.y));
#else
    return weight[i];
#end
#end
}

// Where an output place's window begins: image, row, column.
struct Origin { image: u32, y: i32, x: i32 }

fn origin(row: u32) -> Origin {
    let place = min(row, p.rows - 1u);
#if GATHER
    let line = place / p.out_width;
    let column = place % p.out_width;
    return Origin(line / p.out_height, i32(line % p.out_height * p.stride) - p.top, i32(column * p.stride) - p.left);
#else
    return Origin(place, 0, 0);
#end
}

// The first element of x at a tap of a window, or nowhere.
fn locate(window: Origin, tap: u32) -> u32 {
#if GATHER
    let y = window.y + i32(tap / p.kernel_width * p.dilation);
    let x = window.x + i32(tap % p.kernel_width * p.dilation);
    let inside = y >= 0 && y < i32(p.in_height) && x >= 0 && x < i32(p.in_width);
    return select(NOWHERE, ((window.image * p.in_height + u32(y)) * p.in_width + u32(x)) * p.inner, inside);
#else
    return window.image * p.inner;
#end
}

fn fetch(start: u32, c: u32) -> Element {
#if GATHER
    let inside = start != NOWHERE;
    return select(Element(), x[select(0u, start + c, inside)], inside);
#else
    return x[start + c];
#end
}

// Ends four output channels (the group `n`) of one place.
fn finish(row: u32, n: u32, sum: vec4<f32>) {
    if (row >= p.rows || n >= p.outs4) {
        return;
    }
#if INT8
    var value = fma(sum, bias[p.outs4 + n], bias[n]);
#else
    var value = sum + bias[n];
#end
#if OUT_VECTOR
    let at = row * p.outs4 + n;
    if (p.residual != 0u) {
        value += residual[at];
    }
    y[at] = epilogue(value);
#else
    let at = row * p.outs + n * 4u;
    let count = min(4u, p.outs - n * 4u);
    if (p.residual != 0u) {
        for (var i = 0u; i < count; i++) {
            value[i] += residual[at + i];
        }
    }
    value = epilogue(value);
    for (var i = 0u; i < count; i++) {
        y[at + i] = value[i];
    }
#end
}
