//! The pictures that a network is measured on, at some point of their way through it, and passes over them.
//!
//! A pass works in a fixed number of lanes, each of which sums up its own pictures in order: the result is the same on any number of cores.

use super::structure::Layer;
use crate::backend::Backend;
use crate::config::{Config, Pixels};
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::hash;
use crate::image::{self, Picture, prepare, resize, target_size};
use crate::model::{Detr, Encoded, Output, PixelMask, Queries, Tokens};
use crate::share;
use crate::weights::{HostTensor, Weights};
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Cores that a pass can keep busy.
const LANES: usize = 4;

/// A point on the way through a network, from its beginning on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    Pixels,
    /// What a block of the backbone is given, counted over all stages; after the last, the features.
    Block(usize),
    /// What an encoder layer is given.
    Encoder(usize),
    /// What a decoder layer is given.
    Decoder(usize),
}

impl Point {
    /// The backbone's end.
    pub fn features(config: &Config) -> Self {
        Point::Block(config.backbone.blocks())
    }
}

impl From<Layer> for Point {
    fn from(layer: Layer) -> Self {
        match layer {
            Layer::Encoder(i) => Point::Encoder(i),
            Layer::Decoder(i) => Point::Decoder(i),
        }
    }
}

/// Calibration pictures.
pub struct Inputs {
    pub point: Point,
    /// Shared: the same pictures stand at one point for several networks.
    items: Vec<Arc<Item>>,
    /// Stands for the pictures, in hexadecimal.
    pub hash: String,
}

enum Item {
    /// At the size of the network's input; with its file, where it is from one.
    Picture(Picture, Pixels, Option<PathBuf>),
    /// `[1, height, width, channels]`
    Map(HostTensor),
    /// Tokens and their positions, `[1, tokens, d_model]`.
    Tokens(HostTensor, HostTensor),
    /// What the queries hold, `[1, queries, d_model]`, and the encoder's tokens without and with positions, `[1, tokens, d_model]`.
    Queries(HostTensor, HostTensor, HostTensor),
}

/// A picture within a network.
enum Inside {
    Map(Tensor),
    Tokens(Tokens<Tensor>),
    Queries(Tensor, Encoded<Tensor>),
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
                    items.push(Arc::new(Item::Picture(picture, pixels.clone(), Some(file.clone()))));
                    done();
                }
                Err(error) => problem(file, &error),
            }
        }
        if items.is_empty() {
            return Err(Error::Image("none of the pictures to calibrate on could be read".into()));
        }
        Ok(Self { point: Point::Pixels, items, hash: hash::sha256(hashes.concat().as_bytes()) })
    }

    /// Pictures that are in memory.
    #[cfg(test)]
    pub fn of(pictures: Vec<Picture>, pixels: &Pixels) -> Self {
        let items = pictures.into_iter().map(|picture| Arc::new(Item::Picture(fit(&picture, pixels).unwrap(), pixels.clone(), None))).collect();
        Self { point: Point::Pixels, items, hash: String::new() }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first so many pictures.
    pub fn first(&self, count: usize) -> Inputs {
        Self { point: self.point, items: self.items.iter().take(count).cloned().collect(), hash: self.hash.clone() }
    }

    /// The first so many pictures, and the others.
    pub fn split(mut self, count: usize) -> (Inputs, Inputs) {
        let rest = self.items.split_off(count.min(self.items.len()));
        let (point, hash) = (self.point, self.hash.clone());
        (self, Inputs { point, items: rest, hash })
    }

    /// What they take in memory.
    pub fn bytes(&self) -> usize {
        let bytes = |item: &Arc<Item>| match &**item {
            Item::Picture(picture, ..) => picture.rgba.len(),
            Item::Map(map) => map.bytes(),
            Item::Tokens(memory, position) => memory.bytes() + position.bytes(),
            Item::Queries(content, memory, placed) => content.bytes() + memory.bytes() + placed.bytes(),
        };
        self.items.iter().map(bytes).sum()
    }

    /// As networks take them that go by another rule for pixels: from their files once more, for to resize twice is not to resize once. What
    /// is within a network already stays as it is.
    pub fn sized(&self, pixels: &Pixels) -> Result<Inputs> {
        let items = in_order(self.len(), |index| {
            Ok(match &*self.items[index] {
                Item::Picture(picture, own, file) if own != pixels => {
                    let picture = file.as_ref().map_or_else(|| fit(picture, pixels), |file| fit(&image::open(file)?, pixels))?;
                    Arc::new(Item::Picture(picture, pixels.clone(), file.clone()))
                }
                _ => self.items[index].clone(),
            })
        })?;
        Ok(Self { point: self.point, items, hash: self.hash.clone() })
    }

    /// What a network says of one picture.
    pub fn run<B: Backend<Tensor = Tensor>>(&self, backend: &B, detr: &Detr<B>, index: usize) -> Result<Output<Tensor>> {
        match walk((&self.items[index], self.point), backend, detr, Point::Decoder(usize::MAX))? {
            Inside::Queries(content, encoded) => {
                drop(encoded);
                detr.detections(backend, &content)
            }
            _ => Err(Error::Config("a network ends with its queries".into())),
        }
    }

    /// All pictures at a point of this network that isn't before where they are.
    pub fn at(&self, config: &Config, weights: &Weights, point: Point) -> Result<Inputs> {
        self.first(self.len()).moved(config, weights, point)
    }

    /// As [`Inputs::at`], but what is held of each picture is given up as soon as the picture has been taken further.
    pub fn moved(self, config: &Config, weights: &Weights, point: Point) -> Result<Inputs> {
        if point == self.point {
            return Ok(self);
        }
        let detr = Detr::load(&Cpu, config, weights)?;
        let items: Vec<Mutex<Option<Arc<Item>>>> = self.items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        let gone = || Error::Config("a picture was taken further twice".into());
        let items = in_order(items.len(), |index| {
            let item = lock(&items[index]).take().ok_or_else(gone)?;
            Ok(Arc::new(match walk((&*item, self.point), &Cpu, &detr, point)? {
                Inside::Map(map) => Item::Map(kept(&map)?),
                Inside::Tokens(tokens) => Item::Tokens(kept(&tokens.memory)?, kept(&tokens.position)?),
                Inside::Queries(content, encoded) => Item::Queries(kept(&content)?, kept(&encoded.memory)?, kept(&encoded.placed)?),
            }))
        })?;
        Ok(Self { point, items, hash: self.hash })
    }
}

/// One picture on its way, as far as a point that isn't before where it is.
fn walk<B: Backend<Tensor = Tensor>>((item, from): (&Item, Point), backend: &B, detr: &Detr<B>, to: Point) -> Result<Inside> {
    let block = if let Point::Block(block) = to { block } else { usize::MAX };
    let mut inside = match (item, from) {
        (Item::Picture(picture, pixels, _), _) => {
            Inside::Map(detr.features_before(backend, &backend.constant(&prepare(picture, pixels)?)?, block)?)
        }
        (Item::Map(map), Point::Block(from)) => Inside::Map(detr.blocks(backend, backend.constant(map)?, from..block)?),
        (Item::Map(map), _) => Inside::Map(backend.constant(map)?),
        (Item::Tokens(memory, position), _) => {
            Inside::Tokens(Tokens { memory: backend.constant(memory)?, position: backend.constant(position)?, bias: None })
        }
        (Item::Queries(content, memory, placed), _) => {
            let encoded = Encoded { memory: backend.constant(memory)?, placed: backend.constant(placed)?, bias: None };
            Inside::Queries(backend.constant(content)?, encoded)
        }
    };
    if let (Inside::Map(features), true) = (&inside, to >= Point::Encoder(0)) {
        let mask = PixelMask::full(features.dim(1)?, features.dim(2)?);
        inside = Inside::Tokens(detr.tokens(backend, features.clone(), &mask)?);
    }
    if let Inside::Tokens(tokens) = inside {
        let first = if let Point::Encoder(layer) = from { layer } else { 0 };
        let end = if let Point::Encoder(layer) = to { layer } else { usize::MAX };
        let tokens = detr.encoder_layers(backend, tokens, first..end)?;
        inside = match to {
            Point::Decoder(_) => Inside::Queries(detr.contents(backend, 1)?, tokens.encoded(backend)?),
            _ => Inside::Tokens(tokens),
        };
    }
    if let (Inside::Queries(content, encoded), Point::Decoder(end)) = (&mut inside, to) {
        let first = if let Point::Decoder(layer) = from { layer } else { 0 };
        let (own, _) = detr.queries();
        *content = detr.decode(backend, Queries { content: content.clone(), ..own }, encoded, first..end)?;
    }
    Ok(inside)
}

/// On the host. Half precision halves the memory; statistics don't notice.
fn kept(x: &Tensor) -> Result<HostTensor> {
    Ok(cpu::to_host(x)?.to_f16())
}

/// A picture at the size of the network's input; to take it from there is to take it from the file.
fn fit(picture: &Picture, pixels: &Pixels) -> Result<Picture> {
    let [height, width] = target_size(pixels.resize, picture.full_size[0], picture.full_size[1])?;
    let rgb = resize(&picture.rgba, [picture.width, picture.height], [width, height]);
    Picture::new(width, height, rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect())
}

/// Calls `work` with every index below `count`, and gives back what the lanes have gathered.
pub fn lanes<S: Send>(count: usize, start: impl Fn() -> Result<S> + Sync, work: impl Fn(&mut S, usize) -> Result<()> + Sync) -> Result<Vec<S>> {
    let mut all = Vec::new();
    each_lane(count, start, work, |state| all.push(state))?;
    Ok(all)
}

/// Calls `work` with every index below `count`, and `take` with what each lane has gathered, in the order of the lanes but as soon as it can
/// be: what is summed up may be large, and so no more of it is held than there are cores.
pub fn each_lane<S: Send>(
    count: usize,
    start: impl Fn() -> Result<S> + Sync,
    work: impl Fn(&mut S, usize) -> Result<()> + Sync,
    take: impl FnMut(S) + Send,
) -> Result<()> {
    let lanes = LANES.min(count);
    let ended = Mutex::new((BTreeMap::new(), 0, take));
    share::each(
        lanes,
        || Ok(()),
        |(), lane| {
            let mut state = start()?;
            (lane..count).step_by(lanes).try_for_each(|index| work(&mut state, index))?;
            let (waiting, next, take) = &mut *lock(&ended);
            waiting.insert(lane, state);
            while let Some(state) = waiting.remove(next) {
                *next += 1;
                take(state);
            }
            Ok(())
        },
    )
}

/// What `work` makes of every index below `count`, in their order.
pub fn in_order<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let found = lanes(
        count,
        || Ok(Vec::new()),
        |all, index| {
            all.push((index, work(index)?));
            Ok(())
        },
    )?;
    let mut all: Vec<(usize, T)> = found.into_iter().flatten().collect();
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
