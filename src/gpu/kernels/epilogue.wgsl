// The end of a layer: an activation, and after it a scale and a shift for all channels where AFFINE is set. The activation is a
// plain clamp, or one of the others where CURVE is set. A software adapter computes every branch of a switch, which only these
// few layers should pay for. The parameters have `code`, `low`, `high`, `scale` and `shift`, as epilogue.rs gives them.

#if CURVE
fn logistic(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(min(-x, vec4<f32>(80.0))));
}

// Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
fn erf(x: vec4<f32>) -> vec4<f32> {
    let a = abs(x);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(x) * (1.0 - series * exp(max(-a * a, vec4<f32>(-80.0))));
}

fn activate(x: vec4<f32>) -> vec4<f32> {
    switch p.code {
        case 1u: { return 0.5 * x * (1.0 + erf(x * 0.70710678)); }
        case 2u: { return x * logistic(x); }
        default: { return logistic(x); }
    }
}
#else
fn activate(x: vec4<f32>) -> vec4<f32> {
    return clamp(x, vec4<f32>(p.low), vec4<f32>(p.high));
}
#end

fn epilogue(x: vec4<f32>) -> vec4<f32> {
#if AFFINE
    return fma(activate(x), vec4<f32>(p.scale), vec4<f32>(p.shift));
#else
    return activate(x);
#end
}
