//! The operators of multi-scale networks: what joins, cuts and selects tokens, goes over single values, and looks around boxes.

use super::{ACTIVATIONS, Bench, random};
use crate::naive::Naive;
use detrim::HostTensor;
use detrim::backend::{Backend, Deformable, SamplingMethod};
use detrim::config::Activation;

impl<B: Backend> Bench<'_, B> {
    pub fn operators(&self) {
        self.pairs();
        self.single_values();
        self.softmaxes();
        self.joints();
        self.cuts();
        self.upsamplings();
        self.selections();
        self.top_values();
        self.deformable_attentions();
        self.far_locations();
    }

    /// Sums and products, where each dimension of the second may be one.
    fn pairs(&self) {
        #[rustfmt::skip]
        let cases: [(&[usize], &[usize]); 17] = [
            (&[1, 1, 1], &[1, 1, 1]), (&[1, 7, 13], &[1, 7, 13]), (&[1, 7, 13], &[1, 1, 1]), (&[3, 5, 8], &[1, 5, 8]), (&[3, 5, 7], &[3, 1, 7]),
            (&[3, 5, 7], &[3, 5, 1]), (&[3, 5, 8], &[1, 1, 8]), (&[3, 5, 8], &[1, 5, 1]), (&[3, 5, 1], &[3, 1, 1]), (&[7], &[7]), (&[7], &[1]),
            (&[5, 36], &[5, 1]), (&[2, 3, 4, 5], &[2, 1, 1, 5]), (&[2, 3, 4, 5], &[1, 3, 1, 1]), (&[2, 3, 4, 5], &[2, 1, 4, 1]),
            (&[2, 3, 4, 33], &[2, 3, 4, 33]), (&[1, 70, 40], &[1, 70, 1]),
        ];
        for (i, (shape, short)) in cases.into_iter().enumerate() {
            let (a, expected_a) = self.tensor(shape, 1);
            let (b, expected_b) = self.tensor(short, 2);
            for activation in [ACTIVATIONS[i % ACTIVATIONS.len()], Activation::None] {
                let found = self.backend.add(&a, &b, activation).unwrap();
                self.check(&format!("add {shape:?} and {short:?} {activation:?}"), &found, &Naive.add(&expected_a, &expected_b, activation).unwrap());
            }
            let found = self.backend.multiply(&a, &b).unwrap();
            self.check(&format!("multiply {shape:?} and {short:?}"), &found, &Naive.multiply(&expected_a, &expected_b).unwrap());
        }
    }

    fn single_values(&self) {
        for shape in [&[1][..], &[2, 3, 7], &[1, 5, 4, 33]] {
            let (x, expected) = self.between([-9.0, 9.0], shape, 1);
            for activation in ACTIVATIONS {
                let found = self.backend.activate(&x, activation).unwrap();
                self.check(&format!("{activation:?} of {shape:?}"), &found, &Naive.activate(&expected, activation).unwrap());
            }
            for [min, max] in [[-2.5, 4.0], [0.0, 1.0], [3.0, 3.0]] {
                let found = self.backend.clamp(&x, min, max).unwrap();
                self.check(&format!("clamp {shape:?} to {min}..{max}"), &found, &Naive.clamp(&expected, min, max).unwrap());
            }
        }
    }

    fn softmaxes(&self) {
        for (shape, size) in [(&[1, 1][..], 3.0), (&[2, 3, 33], 3.0), (&[5, 4], 1000.0), (&[2, 2, 3, 7], 3.0), (&[3, 300], 10.0)] {
            let (x, expected) = self.between([-size, size], shape, 1);
            self.check(&format!("softmax {shape:?}"), &self.backend.softmax(&x).unwrap(), &Naive.softmax(&expected).unwrap());
        }
        // What is masked.
        let (x, expected) = self.upload(&HostTensor::f32(&[2, 3], vec![0.5, -1e30, 1.0, -1e30, -1e30, 2.0]));
        self.check("masked softmax", &self.backend.softmax(&x).unwrap(), &Naive.softmax(&expected).unwrap());
    }

    fn joints(&self) {
        let cases: [(&[&[usize]], usize); 8] = [
            (&[&[1, 5, 3]], 1),
            (&[&[2, 3, 4], &[2, 1, 4], &[2, 7, 4]], 1),
            (&[&[2, 3, 4, 5], &[2, 3, 4, 1], &[2, 3, 4, 8]], 3),
            (&[&[1, 6, 5, 32], &[1, 6, 5, 64]], 3),
            (&[&[1, 2, 3], &[3, 2, 3]], 0),
            (&[&[2, 3, 2, 5], &[2, 1, 2, 5]], 1),
            (&[&[1, 3, 2, 5], &[1, 3, 1, 5]], 2),
            (&[&[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2, 1], &[2, 1]], 1),
        ];
        for (shapes, axis) in cases {
            let parts: Vec<_> = shapes.iter().zip(1..).map(|(shape, seed)| self.tensor(shape, seed)).collect();
            let found = self.backend.concat(&parts.iter().map(|part| &part.0).collect::<Vec<_>>(), axis).unwrap();
            let expected = Naive.concat(&parts.iter().map(|part| &part.1).collect::<Vec<_>>(), axis).unwrap();
            self.check(&format!("concat {shapes:?} on axis {axis}"), &found, &expected);
        }
        // The same twice.
        let (x, expected) = self.tensor(&[2, 3], 1);
        self.check("concat with itself", &self.backend.concat(&[&x, &x], 1).unwrap(), &Naive.concat(&[&expected, &expected], 1).unwrap());
    }

    fn cuts(&self) {
        for (shape, start, length) in [(&[2, 3, 7][..], 0, 7), (&[2, 3, 7], 3, 2), (&[1, 4, 5, 8], 4, 4), (&[5], 4, 1), (&[3, 70], 1, 68)] {
            let (x, expected) = self.tensor(shape, 1);
            let found = self.backend.narrow(&x, start, length).unwrap();
            self.check(&format!("narrow {shape:?} to {start}+{length}"), &found, &Naive.narrow(&expected, start, length).unwrap());
            // What is cut out is a tensor like any other.
            let found = self.backend.add(&found, &found, Activation::None).unwrap();
            let expected = Naive.narrow(&expected, start, length).unwrap();
            self.check("a sum of what is cut out", &found, &Naive.add(&expected, &expected, Activation::None).unwrap());
        }
    }

    fn upsamplings(&self) {
        for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 4, 2, 32]] {
            let (x, expected) = self.tensor(&shape, 1);
            self.check(&format!("upsample {shape:?}"), &self.backend.upsample(&x).unwrap(), &Naive.upsample(&expected).unwrap());
        }
    }

    /// The best tokens and their rows; scores that may only be a few different numbers are often equal.
    fn selections(&self) {
        for (batch, tokens, classes, k) in [(1, 1, 1, 1), (2, 7, 3, 4), (1, 130, 1, 130), (2, 60, 80, 7), (1, 1300, 2, 100)] {
            for steps in [2.0, 1e6] {
                let scores = random(&[batch, tokens, classes], 1).to_f32().iter().map(|x| (x * steps).round() / steps).collect();
                let (scores, expected_scores) = self.upload(&HostTensor::f32(&[batch, tokens, classes], scores));
                let (found, expected) = (self.backend.top_tokens(&scores, k).unwrap(), Naive.top_tokens(&expected_scores, k).unwrap());
                let what = format!("{k} best of {batch}x{tokens}x{classes}, steps of 1/{steps}");
                self.check(&what, &self.backend.index_values(&found).unwrap(), &Naive.index_values(&expected).unwrap());
                for (pictures, width) in [(batch, 5), (1, 4), (batch, 33), (1, 1)] {
                    let (x, expected_x) = self.tensor(&[pictures, tokens, width], 2);
                    let rows = self.backend.gather(&x, &found).unwrap();
                    self.check(&format!("{what}: rows of {pictures}x{width}"), &rows, &Naive.gather(&expected_x, &expected).unwrap());
                }
            }
        }
    }

    fn top_values(&self) {
        for (shape, k) in [(&[1, 1][..], 1), (&[3, 33], 4), (&[2, 3, 4, 33], 5), (&[7], 7), (&[2, 130], 130), (&[4, 9, 5], 1)] {
            for steps in [2.0, 1e6] {
                let numbers = random(shape, 1).to_f32().iter().map(|x| (x * steps).round() / steps).collect();
                let (x, expected) = self.upload(&HostTensor::f32(shape, numbers));
                let found = self.backend.top_values(&x, k).unwrap();
                self.check(&format!("{k} largest of {shape:?}, steps of 1/{steps}"), &found, &Naive.top_values(&expected, k).unwrap());
            }
        }
    }

    fn deformable_attentions(&self) {
        // Batch, queries, heads, head width, levels, points, scale of the offsets.
        type Case<'a> = (usize, usize, usize, usize, &'a [[usize; 2]], &'a [usize], f32);
        let cases: [Case; 7] = [
            (1, 1, 1, 1, &[[1, 1]], &[1], 1.0),
            (2, 5, 3, 5, &[[7, 3], [4, 2]], &[2, 3], 0.5),
            (1, 13, 8, 12, &[[10, 14], [5, 7], [3, 4]], &[3, 6, 3], 0.5),
            (1, 9, 2, 32, &[[6, 6], [3, 3], [2, 2]], &[4, 4, 4], 0.5),
            (2, 3, 1, 33, &[[1, 9]], &[5], 2.0),
            (1, 4, 2, 24, &[[3, 5], [2, 1]], &[1, 7], 0.25),
            (2, 17, 4, 8, &[[12, 5], [6, 3], [3, 2], [2, 1]], &[1, 2, 2, 1], 0.5),
        ];
        for (batch, queries, heads, width, levels, points, offset_scale) in cases {
            for method in [SamplingMethod::Default, SamplingMethod::Discrete] {
                let deformable = Deformable { heads, levels: levels.to_vec(), points: points.to_vec(), offset_scale, method };
                let all_points = heads * deformable.all_points();
                let (value, expected_value) = self.tensor(&[batch, deformable.tokens(), heads * width], 1);
                let (offsets, expected_offsets) = self.between([-3.0, 3.0], &[batch, queries, all_points * 2], 2);
                let (weights, expected_weights) = self.between([-3.0, 3.0], &[batch, queries, all_points], 3);
                // Some are centred outside of the picture.
                let (boxes, expected_boxes) = self.between([-0.2, 1.2], &[batch, queries, 4], 4);
                let found = self.backend.deformable_attention(&value, &offsets, &weights, &boxes, &deformable).unwrap();
                let expected =
                    Naive.deformable_attention(&expected_value, &expected_offsets, &expected_weights, &expected_boxes, &deformable).unwrap();
                self.check(&format!("deformable attention {batch}x{queries}, width {width}, {deformable:?}"), &found, &expected);
            }
        }
    }

    /// Locations on edges and corners, on centres of places, and so far away that an integer can't hold them.
    fn far_locations(&self) {
        let centers = [0.0, 1.0, 0.5, 0.125, 0.875, -0.125, 1.125, -7.0, 9.0, 1e10, -1e10];
        let boxes: Vec<f32> = centers.iter().flat_map(|&x| centers.iter().flat_map(move |&y| [x, y, 0.0, 0.0])).collect();
        let queries = boxes.len() / 4;
        for method in [SamplingMethod::Default, SamplingMethod::Discrete] {
            let deformable = Deformable { heads: 2, levels: vec![[4, 4], [2, 8]], points: vec![1, 2], offset_scale: 0.5, method };
            let (value, expected_value) = self.tensor(&[1, 32, 10], 1);
            let (offsets, expected_offsets) = self.tensor(&[1, queries, 12], 2);
            let (weights, expected_weights) = self.tensor(&[1, queries, 6], 3);
            let (boxes, expected_boxes) = self.upload(&HostTensor::f32(&[1, queries, 4], boxes.clone()));
            let found = self.backend.deformable_attention(&value, &offsets, &weights, &boxes, &deformable).unwrap();
            let expected = Naive.deformable_attention(&expected_value, &expected_offsets, &expected_weights, &expected_boxes, &deformable).unwrap();
            self.check(&format!("deformable attention far away, {method:?}"), &found, &expected);
        }
    }
}
