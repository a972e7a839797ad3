//! The two attentions in ONNX's operators. Multi-head attention is what PyTorch exports; multi-scale deformable attention ("Deformable DETR",
//! Zhu et al., 2020, arXiv:2010.04159) becomes one `GridSample` a level, as in the pure PyTorch of its authors and of transformers.

use super::builder::Tensor;
use super::proto::{AttributeProto, data_type};
use super::translate::Translator;
use crate::backend::{Deformable, SamplingMethod};

impl Translator<'_> {
    /// softmax(q·kᵀ/√head width + bias)·v in each head; `query` `[batch, queries, width]`, `key` and `value` `[batch, keys, width]`, `bias`
    /// `[batch or 1, queries or 1, keys]`.
    pub fn attention(&mut self, query: &Tensor, key: &Tensor, value: &Tensor, heads: usize, bias: Option<&Tensor>) -> Tensor {
        let builder = &mut self.builder;
        let mut split = |x: &Tensor, order: [usize; 4]| {
            let heads = builder.reshape(x, &[x.shape[0], x.shape[1], heads, x.shape[2] / heads]);
            builder.transpose(&heads, &order)
        };
        let query = split(query, [0, 2, 1, 3]);
        let key = split(key, [0, 2, 3, 1]);
        let value = split(value, [0, 2, 1, 3]);
        let (batch, queries, keys, width) = (query.shape[0].max(key.shape[0]), query.shape[2], key.shape[3], value.shape[3]);
        let scale = builder.float(1.0 / (query.shape[3] as f32).sqrt());
        let query = builder.binary("Mul", &query, &scale);
        let mut scores = builder.node("MatMul", &[&query, &key], Vec::new(), &[batch, heads, queries, keys]);
        if let Some(bias) = bias {
            let bias = builder.reshape(bias, &[bias.shape[0], 1, bias.shape[1], keys]);
            scores = builder.binary("Add", &scores, &bias);
        }
        let shares = builder.softmax(&scores, 3);
        let mixed = builder.node("MatMul", &[&shares, &value], Vec::new(), &[batch, heads, queries, width]);
        let mixed = builder.transpose(&mixed, &[0, 2, 1, 3]);
        builder.reshape(&mixed, &[batch, queries, heads * width])
    }

    /// Shapes as in [`Backend::deformable_attention`](crate::backend::Backend::deformable_attention).
    pub fn deformable(&mut self, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Tensor {
        let Deformable { heads, ref levels, ref points, offset_scale, method } = *deformable;
        let builder = &mut self.builder;
        let (batch, queries, all) = (value.shape[0], offsets.shape[1], deformable.all_points());
        let width = value.shape[2] / heads;
        let images = batch * heads;
        let is_grid = method == SamplingMethod::Default;

        // Where each point lies: in fractions of the image, or for `GridSample` from -1 to 1.
        let stretch = if is_grid { 2.0 } else { 1.0 };
        let scales: Vec<f32> =
            points.iter().flat_map(|&count| std::iter::repeat_n([stretch * offset_scale / count as f32; 2], count)).flatten().collect();
        let scales = builder.floats(&[all, 2], &scales);
        let centre = builder.slice(boxes, 2, 0, 2);
        let mut centre = builder.reshape(&centre, &[batch, queries, 1, 1, 2]);
        if is_grid {
            let (two, one) = (builder.float(2.0), builder.float(1.0));
            centre = builder.binary("Mul", &centre, &two);
            centre = builder.binary("Sub", &centre, &one);
        }
        let size = builder.slice(boxes, 2, 2, 2);
        let size = builder.reshape(&size, &[batch, queries, 1, 1, 2]);
        let offsets = builder.reshape(offsets, &[batch, queries, heads, all, 2]);
        let offsets = builder.binary("Mul", &offsets, &scales);
        let offsets = builder.binary("Mul", &offsets, &size);
        let places = builder.binary("Add", &offsets, &centre);
        let places = builder.transpose(&places, &[0, 2, 1, 3, 4]);
        let places = builder.reshape(&places, &[images, queries, all, 2]);

        let shares = builder.reshape(weights, &[batch, queries, heads, all]);
        let shares = builder.softmax(&shares, 3);
        let shares = builder.transpose(&shares, &[0, 2, 1, 3]);
        let shares = builder.reshape(&shares, &[images, 1, queries, all]);

        // Each head's value as channels of an image of its own.
        let tokens = value.shape[1];
        let value = builder.transpose(value, &[0, 2, 1]);
        let value = builder.reshape(&value, &[images, width, tokens]);
        let (mut token, mut point, mut sampled) = (0, 0, Vec::new());
        for (&[height, columns], &count) in levels.iter().zip(points) {
            if count == 0 {
                token += height * columns;
                continue;
            }
            let level = self.builder.slice(&value, 2, token, height * columns);
            let at = self.builder.slice(&places, 2, point, count);
            sampled.push(match method {
                SamplingMethod::Default => self.grid_sample(&level, &at, [height, columns]),
                SamplingMethod::Discrete => self.nearest(&level, &at, [height, columns]),
            });
            (token, point) = (token + height * columns, point + count);
        }
        let builder = &mut self.builder;
        let sampled = builder.concat(&sampled, 3);
        let weighted = builder.binary("Mul", &sampled, &shares);
        let seen = builder.reduce("ReduceSum", &weighted, 3, false);
        let seen = builder.reshape(&seen, &[batch, heads * width, queries]);
        builder.transpose(&seen, &[0, 2, 1])
    }

    /// `level` `[images, channels, tokens]`, `places` `[images, queries, points, 2]` → `[images, channels, queries, points]`.
    fn grid_sample(&mut self, level: &Tensor, places: &Tensor, [height, width]: [usize; 2]) -> Tensor {
        let (images, channels) = (level.shape[0], level.shape[1]);
        let map = self.builder.reshape(level, &[images, channels, height, width]);
        // Opset 20 gave it another name.
        let mode = if self.builder.opset >= 20 { "linear" } else { "bilinear" };
        let attributes =
            vec![AttributeProto::string("mode", mode), AttributeProto::string("padding_mode", "zeros"), AttributeProto::int("align_corners", 0)];
        self.builder.node("GridSample", &[&map, places], attributes, &[images, channels, places.shape[1], places.shape[2]])
    }

    /// As [`Translator::grid_sample`] the nearest place: `floor(place * size + 0.5)`, clamped into the map.
    fn nearest(&mut self, level: &Tensor, places: &Tensor, [height, width]: [usize; 2]) -> Tensor {
        let (images, channels) = (level.shape[0], level.shape[1]);
        let (queries, points) = (places.shape[1], places.shape[2]);
        let builder = &mut self.builder;
        let half = builder.float(0.5);
        let mut along = |axis: usize, side: usize| {
            let place = builder.slice(places, 3, axis, 1);
            let side_value = builder.float(side as f32);
            let place = builder.binary("Mul", &place, &side_value);
            let place = builder.binary("Add", &place, &half);
            let place = builder.clip(&place, 0.0, (side - 1) as f32);
            // Cutting off is rounding down where nothing is negative.
            builder.unary("Floor", &place)
        };
        let (x, y) = (along(0, width), along(1, height));
        let row = builder.float(width as f32);
        let y = builder.binary("Mul", &y, &row);
        let token = builder.binary("Add", &y, &x);
        let integer = vec![AttributeProto::int("to", i64::from(data_type::INT64))];
        let token = builder.typed("Cast", &[&token], integer, &token.shape, data_type::INT64);
        let token = builder.reshape(&token, &[images, 1, queries * points]);
        let shape = [images, channels, queries * points];
        let to = builder.ints(&shape);
        let token = builder.typed("Expand", &[&token, &to], Vec::new(), &shape, data_type::INT64);
        let seen = builder.node("GatherElements", &[level, &token], vec![AttributeProto::int("axis", 2)], &shape);
        builder.reshape(&seen, &[images, channels, queries, points])
    }
}
