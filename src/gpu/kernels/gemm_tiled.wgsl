// A workgroup of WN by WM invocations makes WM * TM places by WN * TN groups of four channels, sixteen inputs at a time
// from workgroup memory.

const PLACES = $PLACESu;        // WM * TM
const COLUMNS = $COLUMNSu;      // WN * TN
const THREADS = $THREADSu;      // WM * WN
// One more than the four vectors of a row: rows begin in different banks.
const PITCH = 5u;

var<workgroup> tile_x: array<vec4<f32>, PLACES * PITCH>;
var<workgroup> tile_w: array<vec4<f32>, 16u * COLUMNS>;

@compute @workgroup_size($WN, $WM)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_id) local: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let row = (group.z * groups.y + group.y) * PLACES;
    let column = group.x * COLUMNS;
    // Every invocation loads the same quarter of the sixteen inputs for all of its places.
    let quarter = index % 4u;
#for l in LOADS_X
    let window$l = origin(row + ($lu * THREADS + index) / 4u);
#end
#for i in TM
#for j in TN
    var sum$i_$j = vec4<f32>();
#end
#end
#if VECTOR
    let inputs = p.taps * p.inner * 4u;
#else
    let inputs = p.taps * p.inner;
#end
    for (var k = 0u; k < inputs; k += 16u) {
#if VECTOR
        let element = k / 4u + quarter;
        let known = element < p.taps * p.inner;
#if GATHER
        let tap = element / p.inner;
        let c = element % p.inner;
#else
        let tap = 0u;
        let c = element;
#end
#for l in LOADS_X
        var value$l = vec4<f32>();
        if (known) {
            value$l = fetch(locate(window$l, tap), c);
        }
#end
#else
#for l in LOADS_X
        var value$l = vec4<f32>();
#end
#for q in 4
        let element$q = k + quarter * 4u + $qu;
        if (element$q < inputs) {
            let tap = element$q / p.inner;
            let c = element$q % p.inner;
#for l in LOADS_X
            value$l[$q] = fetch(locate(window$l, tap), c);
#end
        }
#end
#end
        workgroupBarrier();
#for l in LOADS_X
        tile_x[($lu * THREADS + index) / 4u * PITCH + quarter] = value$l;
#end
#for l in LOADS_W
        {
            let at = $lu * THREADS + index;
            let input = k + at / COLUMNS;
            let n = column + at % COLUMNS;
            var value = vec4<f32>();
            if (input < inputs && n < p.outs4) {
                value = weight_at(input * p.outs4 + n);
            }
            tile_w[at] = value;
        }
#end
        workgroupBarrier();
        for (var part = 0u; part < 4u; part++) {
#for q in 4
#for j in TN
            let w$q_$j = tile_w[(part * 4u + $qu) * COLUMNS + $ju * $WNu + local.x];
#end
#end
#for i in TM
            {
                let a = tile_x[(local.y * $TMu + $iu) * PITCH + part];
#for j in TN
#for q in 4
                sum$i_$j = fma(vec4<f32>(a[$q]), w$q_$j, sum$i_$j);
#end
#end
            }
#end
        }
    }
#for i in TM
#for j in TN
    finish(row + local.y * $TMu + $iu, column + $ju * $WNu + local.x, sum$i_$j);
#end
#end
}
