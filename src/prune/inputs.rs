//! The pictures that a network is measured on, at some point of their way through it, and passes over them.
//!
//! A point is a cut of the network's graph: the values that are read from there on are kept, and any network whose graph is the same from
//! there on can go on with them. A pass works in a fixed number of lanes, each of which sums up its own pictures in order: the result is the
//! same on any number of cores.

use super::difference::Answer;
use super::structure::Layer;
use crate::backend::Backend;
use crate::config::{Architecture, Pixels};
use crate::cpu::{self, Cpu};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op};
use crate::hash;
use crate::image::{self, Picture, prepare, resize, target_size};
use crate::model::Output;
use crate::session::{Prepared, Session, Unobserved, Values};
use crate::share;
use crate::watch::Observe;
use crate::weights::{HostTensor, Weights};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::ops::Range;
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
    /// What a node of the graph reads, and those after it: of RT-DETR's family, whose networks have no other points.
    Node(usize),
}

impl Point {
    /// The backbone's end.
    pub fn features(config: &Architecture) -> Self {
        match config {
            Architecture::Detr(config) => Point::Block(config.backbone.blocks()),
            Architecture::RtDetr(_) => Point::Pixels,
        }
    }

    /// The first node after it.
    fn node(self, graph: &Graph, config: &Architecture) -> usize {
        let first = |prefix: &str| graph.first_of(|layer| layer.starts_with(prefix));
        let found = match (self, config) {
            (Point::Pixels, _) => Some(0),
            (Point::Node(node), _) => Some(node),
            (Point::Block(block), Architecture::Detr(config)) if block < config.backbone.blocks() => {
                first(&format!("backbone.{}.", config.backbone.block_name(block)))
            }
            (Point::Block(_), _) => first("input_projection"),
            (Point::Encoder(i), _) => first(&format!("encoder.{i}.")).or_else(|| first("decoder.0.")),
            (Point::Decoder(i), _) => first(&format!("decoder.{i}.")).or_else(|| first("class_head")),
        };
        found.unwrap_or(graph.nodes.len())
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
    /// Of each picture the tokens that become queries, where they aren't for the network to select: so that the queries of two networks are
    /// the same.
    tokens: Option<Arc<Vec<Vec<u32>>>>,
    /// Stands for the pictures, in hexadecimal.
    pub hash: String,
}

enum Item {
    /// At the size of the network's input; with its file, where it is from one.
    Picture(Picture, Pixels, Option<PathBuf>),
    /// Within a network: height and width of its input, and the values of [`Graph::live`].
    Cut([usize; 2], Vec<Held>),
}

enum Held {
    Tensor(HostTensor),
    /// Chosen tokens, `[1, queries]`.
    Indices(Tensor),
}

impl Held {
    fn bytes(&self) -> usize {
        match self {
            Held::Tensor(tensor) => tensor.bytes(),
            Held::Indices(indices) => size_of::<u32>() * indices.elem_count(),
        }
    }
}

/// A network that pictures are taken through.
pub struct Runner<B: Backend> {
    config: Architecture,
    session: Session<B>,
    /// Whether observers see what doesn't depend on the picture, too.
    watched: bool,
    /// By the input's height and width and where runs begin.
    prepared: Mutex<PreparedRuns<B>>,
}

type PreparedRuns<B> = Vec<(([usize; 2], Point), Arc<Prepared<B>>)>;

impl<B: Backend> Runner<B> {
    /// For runs that nobody observes, or only named activations.
    pub fn load(backend: &B, config: &Architecture, weights: &Weights) -> Result<Self> {
        Ok(Self { config: config.clone(), session: Session::load(backend, config, weights)?, watched: false, prepared: Mutex::default() })
    }

    /// For runs whose observers see every layer.
    pub fn watched(backend: &B, config: &Architecture, weights: &Weights) -> Result<Self> {
        Ok(Self { watched: true, ..Self::load(backend, config, weights)? })
    }

    fn prepared(&self, backend: &B, size: [usize; 2], point: Point) -> Result<Arc<Prepared<B>>> {
        let key = (size, if self.watched { point } else { Point::Pixels });
        if let Some((_, known)) = lock(&self.prepared).iter().find(|(known, _)| *known == key) {
            return Ok(known.clone());
        }
        let from = |graph: &Graph| if self.watched { point.node(graph, &self.config) } else { graph.nodes.len() };
        let new = Arc::new(self.session.prepare_from(backend, [1, size[0], size[1]], None, from)?);
        lock(&self.prepared).push((key, new.clone()));
        Ok(new)
    }
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
        Ok(Self { point: Point::Pixels, items, tokens: None, hash: hash::sha256(hashes.concat().as_bytes()) })
    }

    /// Pictures that are in memory.
    #[cfg(test)]
    pub fn of(pictures: Vec<Picture>, pixels: &Pixels) -> Self {
        let items = pictures.into_iter().map(|picture| Arc::new(Item::Picture(fit(&picture, pixels).unwrap(), pixels.clone(), None))).collect();
        Self { point: Point::Pixels, items, tokens: None, hash: String::new() }
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first so many pictures.
    pub fn first(&self, count: usize) -> Inputs {
        Self { point: self.point, items: self.items.iter().take(count).cloned().collect(), tokens: self.tokens.clone(), hash: self.hash.clone() }
    }

    /// The first so many pictures, and the others.
    pub fn split(mut self, count: usize) -> (Inputs, Inputs) {
        let rest = self.items.split_off(count.min(self.items.len()));
        let tokens = self.tokens.as_ref().map(|tokens| Arc::new(tokens.iter().skip(self.items.len()).cloned().collect()));
        let (point, hash) = (self.point, self.hash.clone());
        (self, Inputs { point, items: rest, tokens, hash })
    }

    /// With the tokens as queries that a network has selected which answered so, whatever another would select itself.
    pub fn selected_by(&self, answers: &[Answer]) -> Inputs {
        let tokens: Option<Vec<Vec<u32>>> = answers.iter().map(|answer| answer.tokens.clone()).collect();
        Self { tokens: tokens.map(Arc::new), ..self.first(self.len()) }
    }

    /// For networks to select the queries themselves.
    pub fn without_tokens(&self) -> Inputs {
        Self { tokens: None, ..self.first(self.len()) }
    }

    /// What they take in memory.
    pub fn bytes(&self) -> usize {
        let bytes = |item: &Arc<Item>| match &**item {
            Item::Picture(picture, ..) => picture.rgba.len(),
            Item::Cut(_, held) => held.iter().map(Held::bytes).sum(),
        };
        self.items.iter().map(bytes).sum()
    }

    /// As networks take them that go by another rule for pixels: from their files once more, for to resize twice is not to resize once. What
    /// is within a network already stays as it is.
    pub fn sized(&self, pixels: &Pixels) -> Result<Inputs> {
        // At another size the tokens are others.
        let same = self.items.iter().all(|item| matches!(&**item, Item::Cut(..)) || matches!(&**item, Item::Picture(_, own, _) if own == pixels));
        let items = in_order(self.len(), |index| {
            Ok(match &*self.items[index] {
                Item::Picture(picture, own, file) if own != pixels => {
                    let picture = file.as_ref().map_or_else(|| fit(picture, pixels), |file| fit(&image::open(file)?, pixels))?;
                    Arc::new(Item::Picture(picture, pixels.clone(), file.clone()))
                }
                _ => self.items[index].clone(),
            })
        })?;
        Ok(Self { point: self.point, items, tokens: self.tokens.clone().filter(|_| same), hash: self.hash.clone() })
    }

    /// What a network says of one picture.
    pub fn run<B: Backend<Tensor = Tensor, Indices = Tensor>>(
        &self,
        backend: &B,
        runner: &Runner<B>,
        index: usize,
        observer: &mut dyn Observe<Tensor>,
    ) -> Result<Output<Tensor>> {
        let (prepared, mut values, at) = self.begin(backend, runner, index)?;
        runner.session.advance(backend, &prepared, at..prepared.graph.nodes.len(), &mut values, observer)?;
        prepared.outputs(&values)
    }

    /// Takes one picture further, up to the last use of some layers.
    pub fn run_past(&self, runner: &Runner<Cpu>, index: usize, layers: &dyn Fn(&str) -> bool, observer: &mut dyn Observe<Tensor>) -> Result<()> {
        let (prepared, mut values, at) = self.begin(&Cpu, runner, index)?;
        let last = prepared.graph.nodes.iter().rposition(|node| node.layer.as_deref().is_some_and(layers));
        let range: Range<usize> = at..last.map_or(at, |last| last + 1);
        runner.session.advance(&Cpu, &prepared, range, &mut values, observer)
    }

    /// The graph of a picture's way, what is known where it stands, and the node where it stands.
    fn begin<B: Backend<Tensor = Tensor, Indices = Tensor>>(
        &self,
        backend: &B,
        runner: &Runner<B>,
        index: usize,
    ) -> Result<(Arc<Prepared<B>>, Values<B>, usize)> {
        let (prepared, mut values, at) = match &*self.items[index] {
            Item::Picture(picture, pixels, _) => {
                let pixels = prepare(picture, pixels)?;
                let prepared = runner.prepared(backend, [pixels.shape[1], pixels.shape[2]], Point::Pixels)?;
                let values = prepared.start(backend.constant(&pixels)?)?;
                (prepared, values, 0)
            }
            Item::Cut(size, held) => {
                let prepared = runner.prepared(backend, *size, self.point)?;
                let at = self.point.node(&prepared.graph, &runner.config);
                let live = prepared.graph.live(at);
                if live.len() != held.len() {
                    return Err(Error::Config(format!("{} values don't go with a cut of {}", held.len(), live.len())));
                }
                let mut values = prepared.resume();
                for (id, held) in live.into_iter().zip(held) {
                    match held {
                        Held::Tensor(tensor) => values.set(id, backend.constant(tensor)?),
                        Held::Indices(indices) => values.set_indices(id, indices.clone()),
                    }
                }
                (prepared, values, at)
            }
        };
        let select = prepared.graph.nodes.iter().skip(at).find(|node| node.op == Op::TopTokens);
        if let (Some(tokens), Some(node)) = (self.tokens.as_ref().and_then(|tokens| tokens.get(index)), select) {
            let count = node.output.shape.last().copied().unwrap_or(0).min(tokens.len());
            values.set_indices(node.output.id, Tensor::from_vec(tokens[..count].to_vec(), (1, count), &Device::Cpu)?);
        }
        Ok((prepared, values, at))
    }

    /// All pictures at a point of this network that isn't before where they are.
    pub fn at(&self, config: &Architecture, weights: &Weights, point: Point) -> Result<Inputs> {
        self.first(self.len()).moved(config, weights, point)
    }

    /// As [`Inputs::at`], but what is held of each picture is given up as soon as the picture has been taken further.
    pub fn moved(self, config: &Architecture, weights: &Weights, point: Point) -> Result<Inputs> {
        if point == self.point {
            return Ok(self);
        }
        let runner = Runner::load(&Cpu, config, weights)?;
        self.moved_by(&runner, point)
    }

    /// As [`Inputs::moved`] for who has the network loaded, for runs that nobody observes.
    pub fn moved_by(mut self, runner: &Runner<Cpu>, point: Point) -> Result<Inputs> {
        if point == self.point || point == Point::Pixels {
            return Ok(self);
        }
        let items: Vec<Mutex<Option<Arc<Item>>>> = std::mem::take(&mut self.items).into_iter().map(|item| Mutex::new(Some(item))).collect();
        let gone = || Error::Config("a picture was taken further twice".into());
        let items = in_order(items.len(), |index| {
            let item = lock(&items[index]).take().ok_or_else(gone)?;
            let one = Inputs { point: self.point, items: vec![item], tokens: self.tokens_of(index), hash: String::new() };
            let (prepared, mut values, at) = one.begin(&Cpu, runner, 0)?;
            let to = point.node(&prepared.graph, &runner.config);
            drop(one);
            runner.session.advance(&Cpu, &prepared, at..to, &mut values, &mut Unobserved)?;
            let size =
                prepared.graph.nodes.iter().find(|node| node.op == Op::Input).map_or([0, 0], |node| [node.output.shape[1], node.output.shape[2]]);
            let held = prepared.graph.live(to).into_iter().map(|id| match values.tensor(id) {
                Ok(tensor) => Ok(Held::Tensor(kept(tensor)?)),
                Err(_) => Ok(Held::Indices(values.indices(id)?.clone())),
            });
            Ok(Arc::new(Item::Cut(size, held.collect::<Result<_>>()?)))
        })?;
        Ok(Self { point, items, ..self })
    }

    fn tokens_of(&self, index: usize) -> Option<Arc<Vec<Vec<u32>>>> {
        let tokens = self.tokens.as_ref()?.get(index)?;
        Some(Arc::new(vec![tokens.clone()]))
    }
}

/// On the host. Half precision halves the memory; statistics don't notice. What is too large for it becomes the largest number it has: an
/// infinity would make all sums useless.
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

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_is_too_large_for_half_precision_stays_a_number() {
        let x = Tensor::new(&[1e6f32, -1e30, 65_504.0, 65_519.0, 1.5], &Device::Cpu).unwrap();
        assert_eq!(*kept(&x).unwrap().to_f32(), [65_504.0, -65_504.0, 65_504.0, 65_504.0, 1.5]);
        let unknown = Tensor::new(&[f32::NAN], &Device::Cpu).unwrap();
        assert!(kept(&unknown).unwrap().to_f32()[0].is_nan());
    }
}
