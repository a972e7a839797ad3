// Each invocation makes a block of TM places by TN groups of four channels in registers, straight from memory: no barriers.

@compute @workgroup_size($WN, $WM)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = ((group.z * groups.y + group.y) * $WMu + local.y) * $TMu;
    let column = (group.x * $WNu + local.x) * $TNu;
    if (row >= p.rows || column >= p.outs4) {
        return;
    }
#for j in TN
    let n$j = min(column + $ju, p.outs4 - 1u);
#end
#for i in TM
    let window$i = origin(row + $iu);
#for j in TN
    var sum$i_$j = vec4<f32>();
#end
#end
    var k = 0u;
    for (var tap = 0u; tap < p.taps; tap++) {
#for i in TM
        let start$i = locate(window$i, tap);
#end
        for (var c = 0u; c < p.inner; c++) {
#for i in TM
            let a$i = fetch(start$i, c);
#end
#if VECTOR
#for q in 4
#for j in TN
            let w$q_$j = weight_at(k + n$j);
#end
#for i in TM
#for j in TN
            sum$i_$j = fma(vec4<f32>(a$i[$q]), w$q_$j, sum$i_$j);
#end
#end
            k += p.outs4;
#end
#else
#for j in TN
            let w$j = weight_at(k + n$j);
#for i in TM
            sum$i_$j = fma(vec4<f32>(a$i), w$j, sum$i_$j);
#end
#end
            k += p.outs4;
#end
        }
    }
#for i in TM
#for j in TN
    finish(row + $iu, column + $ju, sum$i_$j);
#end
#end
}
