//! The backends on candle's tensors against the naive one: the CPU's own kernels, and the operations that have gradients.

mod operators;

use crate::kernels::{check_kernels, check_refusals, compare, random};
use crate::operators::check_operators;
use candle_core::{Device, Tensor, Var};
use detrim::HostTensor;
use detrim::autograd::Autograd;
use detrim::backend::{Backend, Padding, Window};
use detrim::config::Activation;
use detrim::cpu::{self, Cpu};

fn numbers(x: &Tensor) -> Vec<f32> {
    cpu::to_host(x).unwrap().to_f32().into_owned()
}

#[test]
fn kernels_agree_with_the_naive_backend() {
    check_kernels(&Cpu, numbers);
}

#[test]
fn operations_with_gradients_agree_with_the_naive_backend() {
    check_kernels(&autograd(), numbers);
}

#[test]
fn operators_agree_with_pytorch() {
    check_operators(&Cpu, numbers);
    check_operators(&autograd(), numbers);
}

#[test]
fn what_can_t_be_computed_is_refused() {
    check_refusals(&Cpu);
    check_refusals(&autograd());
}

fn autograd() -> Autograd {
    Autograd::new(Device::Cpu, |_| true)
}

/// The gradient of a weighted sum of an operation's output, by its inputs and by its parameters, agrees with what small steps change.
/// `compute` builds the operation anew from a backend and its inputs.
fn check_gradients(what: &str, inputs: &[HostTensor], compute: impl Fn(&Autograd, &[Tensor]) -> Tensor) {
    let run = |inputs: &[HostTensor]| {
        let backend = autograd();
        let inputs: Vec<Var> = inputs.iter().map(|x| Var::from_vec(x.to_f32().into_owned(), &x.shape[..], &Device::Cpu).unwrap()).collect();
        let out = compute(&backend, &inputs.iter().map(|x| x.as_tensor().clone()).collect::<Vec<_>>());
        let weights = backend.constant(&random(out.dims(), 99)).unwrap();
        ((out * weights).unwrap().sum_all().unwrap(), inputs)
    };
    let (sum, variables) = run(inputs);
    let gradients = sum.backward().unwrap();
    for (i, variable) in variables.iter().enumerate() {
        let gradient = numbers(gradients.get(variable).unwrap_or_else(|| panic!("{what}: input {i} has no gradient")));
        assert!(gradient.iter().any(|g| *g != 0.0), "{what}: the gradient by input {i} vanishes");
        // Along a direction, since single numbers change the sum too little for f32.
        let direction = random(&inputs[i].shape, 7 + i as u64);
        let along: f64 = gradient.iter().zip(direction.to_f32().iter()).map(|(g, d)| f64::from(g * d)).sum();
        let at = |step: f32| {
            let mut moved = inputs.to_vec();
            let values = moved[i].to_f32().iter().zip(direction.to_f32().iter()).map(|(x, d)| x + step * d).collect();
            moved[i] = HostTensor::f32(&moved[i].shape, values);
            f64::from(run(&moved).0.to_scalar::<f32>().unwrap())
        };
        let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
        let scale: f64 = 0.05 + gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        assert!((slope - along).abs() < 0.02 * scale, "{what}: by input {i} the slope is {slope}, the gradient says {along}");
    }
}

#[test]
fn every_operation_has_the_right_gradient() {
    for (activation, residual) in [(Activation::None, true), (Activation::Gelu, true), (Activation::Sigmoid, false), (Activation::Silu, false)] {
        check_gradients(&format!("linear {activation:?}"), &[random(&[2, 3, 5], 1), random(&[2, 3, 7], 2)], |backend, x| {
            let map = backend.load_linear("map", &random(&[7, 5], 3), &random(&[7], 4)).unwrap();
            let out = backend.linear(&x[0], &map, activation, residual.then_some(&x[1])).unwrap();
            if residual { out } else { backend.add(&out, &x[1], Activation::None).unwrap() }
        });
    }
    for bias in [None, Some([1, 1, 5]), Some([2, 1, 5]), Some([1, 3, 5]), Some([2, 3, 5])] {
        let inputs = [random(&[2, 3, 6], 1), random(&[2, 5, 6], 2), random(&[2, 5, 4], 3)];
        check_gradients(&format!("attention {bias:?}"), &inputs, |backend, x| {
            let bias = bias.map(|shape| backend.constant(&random(&shape, 4)).unwrap());
            backend.attention(&x[0], &x[1], &x[2], 2, bias.as_ref()).unwrap()
        });
    }
    check_gradients("layer norm", &[random(&[2, 3, 19], 1)], |backend, x| {
        let norm = backend.load_norm("norm", &random(&[19], 2), Some(&random(&[19], 3)), 1e-5).unwrap();
        backend.norm(&x[0], &norm).unwrap()
    });
    let window = Window::new(3, 2, Padding::Same);
    check_gradients("convolution", &[random(&[2, 5, 4, 3], 1)], |backend, x| {
        let conv = backend.load_conv("conv", &random(&[4, 3, 3, 3], 2), &random(&[4], 3), None, window).unwrap();
        backend.conv(&x[0], &conv, Activation::None, None).unwrap()
    });
    for (shape, window) in DEPTHWISE {
        check_gradients(&format!("depthwise {shape:?} {window:?}"), &[random(&shape, 1)], |backend, x| {
            let (weight, bias) = depthwise_weights(shape, window);
            let conv = backend.load_depthwise("conv", &weight, &bias, None, window).unwrap();
            backend.depthwise(&x[0], &conv, Activation::None).unwrap()
        });
    }
}

/// The gradients of the first would be lost without a word.
#[test]
fn a_variable_is_loaded_once() {
    let backend = autograd();
    let load = |name: &str| backend.load_linear(name, &random(&[7, 5], 3), &random(&[7], 4)).map(|_| ());
    load("map").unwrap();
    load("other").unwrap();
    let error = load("map").unwrap_err().to_string();
    assert!(error.contains("map.weight is loaded twice"), "{error}");
    // What isn't trained may be shared.
    let frozen = Autograd::new(Device::Cpu, |_| false);
    for _ in 0..2 {
        frozen.load_linear("map", &random(&[7, 5], 3), &random(&[7], 4)).unwrap();
    }
}

/// Odd shapes, both kinds of padding, and more channels than are computed together.
const DEPTHWISE: [([usize; 4], Window); 6] = [
    ([2, 5, 4, 3], Window::new(3, 2, Padding::Same)),
    ([1, 1, 1, 2], Window::new(5, 1, Padding::Same)),
    ([2, 7, 3, 33], Window::new(5, 2, Padding::Same)),
    ([1, 6, 5, 64], Window::new(3, 1, Padding::Same)),
    ([1, 5, 7, 5], Window::new(3, 2, Padding::Even(1))),
    ([1, 7, 6, 4], Window::new(3, 1, Padding::Even(2)).dilated(2)),
];

fn depthwise_weights(shape: [usize; 4], window: Window) -> (HostTensor, HostTensor) {
    (random(&[window.kernel[0], window.kernel[1], shape[3]], 2), random(&[shape[3]], 3))
}

/// A depthwise convolution's result and all its gradients, on the CPU and as made of candle's operations, whose gradients are candle's. The
/// inputs reach both bounds of the activation.
#[test]
fn depthwise_convolutions_are_what_their_taps_sum_up_to() {
    for (shape, window) in DEPTHWISE {
        for activation in [Activation::None, Activation::Relu, Activation::Relu6, Activation::Silu] {
            let backend = autograd();
            let wide = random(&shape, 1).to_f32().iter().map(|x| 20.0 * x).collect();
            let x = Var::from_tensor(&backend.constant(&HostTensor::f32(&shape, wide)).unwrap()).unwrap();
            let (weight, bias) = depthwise_weights(shape, window);
            let conv = backend.load_depthwise("conv", &weight, &bias, None, window).unwrap();
            let variables = backend.variables();
            let (weight, bias) = (&variables["conv.weight"], &variables["conv.bias"]);
            let found = backend.depthwise(&x, &conv, activation).unwrap();

            let place = window.place(shape[1], shape[2]);
            let padded = x.pad_with_zeros(1, place.top, 8).unwrap().pad_with_zeros(2, place.left, 8).unwrap();
            let mut sum = bias.broadcast_as((shape[0], place.out_height, place.out_width, shape[3])).unwrap();
            let places =
                |first: usize, count: usize| Tensor::from_iter((0..count).map(|i| (first + i * window.stride) as u32), &Device::Cpu).unwrap();
            for tap in 0..window.kernel[0] * window.kernel[1] {
                let [down, along] = [tap / window.kernel[1] * window.dilation, tap % window.kernel[1] * window.dilation];
                let rows = padded.index_select(&places(down, place.out_height), 1).unwrap();
                let seen = rows.index_select(&places(along, place.out_width), 2).unwrap();
                sum = (sum + seen.broadcast_mul(&weight.get(tap).unwrap()).unwrap()).unwrap();
            }
            let expected = match activation {
                Activation::Relu => sum.relu(),
                Activation::Relu6 => sum.clamp(0f32, 6f32),
                Activation::Silu => sum.silu(),
                _ => Ok(sum),
            };
            let expected = expected.unwrap();
            let what = format!("{shape:?} {window:?} {activation:?}");
            compare(&what, &numbers(&found), &numbers(&expected));
            let slopes = backend.constant(&random(found.dims(), 9)).unwrap();
            let gradients = [found, expected].map(|out| (out * &slopes).unwrap().sum_all().unwrap().backward().unwrap());
            for variable in [&x, weight, bias] {
                let [ours, theirs] = gradients.each_ref().map(|all| numbers(all.get(variable).unwrap()));
                compare(&format!("{what}: gradient"), &ours, &theirs);
            }
        }
    }
}

/// The parameters' gradients too: by the linear map's and the norm's own.
#[test]
fn every_parameter_has_a_gradient() {
    let backend = autograd();
    let x = backend.constant(&random(&[2, 4, 6], 1)).unwrap();
    let map = backend.load_linear("map", &random(&[6, 6], 2), &random(&[6], 3)).unwrap();
    let norm = backend.load_norm("norm", &random(&[6], 4), Some(&random(&[6], 5)), 1e-5).unwrap();
    let rms = backend.load_norm("rms", &random(&[6], 6), None, 1e-5).unwrap();
    let window = Window::new(3, 1, Padding::Even(1));
    let conv = backend.load_conv("conv", &random(&[6, 3, 3, 6], 7), &random(&[6], 8), Some(&random(&[2], 9)), window).unwrap();
    let depthwise = backend.load_depthwise("depthwise", &random(&[3, 3, 6], 10), &random(&[6], 11), Some(&random(&[2], 12)), window).unwrap();
    let out = backend.norm(&backend.linear(&x, &map, Activation::Relu, None).unwrap(), &norm).unwrap();
    let out = backend.reshape(&backend.norm(&out, &rms).unwrap(), &[2, 2, 2, 6]).unwrap();
    let out = backend.depthwise(&backend.conv(&out, &conv, Activation::Relu, None).unwrap(), &depthwise, Activation::Silu).unwrap();
    let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let variables = backend.variables();
    let layers = ["conv", "depthwise"].into_iter().flat_map(|name| ["affine", "bias", "weight"].map(|part| format!("{name}.{part}")));
    let others = ["map.bias", "map.weight", "norm.bias", "norm.weight", "rms.weight"].map(str::to_owned);
    assert_eq!(variables.keys().cloned().collect::<Vec<_>>(), layers.chain(others).collect::<Vec<_>>());
    for (name, variable) in variables {
        assert!(gradients.get(&variable).is_some_and(|gradient| numbers(gradient).iter().any(|g| *g != 0.0)), "{name}");
    }
}
