// What both kernels that pool have in common: how many taps of a window lie on the map, and what they become.
//
// AVERAGE: the mean instead of the largest value. ZEROS: taps beyond the map count as zeros; otherwise they don't count.

#if !DEPTHWISE
// Taps first..end of a window that begins at `start` (along one axis) lie on a map of this size.
fn taps_within(start: i32, taps: u32, dilation: u32, size: u32) -> vec2<u32> {
    let step = i32(dilation);
    let first = max(0, (step - 1 - start) / step);
    let end = min(i32(taps), (i32(size) - start + step - 1) / step);
    return vec2<u32>(vec2<i32>(first, max(first, end)));
}

fn combine(a: Element, b: Element) -> Element {
#if AVERAGE
    return a + b;
#else
    return max(a, b);
#end
}

// `value` of the `within` taps that lie on the map, of all `taps` of the window.
fn pooled(value: Element, within: u32, taps: u32) -> Element {
#if AVERAGE
#if ZEROS
    return value / f32(taps);
#else
    return value / f32(max(within, 1u));
#end
#else
#if ZEROS
    return select(value, max(value, Element()), within < taps);
#else
    return value;
#end
#end
}

#if AVERAGE
const NOTHING = 0.0;
#else
const NOTHING = -3.4e38;
#end
#end
