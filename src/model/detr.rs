//! DETR: "End-to-End Object Detection with Transformers" (Carion et al., 2020), `models/detr.py` of its repository.

use super::decoder::{DecoderLayer, Encoded, Queries};
use super::efficientnet::EfficientNetLite;
use super::encoder::{EncoderLayer, Tokens};
use super::heads::Heads;
use super::load::{Loader, Source};
use super::mask::PixelMask;
use super::position::sine_position;
use super::resnet::ResNet;
use crate::backend::Backend;
use crate::config::{Activation, Backbone as BackboneConfig, Config};
use crate::error::{Error, Result};
use crate::weights::HostTensor;
use std::ops::Range;

/// The whole network on one backend.
pub struct Detr<B: Backend> {
    backbone: Backbone<B>,
    input_projection: B::Linear,
    encoder: Vec<EncoderLayer<B>>,
    decoder: Vec<DecoderLayer<B>>,
    decoder_norm: B::Norm,
    query_position: B::Tensor,
    /// What the decoder starts from, `[1, queries, d_model]`.
    query_content: B::Tensor,
    heads: Heads<B>,
    /// Logits `[1, queries, 4]`.
    box_reference: Option<B::Tensor>,
    d_model: usize,
}

enum Backbone<B: Backend> {
    Resnet(ResNet<B>),
    EfficientNetLite(EfficientNetLite<B>),
}

/// What the network says of each query.
pub struct Output<T> {
    /// `[batch, queries, classes]`
    pub logits: T,
    /// `[batch, queries, 4]`: (centre x, centre y, width, height) in fractions of the picture.
    pub boxes: T,
}

impl<B: Backend> Detr<B> {
    /// Fails with the tensor's name where `weights` lack one or a shape doesn't follow from `config`.
    pub fn load(backend: &B, config: &Config, weights: &dyn Source) -> Result<Self> {
        config.check()?;
        let loader = Loader::new(backend, weights);
        let backbone = match &config.backbone {
            BackboneConfig::Resnet(net) => Backbone::Resnet(ResNet::load(&loader.part("backbone"), net)?),
            BackboneConfig::EfficientNetLite(net) => Backbone::EfficientNetLite(EfficientNetLite::load(&loader.part("backbone"), net)?),
        };
        let (queries, d_model) = (config.queries, config.d_model);
        // In the order in which the network uses its weights, which is that of `layout`.
        let input_projection = loader.linear("input_projection", config.backbone.channels(), d_model)?;
        let encoder = (config.encoder.iter().enumerate())
            .map(|(i, layer)| EncoderLayer::load(&loader.part(&format!("encoder.{i}")), layer, d_model, config.activation))
            .collect::<Result<_>>()?;
        let query_position = loader.rows("query_position", queries, d_model)?;
        let query_content = if config.query_content {
            loader.rows("query_content", queries, d_model)?
        } else {
            backend.constant(&HostTensor::f32(&[1, queries, d_model], vec![0.0; queries * d_model]))?
        };
        let decoder =
            (0..config.decoder.len()).map(|i| DecoderLayer::load(&loader.part(&format!("decoder.{i}")), config, i)).collect::<Result<_>>()?;
        Ok(Self {
            backbone,
            input_projection,
            encoder,
            decoder,
            decoder_norm: loader.norm("decoder.norm", d_model)?,
            query_position,
            query_content,
            heads: Heads::load(&loader, config)?,
            box_reference: config.box_reference.then(|| loader.reference("box_reference", queries, 4)).transpose()?,
            d_model,
        })
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised; `mask` where the batch is padded.
    pub fn forward(&self, backend: &B, pixels: &B::Tensor, mask: Option<&PixelMask>) -> Result<Output<B::Tensor>> {
        let features = self.features(backend, pixels)?;
        backend.stage("backbone", &features)?;
        let mask = self.feature_mask(backend, &features, mask)?;
        self.detect(backend, features, &mask)
    }

    /// The backbone alone: `pixels` `[batch, height, width, 3]` → features `[batch, rows, columns, channels]`.
    pub fn features(&self, backend: &B, pixels: &B::Tensor) -> Result<B::Tensor> {
        self.features_before(backend, pixels, usize::MAX)
    }

    /// The backbone up to one of its blocks (counted from 0): from pixels to what that block is given. Up to a block that there isn't, all of it.
    pub fn features_before(&self, backend: &B, pixels: &B::Tensor, block: usize) -> Result<B::Tensor> {
        let x = match &self.backbone {
            Backbone::Resnet(net) => net.stem(backend, pixels)?,
            Backbone::EfficientNetLite(net) => net.stem(backend, pixels)?,
        };
        self.blocks(backend, x, 0..block)
    }

    /// Some of the backbone's blocks (counted from 0): from what the first is given, which is given up, to what comes after the last: with
    /// all that remain, features. Of blocks that there aren't, nothing is done.
    pub fn blocks(&self, backend: &B, x: B::Tensor, which: Range<usize>) -> Result<B::Tensor> {
        match &self.backbone {
            Backbone::Resnet(net) => net.blocks(backend, x, which),
            Backbone::EfficientNetLite(net) => net.blocks(backend, x, which),
        }
    }

    /// The pixels' mask at the features' resolution.
    fn feature_mask(&self, backend: &B, features: &B::Tensor, mask: Option<&PixelMask>) -> Result<PixelMask> {
        let shape = backend.shape(features);
        let (batch, height, width) = (shape[0], shape[1], shape[2]);
        match mask {
            None => Ok(PixelMask::full(height, width)),
            Some(mask) if mask.batch == batch => Ok(mask.reduce(height, width)),
            Some(mask) => Err(Error::Config(format!("a mask of {} pictures can't go with a batch of {batch}", mask.batch))),
        }
    }

    /// Everything after the backbone. `mask` is at the features' resolution.
    pub fn detect(&self, backend: &B, features: B::Tensor, mask: &PixelMask) -> Result<Output<B::Tensor>> {
        let encoded = self.encode(backend, features, mask)?;
        self.answer(backend, encoded)
    }

    /// Everything after the encoder, whose tokens are given up.
    pub fn answer(&self, backend: &B, encoded: Encoded<B::Tensor>) -> Result<Output<B::Tensor>> {
        let content = self.contents(backend, backend.shape(&encoded.memory)[0])?;
        let queries = Queries { content, position: &self.query_position, bias: None };
        let x = self.decode(backend, queries, &encoded, 0..usize::MAX)?;
        drop(encoded);
        self.detections(backend, &x)
    }

    /// What the queries say that hold this after the last decoder layer, `[batch, queries, d_model]`.
    pub fn detections(&self, backend: &B, x: &B::Tensor) -> Result<Output<B::Tensor>> {
        let output = self.predict(backend, x, self.box_reference.as_ref())?;
        backend.stage("logits", &output.logits)?;
        backend.stage("pred_boxes", &output.boxes)?;
        Ok(output)
    }

    /// The encoder: features `[batch, rows, columns, channels]`, which are given up, become tokens.
    pub fn encode(&self, backend: &B, features: B::Tensor, mask: &PixelMask) -> Result<Encoded<B::Tensor>> {
        let tokens = self.tokens(backend, features, mask)?;
        let tokens = self.encoder_layers(backend, tokens, 0..usize::MAX)?;
        tokens.encoded(backend)
    }

    /// What the first encoder layer is given; the features are given up.
    pub fn tokens(&self, backend: &B, features: B::Tensor, mask: &PixelMask) -> Result<Tokens<B::Tensor>> {
        let shape = backend.shape(&features);
        let (batch, tokens) = (shape[0], shape[1] * shape[2]);
        let position = HostTensor::f32(&[mask.batch, tokens, self.d_model], sine_position(mask, self.d_model));
        let position = backend.constant(&position)?;
        backend.stage("position", &position)?;
        let bias = match mask.is_full() {
            true => None,
            false => Some(backend.constant(&HostTensor::f32(&[mask.batch, 1, tokens], mask.attention_bias()))?),
        };

        let projected = backend.linear(&features, &self.input_projection, Activation::None, None)?;
        drop(features);
        backend.stage("projected", &projected)?;
        let memory = backend.reshape(&projected, &[batch, tokens, self.d_model])?;
        Ok(Tokens { memory, position, bias })
    }

    /// Some encoder layers; of layers that there aren't, nothing is done.
    pub fn encoder_layers(&self, backend: &B, tokens: Tokens<B::Tensor>, which: Range<usize>) -> Result<Tokens<B::Tensor>> {
        let Tokens { mut memory, position, bias } = tokens;
        for (i, layer) in self.encoder.iter().enumerate().take(which.end).skip(which.start) {
            memory = layer.forward(backend, memory, &position, bias.as_ref())?;
            backend.stage(&format!("encoder_layer{i}"), &memory)?;
        }
        Ok(Tokens { memory, position, bias })
    }

    /// Some decoder layers: what the queries hold after them, `[batch, queries, d_model]`. Of layers that there aren't, nothing is done.
    pub fn decode(&self, backend: &B, queries: Queries<B::Tensor>, encoded: &Encoded<B::Tensor>, which: Range<usize>) -> Result<B::Tensor> {
        let Queries { mut content, position, bias } = queries;
        for (i, layer) in self.decoder.iter().enumerate().take(which.end).skip(which.start) {
            content = layer.forward(backend, Queries { content, position, bias }, encoded)?;
            backend.stage(&format!("decoder_layer{i}"), &content)?;
        }
        Ok(content)
    }

    /// What the queries hold after each decoder layer, `[batch, queries, d_model]`.
    pub fn decode_each(&self, backend: &B, queries: Queries<B::Tensor>, encoded: &Encoded<B::Tensor>) -> Result<Vec<B::Tensor>> {
        let Queries { mut content, position, bias } = queries;
        let mut contents = Vec::with_capacity(self.decoder.len());
        for layer in 0..self.decoder.len() {
            content = self.decode(backend, Queries { content, position, bias }, encoded, layer..layer + 1)?;
            contents.push(content.clone());
        }
        Ok(contents)
    }

    /// The heads, on what any decoder layer gave; `reference` `[batch or 1, queries, 4]` as logits.
    pub fn predict(&self, backend: &B, x: &B::Tensor, reference: Option<&B::Tensor>) -> Result<Output<B::Tensor>> {
        let decoded = backend.norm(x, &self.decoder_norm)?;
        backend.stage("decoder_out", &decoded)?;
        Ok(Output { logits: self.heads.classes(backend, &decoded)?, boxes: self.heads.boxes(backend, &decoded, reference)? })
    }

    /// The queries of one picture, and what is added to their boxes: logits `[1, queries, 4]`.
    pub fn queries(&self) -> (Queries<'_, B::Tensor>, Option<&B::Tensor>) {
        (Queries { content: self.query_content.clone(), position: &self.query_position, bias: None }, self.box_reference.as_ref())
    }

    /// What the queries hold when they first look at a picture, `[1, queries, d_model]`: the same for every picture.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn asked(&self, backend: &B) -> Result<B::Tensor> {
        let (queries, _) = self.queries();
        match self.decoder.first() {
            Some(layer) => layer.confer(backend, queries),
            None => Ok(queries.content),
        }
    }

    /// The decoder's first input, once for each picture of a batch.
    pub fn contents(&self, backend: &B, batch: usize) -> Result<B::Tensor> {
        if batch == 1 {
            return Ok(self.query_content.clone());
        }
        let shape = backend.shape(&self.query_content);
        let zeros = HostTensor::f32(&[batch, shape[1], shape[2]], vec![0.0; batch * shape[1] * shape[2]]);
        backend.add(&backend.constant(&zeros)?, &self.query_content, Activation::None)
    }
}
