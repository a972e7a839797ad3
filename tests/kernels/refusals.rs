//! What no backend may accept: each is answered by an error, not by a panic or by numbers.

use super::random;
use detrim::HostTensor;
use detrim::backend::{Backend, Deformable, Padding, Pool, SamplingMethod, Window};
use detrim::config::Activation;

pub fn check_refusals<B: Backend>(backend: &B) {
    let x = |shape: &[usize]| backend.constant(&random(shape, 1)).unwrap();
    let refused = |what: &str, result: detrim::Result<()>| match result {
        Ok(()) => panic!("{what} is accepted"),
        Err(error) => assert!(error.to_string().len() > 10, "{what}: {error}"),
    };
    let tokens = x(&[2, 5, 4]);
    let map = x(&[1, 4, 5, 3]);

    refused("a concat of nothing", backend.concat(&[], 0).map(drop));
    refused("a concat on an axis that there isn't", backend.concat(&[&tokens, &tokens], 3).map(drop));
    refused("a concat of different widths", backend.concat(&[&tokens, &x(&[2, 5, 3])], 1).map(drop));
    refused("a concat of different ranks", backend.concat(&[&tokens, &map], 1).map(drop));
    refused("a narrow past the end", backend.narrow(&tokens, 2, 3).map(drop));
    refused("a narrow from nowhere", backend.narrow(&tokens, usize::MAX, 2).map(drop));
    refused("an upsampling of tokens", backend.upsample(&tokens).map(drop));
    for pool in [Pool::Max, Pool::Average] {
        refused("a pool of tokens", backend.pool(&tokens, Window::new(2, 1, Padding::Even(0)), pool).map(drop));
        refused("a pool that doesn't fit", backend.pool(&map, Window::new(5, 1, Padding::Even(0)), pool).map(drop));
    }
    for b in [&[2, 5, 2][..], &[2, 1, 5], &[5, 4], &[1, 2, 5, 4], &[4, 5, 4]] {
        refused("a sum of other sizes", backend.add(&tokens, &x(b), Activation::None).map(drop));
        refused("a product of other sizes", backend.multiply(&tokens, &x(b)).map(drop));
    }
    refused("more values than there are", backend.top_values(&tokens, 5).map(drop));
    refused("no values", backend.top_values(&tokens, 0).map(drop));
    refused("more tokens than there are", backend.top_tokens(&tokens, 6).map(drop));
    refused("no tokens", backend.top_tokens(&tokens, 0).map(drop));
    refused("tokens of a map", backend.top_tokens(&map, 1).map(drop));
    let indices = backend.top_tokens(&tokens, 3).unwrap();
    refused("rows of a map", backend.gather(&map, &indices).map(drop));
    refused("rows of other pictures", backend.gather(&x(&[3, 5, 4]), &indices).map(drop));

    let (conv, bias, three) = (random(&[1, 1, 1, 3], 1), random(&[1], 2), random(&[3], 3));
    let window = Window::new(1, 1, Padding::Even(0));
    refused("an affine of three numbers", backend.load_conv("conv", &conv, &bias, Some(&three), window).map(drop));
    refused("an affine of three numbers", backend.load_depthwise("depthwise", &random(&[1, 1, 3], 1), &three, Some(&three), window).map(drop));
    refused("a norm of nothing", backend.load_norm("empty", &HostTensor::f32(&[0], vec![]), None, 1e-5).map(drop));
    refused("a norm with another bias", backend.load_norm("uneven", &three, Some(&bias), 1e-5).map(drop));
    for (name, bias) in [("layer norm", Some(&three)), ("RMS norm", None)] {
        refused("a norm of another width", backend.load_norm(name, &three, bias, 1e-5).and_then(|norm| backend.norm(&tokens, &norm)).map(drop));
    }
    deformable_refusals(backend, &refused);
}

fn deformable_refusals<B: Backend>(backend: &B, refused: &dyn Fn(&str, detrim::Result<()>)) {
    let x = |shape: &[usize]| backend.constant(&random(shape, 1)).unwrap();
    let fits = Deformable { heads: 2, levels: vec![[3, 2], [1, 2]], points: vec![1, 2], offset_scale: 0.5, method: SamplingMethod::Default };
    let shapes: [&[usize]; 4] = [&[1, 8, 6], &[1, 5, 12], &[1, 5, 6], &[1, 5, 4]];
    let run = |shapes: [&[usize]; 4], deformable: &Deformable| {
        let [value, offsets, weights, boxes] = shapes.map(x);
        backend.deformable_attention(&value, &offsets, &weights, &boxes, deformable).map(drop)
    };
    run(shapes, &fits).unwrap();
    // In turn, each shape is another.
    #[rustfmt::skip]
    let others: [(usize, &[usize]); 12] = [
        (0, &[1, 9, 6]), (0, &[1, 8, 5]), (0, &[2, 8, 6]), (0, &[8, 6]), (1, &[1, 5, 10]), (1, &[1, 4, 12]), (2, &[1, 5, 4]), (2, &[2, 5, 6]),
        (3, &[1, 5, 2]), (3, &[1, 1, 4]), (3, &[5, 4]), (3, &[2, 5, 4]),
    ];
    for (i, other) in others {
        let mut shapes = shapes;
        shapes[i] = other;
        refused(&format!("deformable attention on {shapes:?}"), run(shapes, &fits));
    }
    for other in [
        Deformable { heads: 0, ..fits.clone() },
        Deformable { heads: 4, ..fits.clone() },
        Deformable { levels: vec![[3, 2]], ..fits.clone() },
        Deformable { levels: vec![[4, 2], [0, 2]], ..fits.clone() },
        Deformable { points: vec![3], ..fits.clone() },
        Deformable { points: vec![1, 1, 1], ..fits.clone() },
    ] {
        refused(&format!("{other:?}"), run(shapes, &other));
    }
}
