//! The gradients of the operators of multi-scale networks, and numbers and sizes that nobody expects.

use super::{autograd, check_gradients};
use crate::kernels::{random, spread};
use candle_core::Tensor;
use detrim::HostTensor;
use detrim::backend::{Backend, Deformable, Padding, Pool, SamplingMethod, Window};
use detrim::config::Activation;
use detrim::cpu::Cpu;

#[test]
fn every_operator_has_the_right_gradient() {
    for pool in [Pool::Max, Pool::MaxOfZeroPadded, Pool::Average, Pool::AverageWithin] {
        for window in [Window::new(3, 2, Padding::Even(1)), Window { kernel: [5, 6], ..Window::new(1, 1, Padding::Even(0)) }] {
            check_gradients(&format!("{pool:?} {window:?}"), &[apart(&[1, 5, 6, 2])], |backend, x| backend.pool(&x[0], window, pool).unwrap());
        }
    }
    check_gradients("RMS norm", &[random(&[2, 3, 19], 1)], |backend, x| {
        let norm = backend.load_norm("norm", &random(&[19], 2), None, 1e-5).unwrap();
        backend.norm(&x[0], &norm).unwrap()
    });
    check_gradients("upsample", &[random(&[2, 3, 2, 5], 1)], |backend, x| backend.upsample(&x[0]).unwrap());
    check_gradients("concat", &[random(&[2, 3, 5], 1), random(&[2, 1, 5], 2)], |backend, x| backend.concat(&[&x[0], &x[1], &x[0]], 1).unwrap());
    check_gradients("narrow", &[random(&[2, 3, 7], 1)], |backend, x| backend.narrow(&x[0], 2, 4).unwrap());
    for short in [[2, 3, 5], [1, 3, 5], [2, 1, 5], [2, 3, 1], [1, 1, 1]] {
        let inputs = [random(&[2, 3, 5], 1), random(&short, 2)];
        check_gradients(&format!("add {short:?}"), &inputs, |backend, x| backend.add(&x[0], &x[1], Activation::Silu).unwrap());
        check_gradients(&format!("multiply {short:?}"), &inputs, |backend, x| backend.multiply(&x[0], &x[1]).unwrap());
    }
    check_gradients("sigmoid", &[random(&[2, 3, 5], 1)], |backend, x| backend.activate(&x[0], Activation::Sigmoid).unwrap());
    check_gradients("clamp", &[spread(random(&[2, 3, 5], 1), [0.1, 0.4])], |backend, x| {
        // Some are far above a bound and some far below one; a step takes none across.
        let scales = backend.constant(&HostTensor::f32(&[1, 1, 5], vec![1.0, 20.0, -20.0, 0.5, -1.0])).unwrap();
        backend.clamp(&backend.multiply(&x[0], &scales).unwrap(), -1.0, 1.0).unwrap()
    });
    check_gradients("softmax", &[random(&[2, 3, 7], 1)], |backend, x| backend.softmax(&x[0]).unwrap());
    check_gradients("top values", &[apart(&[2, 2, 7])], |backend, x| backend.top_values(&x[0], 3).unwrap());
    for pictures in [2, 1] {
        check_gradients(&format!("gather from {pictures}"), &[random(&[pictures, 2, 5], 1)], |backend, x| {
            let indices = backend.top_tokens(&backend.constant(&apart(&[2, 2, 7])).unwrap(), 2).unwrap();
            backend.gather(&x[0], &indices).unwrap()
        });
    }
}

/// Numbers that are far enough apart that no step changes their order.
fn apart(shape: &[usize]) -> HostTensor {
    let length = shape.iter().product();
    // 17 divides no length here, so that each comes once.
    HostTensor::f32(shape, (0..length).map(|i| (i * 17 % length) as f32 / 4.0 - 2.0).collect())
}

#[test]
fn deformable_attention_has_the_right_gradient() {
    for method in [SamplingMethod::Default, SamplingMethod::Discrete] {
        for (heads, width) in [(1, 1), (2, 5), (3, 12), (1, 33)] {
            let deformable = Deformable { heads, levels: vec![[5, 7], [3, 2]], points: vec![3, 2], offset_scale: 0.5, method };
            let what = format!("deformable attention, {deformable:?}, width {width}");
            let (offsets, boxes) = locations(&deformable);
            let (value, weights) = (random(&[2, 41, heads * width], 1), random(&[2, 3, heads * 5], 2));
            check_gradients(&format!("{what}, by value and weights"), &[value.clone(), weights.clone()], |backend, x| {
                let [offsets, boxes] = [&offsets, &boxes].map(|x| backend.constant(x).unwrap());
                backend.deformable_attention(&x[0], &offsets, &x[1], &boxes, &deformable).unwrap()
            });
            // Where a location is rounded there is no gradient by it.
            if method == SamplingMethod::Default {
                check_gradients(&format!("{what}, by offsets and boxes"), &[offsets, boxes], |backend, x| {
                    let [value, weights] = [&value, &weights].map(|x| backend.constant(x).unwrap());
                    backend.deformable_attention(&value, &x[0], &weights, &x[1], &deformable).unwrap()
                });
            }
        }
    }
}

/// Offsets and boxes of two pictures with three queries each. Every location is in the middle between two places, some of them outside of
/// the map, so that a small step of offsets and boxes crosses none, where the slope changes.
fn locations(deformable: &Deformable) -> (HostTensor, HostTensor) {
    let all_points = deformable.heads * deformable.all_points();
    let boxes: Vec<f32> = (0..6).flat_map(|query| [0.3 + 0.08 * query as f32, 0.65 - 0.05 * query as f32, 0.4, 0.3]).collect();
    let mut offsets = Vec::new();
    for query in 0..6 {
        for point in 0..all_points {
            let in_head = point % deformable.all_points();
            let level = usize::from(in_head >= deformable.points[0]);
            let [height, width] = deformable.levels[level];
            for (axis, size) in [width, height].into_iter().enumerate() {
                let target = ((query + 2 * in_head + point / 2 + axis) % (size + 2)) as f32 / size as f32;
                let [center, extent] = [boxes[query * 4 + axis], boxes[query * 4 + 2 + axis]];
                offsets.push((target - center) / extent / deformable.offset_scale * deformable.points[level] as f32);
            }
        }
    }
    (HostTensor::f32(&[2, 3, 2 * all_points], offsets), HostTensor::f32(&[2, 3, 4], boxes))
}

/// Far too large numbers, what is no number, and tensors without numbers give some result or an error, but no panic.
#[test]
fn odd_numbers_and_empty_tensors_are_no_panic() {
    for fill in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e38] {
        let full = |shape: &[usize]| HostTensor::f32(shape, vec![fill; shape.iter().product()]);
        odd(&Cpu, &full);
        odd(&autograd(), &full);
    }
    // Each dimension in turn is zero.
    for empty in 0..4 {
        let none = |shape: &[usize]| {
            let mut shape = shape.to_vec();
            let last = shape.len() - 1;
            shape[empty.min(last)] = 0;
            HostTensor::f32(&shape, vec![])
        };
        odd(&Cpu, &none);
        odd(&autograd(), &none);
    }
}

/// Calls every operation with inputs that `x` makes. What they give isn't looked at.
fn odd<B: Backend<Tensor = Tensor>>(backend: &B, x: &dyn Fn(&[usize]) -> HostTensor) {
    let window = Window::new(3, 1, Padding::Even(1));
    let weight = |shape: &[usize]| random(shape, 1);
    let [map, tokens, boxes] = [&[1, 4, 5, 6][..], &[2, 20, 6], &[2, 3, 4]].map(|shape| backend.constant(&x(shape)).unwrap());
    let conv = backend.load_conv("conv", &weight(&[7, 3, 3, 6]), &weight(&[7]), Some(&weight(&[2])), window).unwrap();
    let depthwise = backend.load_depthwise("depthwise", &weight(&[3, 3, 6]), &weight(&[6]), Some(&weight(&[2])), window).unwrap();
    let linear = backend.load_linear("linear", &weight(&[7, 6]), &weight(&[7])).unwrap();
    for activation in [Activation::Relu6, Activation::Gelu, Activation::Silu] {
        let _ = backend.conv(&map, &conv, activation, None);
        let _ = backend.depthwise(&map, &depthwise, activation);
        let _ = backend.linear(&tokens, &linear, activation, None);
        let _ = backend.add(&tokens, &tokens, activation);
        let _ = backend.activate(&tokens, activation);
    }
    for pool in [Pool::Max, Pool::MaxOfZeroPadded, Pool::Average, Pool::AverageWithin] {
        let _ = backend.pool(&map, window, pool);
        let _ = backend.pool(&map, Window { kernel: [4, 5], ..Window::new(1, 1, Padding::Even(0)) }, pool);
    }
    let _ = backend.upsample(&map);
    let _ = backend.concat(&[&tokens, &tokens], 2);
    let _ = backend.narrow(&tokens, 1, 2);
    let _ = backend.attention(&tokens, &tokens, &tokens, 2, None);
    let _ = backend.multiply(&tokens, &backend.constant(&weight(&[1, 1, 6])).unwrap());
    let _ = backend.clamp(&tokens, 0.0, 1.0);
    let _ = backend.softmax(&tokens);
    let _ = backend.top_values(&tokens, 3);
    let _ = backend.top_values(&backend.constant(&x(&[3, 40])).unwrap(), 20);
    for (name, bias) in [("layer norm", Some(weight(&[6]))), ("RMS norm", None)] {
        let norm = backend.load_norm(name, &weight(&[6]), bias.as_ref(), 1e-5).unwrap();
        let _ = backend.norm(&tokens, &norm);
    }
    if let Ok(indices) = backend.top_tokens(&tokens, 3) {
        let _ = backend.gather(&tokens, &indices);
        let _ = backend.index_values(&indices);
    }
    let value = backend.constant(&weight(&[2, 20, 6])).unwrap();
    for method in [SamplingMethod::Default, SamplingMethod::Discrete] {
        let deformable = Deformable { heads: 2, levels: vec![[4, 3], [2, 4]], points: vec![1, 2], offset_scale: 0.5, method };
        let [offsets, weights] = [&[2, 3, 12][..], &[2, 3, 6]].map(|shape| backend.constant(&x(shape)).unwrap());
        for value in [&tokens, &value] {
            let _ = backend.deformable_attention(value, &offsets, &weights, &boxes, &deformable);
        }
    }
}

/// A shorter tensor lacks tokens that are best in a longer one.
#[test]
fn only_tokens_that_there_are_can_be_gathered() {
    let backend = autograd();
    let [scores, x] = [[1, 9, 1], [1, 3, 2]].map(|shape| backend.constant(&random(&shape, 1)).unwrap());
    let error = Cpu.gather(&x, &Cpu.top_tokens(&scores, 9).unwrap()).unwrap_err().to_string();
    assert!(error.contains("can't be gathered from [1, 3, 2]"), "{error}");
    assert!(backend.gather(&x, &backend.top_tokens(&scores, 9).unwrap()).is_err());
    for [min, max] in [[1.0, 0.0], [f32::NAN, 0.0], [0.0, f32::NAN]] {
        assert!(Cpu.clamp(&x, min, max).is_err() && backend.clamp(&x, min, max).is_err(), "{min}..{max}");
    }
}
