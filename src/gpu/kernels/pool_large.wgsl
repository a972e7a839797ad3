// Pools over large windows of which there are few, up to one that is the whole map: a workgroup makes eight elements of one place,
// and 32 invocations share the window of each.

struct Parameters {
    places: u32,       // of all outputs
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
}

@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;
@group(0) @binding(2) var<storage, read_write> y: array<Element>;

const ELEMENTS = 8u;
const LANES = 32u;
var<workgroup> parts: array<Element, ELEMENTS * LANES>;

@compute @workgroup_size(8, 32)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let unit = group.y * groups.x + group.x;
    let strips = (p.channels + ELEMENTS - 1u) / ELEMENTS;
    let c = unit % strips * ELEMENTS + local.x;
    let place = unit / strips;
    // An invocation too many has no work, but must come to the barrier.
    let exists = place < p.places && c < p.channels;
    let line = place / p.out_width;
    let image = line / p.out_height;
    let top = i32(line % p.out_height * p.stride) - p.top;
    let left = i32(place % p.out_width * p.stride) - p.left;
    let rows = taps_within(top, p.kernel_height, p.dilation, p.in_height);
    let columns = taps_within(left, p.kernel_width, p.dilation, p.in_width);
    let across = columns.y - columns.x;
    let within = across * (rows.y - rows.x);
    var value = Element(NOTHING);
    if (exists) {
        for (var tap = local.y; tap < within; tap += LANES) {
            let row = u32(top + i32((rows.x + tap / across) * p.dilation));
            let column = u32(left + i32((columns.x + tap % across) * p.dilation));
            value = combine(value, x[((image * p.in_height + row) * p.in_width + column) * p.channels + c]);
        }
    }
    parts[local.y * ELEMENTS + local.x] = value;
    workgroupBarrier();
    if (exists && local.y == 0u) {
        for (var lane = 1u; lane < LANES; lane++) {
            value = combine(value, parts[lane * ELEMENTS + local.x]);
        }
        y[place * p.channels + c] = pooled(value, within, p.kernel_height * p.kernel_width);
    }
}
