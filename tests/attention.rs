//! Where queries look, against the plainest computation of the same.

use crate::naive::{Naive, Tensor};
use detrim::backend::Backend;
use detrim::checkpoint::{Checkpoint, random};
use detrim::config::*;
use detrim::detector::{self, AttentionMaps};
use detrim::fold::fold;
use detrim::image::{Picture, prepare};
use detrim::model::Detr;
use detrim::watch::{Observe, Seen, Watch};

const HEADS: usize = 3;
const HEAD_WIDTH: usize = 5;
const QUERIES: usize = 4;

/// Two decoder layers of different shapes; the picture's aspect stays, so that rows and columns differ.
fn checkpoint() -> Checkpoint {
    let heads = |heads, head_width| Attention { heads, head_width };
    let block = |stride| ResNetBlock { inner: vec![6], stride, dilation: 1, second_dilation: None, projection: true };
    let config = Config {
        backbone: Backbone::Resnet(ResNet { stem: 4, stages: vec![ResNetStage { channels: 6, blocks: vec![block(2)] }] }),
        d_model: 8,
        encoder: vec![EncoderLayer { self_attention: heads(2, 4), ffn: 6 }],
        decoder: vec![
            DecoderLayer { self_attention: Some(heads(2, 4)), cross_attention: heads(2, 4), ffn: 6 },
            DecoderLayer { self_attention: Some(heads(1, 4)), cross_attention: heads(HEADS, HEAD_WIDTH), ffn: 6 },
        ],
        queries: QUERIES,
        classes: 2,
        activation: Activation::Relu,
        class_activation: ClassActivation::Softmax,
        query_content: true,
        box_reference: false,
        labels: vec![Label { id: 1, name: "thing".into() }],
        pixels: Pixels { resize: Resize::ShortestSide { short: 24, long: 60 }, ..Pixels::detr() },
    };
    random(config, "tiny", 3)
}

fn picture(seed: usize) -> Picture {
    let (width, height) = (70, 40);
    Picture::new(width, height, (0..width * height * 4).map(|i| (i * (7 + seed) % 251) as u8).collect()).unwrap()
}

/// Every layer's output under its name, the last if there are several.
#[derive(Default)]
struct Everything(std::collections::BTreeMap<String, Tensor>);

impl Observe<Tensor> for Everything {
    fn layer(&mut self, seen: Seen<Tensor>) -> detrim::Result<()> {
        self.0.insert(seen.layer.into(), seen.output.clone());
        Ok(())
    }
}

/// The last cross-attention's weights of all queries, `[queries, heads, tokens]`.
fn naively(checkpoint: &Checkpoint, picture: &Picture) -> Vec<f64> {
    let backend = Watch::new(Naive, Everything::default());
    let network = Detr::load(&backend, &checkpoint.config, &checkpoint.weights).unwrap();
    let pixels = backend.constant(&prepare(picture, &checkpoint.config.pixels).unwrap()).unwrap();
    network.forward(&backend, &pixels, None).unwrap();
    let Everything(seen) = backend.into_observer();
    let projected = |part: &str| &seen[&format!("decoder.{}.cross_attention.{part}", checkpoint.config.decoder.len() - 1)];
    let (q, k) = (projected("query"), projected("key"));
    let width = HEADS * HEAD_WIDTH;
    let tokens = k.data.len() / width;
    let mut all = Vec::new();
    for query in 0..QUERIES {
        for head in 0..HEADS {
            let score = |token: usize| {
                let product =
                    |i: usize| f64::from(q.data[query * width + head * HEAD_WIDTH + i]) * f64::from(k.data[token * width + head * HEAD_WIDTH + i]);
                ((0..HEAD_WIDTH).map(product).sum::<f64>() / (HEAD_WIDTH as f64).sqrt()).exp()
            };
            let sum: f64 = (0..tokens).map(score).sum();
            all.extend((0..tokens).map(|token| score(token) / sum));
        }
    }
    all
}

fn check(maps: &AttentionMaps, expected: &[f64], query: usize) {
    let size = HEADS * maps.rows * maps.columns;
    for (i, (found, expected)) in maps.weights.iter().zip(&expected[query * size..][..size]).enumerate() {
        assert!((f64::from(*found) - expected).abs() < 1e-4, "query {query}, place {i}: {found}, not {expected}");
    }
}

#[test]
fn maps_are_the_last_cross_attention_s_weights() {
    maps_are_right(&checkpoint());
    // A single decoder layer that is folded asks the same of every picture.
    let mut checkpoint = checkpoint();
    checkpoint.config.decoder.remove(0);
    let mut single = random(checkpoint.config, "tiny", 5);
    assert!(fold(&mut single.config, &mut single.weights).unwrap());
    maps_are_right(&single);
}

fn maps_are_right(checkpoint: &Checkpoint) {
    let mut attention = detector::Attention::load(checkpoint).unwrap();
    // Two pictures in turn: what is kept of one must not answer for the other.
    for seed in [0, 1, 0] {
        let expected = naively(checkpoint, &picture(seed));
        for query in [2, 0, 3] {
            let maps = attention.maps(&picture(seed), query).unwrap();
            // 24 × 42 pixels, halved by the stem, its pool and the stage.
            assert_eq!((maps.heads, maps.rows, maps.columns, maps.weights.len()), (HEADS, 3, 6, HEADS * 18));
            for head in maps.weights.chunks_exact(18) {
                assert!((head.iter().sum::<f32>() - 1.0).abs() < 1e-5, "a head's weights don't sum to 1");
                assert!(head.iter().fold(0f32, |a, b| a.max(*b)) > 1.5 / 18.0, "it looks everywhere alike: nothing is tested");
            }
            check(&maps, &expected, query);
        }
    }
}

#[test]
fn a_query_that_there_isn_t_and_a_network_without_a_decoder_are_errors() {
    let mut checkpoint = checkpoint();
    let error = detector::Attention::load(&checkpoint).unwrap().maps(&picture(0), QUERIES).unwrap_err().to_string();
    assert!(error.contains("no query 4"), "{error}");
    checkpoint.config.decoder.clear();
    assert!(detector::Attention::load(&checkpoint).is_err());
}
