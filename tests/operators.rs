//! Operators of multi-scale networks against what PyTorch computes (make_operators.py), on any backend.

use crate::kernels::compare;
use crate::naive::Naive;
use detrim::HostTensor;
use detrim::backend::{Backend, Deformable, Padding, Pool, Window};
use detrim::config::Activation;
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// One case of the fixture.
struct Case<'a, B: Backend> {
    backend: &'a B,
    file: &'a SafeTensors<'a>,
    name: &'a str,
    options: &'a Value,
}

impl<B: Backend> Case<'_, B> {
    fn host(&self, argument: &str) -> HostTensor {
        let tensor = self.file.tensor(&format!("{}.{argument}", self.name)).unwrap();
        // Numbers needn't be aligned in the file.
        HostTensor::f32(tensor.shape(), tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn tensor(&self, argument: &str) -> B::Tensor {
        self.backend.constant(&self.host(argument)).unwrap()
    }

    fn option<T: DeserializeOwned>(&self, key: &str) -> T {
        serde_json::from_value(self.options[key].clone()).unwrap_or_else(|error| panic!("{}: {key}: {error}", self.name))
    }

    fn window(&self) -> Window {
        Window { kernel: self.option("kernel"), stride: self.option("stride"), dilation: 1, padding: Padding::Even(self.option("padding")) }
    }

    fn activation(&self) -> Activation {
        self.option("activation")
    }

    fn run(&self) -> detrim::Result<B::Tensor> {
        let Self { backend, name, .. } = self;
        let x = || self.tensor("x");
        let layer = || (self.host("weight"), self.host("bias"), self.host("affine"));
        match name.split('.').next().unwrap() {
            "deformable_attention" => {
                let deformable = Deformable {
                    heads: self.option("heads"),
                    levels: self.option("levels"),
                    points: self.option("points"),
                    offset_scale: self.option("offset_scale"),
                    method: self.option("method"),
                };
                let [value, offsets, weights, boxes] = ["value", "offsets", "weights", "boxes"].map(|argument| self.tensor(argument));
                backend.deformable_attention(&value, &offsets, &weights, &boxes, &deformable)
            }
            "pool" => {
                let pool = match &*self.option::<String>("pool") {
                    "max" => Pool::Max,
                    "max_of_zero_padded" => Pool::MaxOfZeroPadded,
                    "average" => Pool::Average,
                    "average_within" => Pool::AverageWithin,
                    other => panic!("{name}: a pool {other}"),
                };
                backend.pool(&x(), self.window(), pool)
            }
            "upsample" => backend.upsample(&x()),
            "softmax" => backend.softmax(&x()),
            "activate" => backend.activate(&x(), self.activation()),
            "rms_norm" => backend.norm(&x(), &backend.load_norm(name, &self.host("weight"), None, self.option("epsilon"))?),
            "clamp" => backend.clamp(&x(), self.option("min"), self.option("max")),
            "top_values" => backend.top_values(&x(), self.option("k")),
            "narrow" => backend.narrow(&x(), self.option("start"), self.option("length")),
            "add" => backend.add(&self.tensor("a"), &self.tensor("b"), self.activation()),
            "multiply" => backend.multiply(&self.tensor("a"), &self.tensor("b")),
            "concat" => backend.concat(&[&self.tensor("a"), &self.tensor("b")], self.option("axis")),
            "top_tokens" => backend.index_values(&backend.top_tokens(&self.tensor("scores"), self.option("k"))?),
            "gather" => backend.gather(&x(), &backend.top_tokens(&self.tensor("scores"), self.option("k"))?),
            "conv" => {
                let (weight, bias, affine) = layer();
                backend.conv(&x(), &backend.load_conv(name, &weight, &bias, Some(&affine), self.window())?, self.activation(), None)
            }
            "depthwise" => {
                let (weight, bias, affine) = layer();
                backend.depthwise(&x(), &backend.load_depthwise(name, &weight, &bias, Some(&affine), self.window())?, self.activation())
            }
            other => panic!("no such operation: {other}"),
        }
    }
}

/// Runs every case on `backend`; `read` gives a tensor's numbers.
pub fn check_operators<B: Backend>(backend: &B, read: impl Fn(&B::Tensor) -> Vec<f32>) {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/operators.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let cases: Map<String, Value> = serde_json::from_str(&header.metadata().as_ref().unwrap()["cases"]).unwrap();
    assert!(cases.len() > 50);
    for (name, options) in &cases {
        let case = Case { backend, file: &file, name, options };
        let (found, expected) = (case.run().unwrap_or_else(|error| panic!("{name}: {error}")), case.host("out"));
        assert_eq!(backend.shape(&found), expected.shape, "{name} {options}");
        compare(&format!("{name} {options}"), &read(&found), &expected.to_f32());
    }
}

#[test]
fn naive_operators_agree_with_pytorch() {
    check_operators(&Naive, |x| x.data.to_vec());
}
