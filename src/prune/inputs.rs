//! The pictures that a network is measured on, at some point of their way through it, and passes over them.
//!
//! A pass works in a fixed number of lanes, each of which sums up its own pictures in order: the result is the same on any number of cores.

use crate::backend::Backend;
use crate::config::{Config, Pixels};
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::hash;
use crate::image::{self, Picture, prepare, resize, target_size};
use crate::model::{Detr, Encoded, Output, PixelMask};
use crate::share;
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Cores that a pass can keep busy.
const LANES: usize = 4;

/// Calibration pictures.
pub struct Inputs {
    /// The stage of the backbone (counted from 0) that is given the items; none where they are pictures.
    stage: Option<usize>,
    items: Vec<Item>,
    /// Stands for the pictures, in hexadecimal.
    pub hash: String,
}

enum Item {
    /// At the size of the network's input.
    Picture(Picture, Pixels),
    /// `[1, height, width, channels]`
    Map(HostTensor),
    /// The encoder's tokens without and with positions, `[1, tokens, d_model]`.
    Tokens(HostTensor, HostTensor),
}

impl Inputs {
    /// `count` of the files, chosen by `seed`, as the network takes them. What can't be read is told of, and others are taken in its place.
    pub fn open(
        files: &[PathBuf],
        count: usize,
        seed: u64,
        pixels: &Pixels,
        done: &dyn Fn(),
        problem: &mut dyn FnMut(&Path, &Error),
    ) -> Result<Self> {
        let mut files: Vec<&PathBuf> = files.iter().collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut files);
        let mut items = Vec::new();
        let mut hashes = Vec::new();
        for file in files {
            if items.len() == count {
                break;
            }
            match image::open(file).and_then(|picture| fit(&picture, pixels)) {
                Ok(picture) => {
                    hashes.push(hash::sha256(&picture.rgba));
                    items.push(Item::Picture(picture, pixels.clone()));
                    done();
                }
                Err(error) => problem(file, &error),
            }
        }
        if items.is_empty() {
            return Err(Error::Image("none of the pictures to calibrate on could be read".into()));
        }
        Ok(Self { stage: None, items, hash: hash::sha256(hashes.concat().as_bytes()) })
    }

    /// Pictures that are in memory.
    #[cfg(test)]
    pub fn of(pictures: Vec<Picture>, pixels: &Pixels) -> Self {
        let items = pictures.into_iter().map(|picture| Item::Picture(fit(&picture, pixels).unwrap(), pixels.clone())).collect();
        Self { stage: None, items, hash: String::new() }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first so many pictures.
    pub fn first(&self, count: usize) -> Inputs {
        let items = self.items.iter().take(count).map(|item| match item {
            Item::Picture(picture, pixels) => Item::Picture(picture.clone(), pixels.clone()),
            Item::Map(map) => Item::Map(map.clone()),
            Item::Tokens(memory, placed) => Item::Tokens(memory.clone(), placed.clone()),
        });
        Self { stage: self.stage, items: items.collect(), hash: self.hash.clone() }
    }

    /// The first so many pictures, and the others.
    pub fn split(mut self, count: usize) -> (Inputs, Inputs) {
        let rest = self.items.split_off(count.min(self.items.len()));
        let (stage, hash) = (self.stage, self.hash.clone());
        (self, Inputs { stage, items: rest, hash })
    }

    /// What a network says of one picture.
    pub fn run<B: Backend<Tensor = Tensor>>(&self, backend: &B, detr: &Detr<B>, index: usize) -> Result<Output<Tensor>> {
        detr.answer(backend, self.encoded(backend, detr, index)?, &mut |_, _| {})
    }

    fn encoded<B: Backend<Tensor = Tensor>>(&self, backend: &B, detr: &Detr<B>, index: usize) -> Result<Encoded<Tensor>> {
        if let Item::Tokens(memory, placed) = &self.items[index] {
            return Ok(Encoded { memory: backend.constant(memory)?, placed: backend.constant(placed)?, bias: None });
        }
        let features = self.to_stage(backend, detr, index, usize::MAX)?;
        let shape = features.dims();
        let mask = PixelMask::full(shape[1], shape[2]);
        detr.encode(backend, features, &mask, &mut |_, _| {})
    }

    /// One picture on its way through the backbone, as far as what `stage` is given.
    pub fn to_stage<B: Backend<Tensor = Tensor>>(&self, backend: &B, detr: &Detr<B>, index: usize, stage: usize) -> Result<Tensor> {
        match (&self.items[index], self.stage) {
            (Item::Picture(picture, pixels), _) => detr.features_before(backend, &backend.constant(&prepare(picture, pixels)?)?, stage),
            (Item::Map(map), from) => detr.stages(backend, backend.constant(map)?, from.unwrap_or(0)..stage),
            (Item::Tokens(..), _) => Err(Error::Config("the encoder's tokens are beyond the backbone".into())),
        }
    }

    /// All pictures as what a stage of this network's backbone is given (after the last stage: the features).
    pub fn at_stage(&self, config: &Config, weights: &Weights, stage: usize) -> Result<Inputs> {
        let items = self.each(config, weights, |detr, index| Ok(Item::Map(kept(&self.to_stage(&Cpu, detr, index, stage)?)?)))?;
        Ok(Self { stage: Some(stage), items, hash: self.hash.clone() })
    }

    /// All pictures as the tokens of this network's encoder.
    pub fn at_decoder(&self, config: &Config, weights: &Weights) -> Result<Inputs> {
        let items = self.each(config, weights, |detr, index| {
            let encoded = self.encoded(&Cpu, detr, index)?;
            Ok(Item::Tokens(kept(&encoded.memory)?, kept(&encoded.placed)?))
        })?;
        Ok(Self { stage: None, items, hash: self.hash.clone() })
    }

    fn each(&self, config: &Config, weights: &Weights, item: impl Fn(&Detr<Cpu>, usize) -> Result<Item> + Sync) -> Result<Vec<Item>> {
        let start = || Ok((Detr::load(&Cpu, config, weights)?, Vec::new()));
        let found = lanes(self.len(), start, |(detr, items), index| {
            items.push((index, item(detr, index)?));
            Ok(())
        })?;
        let mut all: Vec<(usize, Item)> = found.into_iter().flat_map(|(_, items)| items).collect();
        all.sort_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, item)| item).collect())
    }
}

/// On the host. Half precision halves the memory; statistics don't notice.
fn kept(x: &Tensor) -> Result<HostTensor> {
    Ok(cpu::to_host(x)?.to_f16())
}

/// A picture at the size of the network's input; to take it from there is to take it from the file.
fn fit(picture: &Picture, pixels: &Pixels) -> Result<Picture> {
    let [height, width] = target_size(pixels.resize, picture.width, picture.height)?;
    let rgb = resize(&picture.rgba, [picture.width, picture.height], [width, height]);
    Picture::new(width, height, rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect())
}

/// Calls `work` with every index below `count`, and gives back what the lanes have gathered.
pub fn lanes<S: Send>(count: usize, start: impl Fn() -> Result<S> + Sync, work: impl Fn(&mut S, usize) -> Result<()> + Sync) -> Result<Vec<S>> {
    let lanes = LANES.min(count);
    let all = Mutex::new(Vec::new());
    share::each(
        lanes,
        || Ok(()),
        |(), lane| {
            let mut state = start()?;
            (lane..count).step_by(lanes).try_for_each(|index| work(&mut state, index))?;
            lock(&all).push((lane, state));
            Ok(())
        },
    )?;
    let mut all = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    all.sort_by_key(|(lane, _)| *lane);
    Ok(all.into_iter().map(|(_, state)| state).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
