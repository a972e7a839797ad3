//! The whole detector on the device: the network, and a program for each input shape in use.

use super::device::Gpu;
use super::graph::Tensor;
use super::packing::Packing;
use super::prepare;
use super::program::Program;
use super::recorder::Recorder;
use super::tune;
use crate::config::{Architecture, Pixels};
use crate::error::{Error, Result};
use crate::image::{self, Picture};
use crate::model::{Output, PixelMask};
use crate::session::Session;
use crate::watch::Observe;
use crate::weights::{HostTensor, Weights};
use serde::Serialize;
use std::rc::Rc;

/// A network on a graphics adapter.
pub struct GpuSession {
    recorder: Recorder,
    session: Session<Recorder>,
    weight_bytes: usize,
    pixels: Pixels,
    /// The least recently used first.
    programs: Vec<Entry>,
    /// Programs are forgotten, the least recently used first, before all together with a new one need more.
    most_bytes: usize,
    /// Dispatches of the last run.
    dispatches: usize,
}

/// What a program is recorded for: normalised pixels `[batch, height, width, 3]`.
#[derive(PartialEq, Eq)]
struct Key {
    shape: [usize; 3],
    mask: Option<PixelMask>,
    observed: bool,
}

struct Entry {
    key: Key,
    program: Program,
    input: Tensor,
    /// Names and shapes of the outputs.
    outputs: Vec<(String, Vec<usize>)>,
    /// For the size of the last picture.
    resize: Option<Resize>,
}

/// Makes the network's input from a picture.
struct Resize {
    picture: Tensor,
    program: Program,
}

/// What the network runs on, and what it occupies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuInfo {
    pub adapter: String,
    /// The interface to the adapter: "vulkan", "metal", "webgpu"…
    pub backend: String,
    /// Whether the adapter is a program on the processor.
    pub software: bool,
    /// Kernels that were started for the last picture.
    pub dispatches: usize,
    pub weight_bytes: usize,
    /// Of all recorded programs.
    pub activation_bytes: usize,
    /// The matrix product's variants for large and for small outputs.
    pub variants: [String; 2],
}

/// Bytes of all programs. A phone's page must live with 1 GB.
const MOST_BYTES: usize = 256 << 20;

impl GpuSession {
    /// Opens the best adapter and loads the network onto it.
    pub async fn load(config: &Architecture, weights: &Weights) -> Result<Self> {
        let gpu = Rc::new(Gpu::open().await?);
        let mut recorder = Recorder::new(gpu.clone());
        tune::choose(&mut recorder, most(weights)).await?;
        let before = recorder.constant_bytes();
        let watch = gpu.watch();
        let session = Session::load(&recorder, config, weights);
        watch.end().await?;
        let session = session?;
        gpu.check()?;
        Ok(Self {
            weight_bytes: recorder.constant_bytes() - before,
            recorder,
            session,
            pixels: config.pixels().clone(),
            programs: Vec::new(),
            most_bytes: MOST_BYTES,
            dispatches: 0,
        })
    }

    /// `pixels` `[batch, height, width, 3]`, normalised → every observed stage by name; feature maps are channels-last.
    pub async fn forward(&mut self, pixels: &HostTensor, mask: Option<&PixelMask>) -> Result<Vec<(String, HostTensor)>> {
        self.run_on_pixels(pixels, mask, true).await
    }

    /// `pixels` `[batch, height, width, 3]`, resized and normalised.
    pub async fn infer(&mut self, pixels: &HostTensor) -> Result<Output<HostTensor>> {
        output(self.run_on_pixels(pixels, None, false).await?)
    }

    /// A picture, to be resized to `height` × `width` and normalised on the device.
    pub async fn run(&mut self, picture: &Picture, height: usize, width: usize) -> Result<Output<HostTensor>> {
        picture.check()?;
        if !self.holds([picture.width, picture.height], width) {
            return self.infer(&image::prepare(picture, &self.pixels)?).await;
        }
        self.warm_up([picture.width, picture.height], height, width).await?;
        let Some(Entry { resize: Some(resize), .. }) = self.programs.last() else { return Err(nothing()) };
        resize.program.write(&self.recorder.gpu, &resize.picture, &picture.rgba);
        output(self.run_last(true).await?)
    }

    /// Whether a picture fits into one buffer, and so does what it becomes when its rows are resized. A 48-megapixel photo doesn't, nor one that is
    /// thin as a thread: the host makes those smaller.
    fn holds(&self, [from_width, from_height]: [usize; 2], width: usize) -> bool {
        const MAX_SIDE: usize = 1 << 16;
        let bytes = |width: usize| (width as u64).saturating_mul(from_height as u64).saturating_mul(4);
        let limit = self.recorder.gpu.device.limits().max_storage_buffer_binding_size;
        from_width.max(from_height) <= MAX_SIDE && bytes(from_width.max(width)) <= limit
    }

    /// Records what [`GpuSession::run`] needs for pictures of this width and height, so that the first one doesn't wait for it.
    pub async fn warm_up(&mut self, [from_width, from_height]: [usize; 2], height: usize, width: usize) -> Result<()> {
        self.find(Key { shape: [1, height, width], mask: None, observed: false }).await?;
        let Some(entry) = self.programs.last_mut() else { return Err(nothing()) };
        if entry.resize.as_ref().is_some_and(|resize| resize.picture.shape == [from_height, from_width]) {
            return Ok(());
        }
        entry.resize = None;
        self.recorder.restart();
        let watch = self.recorder.gpu.watch();
        let picture = self.recorder.input(&[from_height, from_width])?;
        let recorded = prepare::record(&self.recorder, &picture, height, width, &self.pixels);
        watch.end().await?;
        let target = recorded?;
        let needed = self.recorder.needs_before(&target);
        let mut sizes: Vec<usize> = self.programs.iter().map(Entry::bytes).collect();
        sizes.last_mut().into_iter().for_each(|last| *last += needed);
        self.programs.drain(..surplus(&sizes, self.most_bytes));
        let Some(entry) = self.programs.last_mut() else { return Err(nothing()) };
        let program = self.recorder.finish_before(&entry.program, &target, &entry.input).await?;
        entry.resize = Some(Resize { picture, program });
        Ok(())
    }

    pub fn info(&self) -> GpuInfo {
        let gpu = &self.recorder.gpu;
        GpuInfo {
            adapter: gpu.adapter.name.clone(),
            backend: gpu.adapter.backend.to_str().into(),
            software: gpu.is_software(),
            dispatches: self.dispatches,
            weight_bytes: self.weight_bytes,
            activation_bytes: self.programs.iter().map(Entry::bytes).sum(),
            variants: self.recorder.variants.map(|variant| variant.name.into()),
        }
    }

    /// Why the device can't be used any more, if so: a new [`GpuSession`] may work.
    pub fn lost(&self) -> Option<String> {
        self.recorder.gpu.lost()
    }

    /// Gives the device back at once; every later call fails.
    pub fn destroy(&self) {
        self.recorder.gpu.device.destroy();
    }

    async fn run_on_pixels(&mut self, pixels: &HostTensor, mask: Option<&PixelMask>, observed: bool) -> Result<Vec<(String, HostTensor)>> {
        let [batch, height, width, 3] = pixels.shape[..] else {
            return Err(Error::Gpu(format!("pixels must be [batch, height, width, 3], not {:?}", pixels.shape)));
        };
        self.find(Key { shape: [batch, height, width], mask: mask.cloned(), observed }).await?;
        let Some(entry) = self.programs.last() else { return Err(nothing()) };
        entry.program.write(&self.recorder.gpu, &entry.input, bytemuck::cast_slice(&pixels.to_f32()));
        self.run_last(false).await
    }

    /// Runs the last program of the list.
    async fn run_last(&mut self, resized: bool) -> Result<Vec<(String, HostTensor)>> {
        let Some(entry) = self.programs.last() else { return Err(nothing()) };
        let resize = entry.resize.as_ref().filter(|_| resized).map(|resize| &resize.program);
        let numbers = entry.program.run(&self.recorder.gpu, resize).await?;
        self.dispatches = entry.program.dispatches() + resize.map_or(0, Program::dispatches);
        let named = entry.outputs.iter().zip(numbers).map(|((name, shape), numbers)| (name.clone(), HostTensor::f32(shape, numbers)));
        Ok(named.collect())
    }

    /// Makes the program of `key` the last of the list.
    async fn find(&mut self, key: Key) -> Result<()> {
        self.recorder.gpu.check()?;
        if let Some(found) = self.programs.iter().position(|entry| entry.key == key) {
            self.programs[found..].rotate_left(1);
            return Ok(());
        }
        self.recorder.restart();
        let entry = self.record(key).await;
        self.recorder.restart();
        self.programs.push(entry?);
        Ok(())
    }

    async fn record(&mut self, key: Key) -> Result<Entry> {
        let watch = self.recorder.gpu.watch();
        let recorded = self.operations(&key);
        watch.end().await?;
        let (input, outputs) = recorded?;
        let (outputs, tensors): (Vec<_>, Vec<_>) = outputs.into_iter().map(|(name, tensor)| ((name, tensor.shape.clone()), tensor)).unzip();
        // Room first: the old and the new together may be more than there is.
        let sizes: Vec<usize> = self.programs.iter().map(Entry::bytes).chain([self.recorder.needs(&tensors)]).collect();
        self.programs.drain(..surplus(&sizes, self.most_bytes));
        Ok(Entry { key, program: self.recorder.finish(&tensors).await?, input, outputs, resize: None })
    }

    /// Records and gives the input and the outputs.
    fn operations(&self, key: &Key) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let [batch, height, width] = key.shape;
        let pixels = self.recorder.input(&[batch, height, width, 3])?;
        // What doesn't depend on the pixels is recorded, too: the plan takes it out.
        let prepared = self.session.prepare_unfolded(key.shape, key.mask.as_ref())?;
        let mut stages = Stages(Vec::new());
        let Output { logits, boxes } = self.session.run(&self.recorder, &prepared, pixels.clone(), &mut stages)?;
        let outputs = match key.observed {
            true => stages.0,
            false => vec![("logits".into(), logits), ("pred_boxes".into(), boxes)],
        };
        Ok((pixels, outputs))
    }
}

/// The named activations, recorded.
struct Stages(Vec<(String, Tensor)>);

impl Observe<Tensor> for Stages {
    fn stage(&mut self, name: &str, x: &Tensor) -> Result<()> {
        self.0.push((name.into(), x.clone()));
        Ok(())
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.program.bytes + self.resize.as_ref().map_or(0, |resize| resize.program.bytes)
    }
}

/// How most of the numbers are packed.
fn most(weights: &Weights) -> Packing {
    let count = |packing| weights.tensors.values().filter(|tensor| Packing::of(tensor) == packing).map(HostTensor::len).sum::<usize>();
    [Packing::Full, Packing::Half, Packing::Int8].into_iter().max_by_key(|&packing| count(packing)).unwrap_or(Packing::Full)
}

/// How many of the first programs must go so that no more than `most` bytes are left; never the last one.
fn surplus(sizes: &[usize], most: usize) -> usize {
    let fits = |&first: &usize| sizes[first..].iter().sum::<usize>() <= most;
    (0..sizes.len()).find(fits).unwrap_or(sizes.len().saturating_sub(1))
}

fn nothing() -> Error {
    Error::Gpu("nothing was recorded".into())
}

fn output(stages: Vec<(String, HostTensor)>) -> Result<Output<HostTensor>> {
    let mut stages = stages.into_iter().map(|(_, tensor)| tensor);
    match (stages.next(), stages.next()) {
        (Some(logits), Some(boxes)) => Ok(Output { logits, boxes }),
        _ => Err(Error::Gpu("the network has no outputs".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prune::tiny;
    use pollster::block_on;

    fn numbers(height: usize, width: usize) -> HostTensor {
        HostTensor::f32(&[1, height, width, 3], (0..height * width * 3).map(|i| (i % 17) as f32 / 9.0 - 1.0).collect())
    }

    /// What there is no room for goes before the new program takes its memory, not after.
    #[test]
    fn room_is_made_before_memory_is_taken() {
        let (config, weights) = tiny::network();
        let mut detr = block_on(GpuSession::load(&crate::config::Architecture::Detr(config), &weights)).unwrap();
        block_on(detr.infer(&numbers(96, 64))).unwrap();
        let (first, before) = (detr.info().activation_bytes, detr.recorder.gpu.occupied.now());
        assert!(first > 50_000, "{first}");
        // Room for one and a half.
        detr.most_bytes = first + first / 2;
        detr.recorder.gpu.occupied.forget_peak();
        block_on(detr.infer(&numbers(64, 96))).unwrap();
        assert_eq!(detr.programs.len(), 1);
        let peak = detr.recorder.gpu.occupied.peak();
        assert!(peak < before + first as u64 / 2, "{peak} bytes at once, {before} before, {first} of the first program");

        // A picture's resize counts, too, and what was recorded fits what was reckoned.
        detr.most_bytes = usize::MAX;
        block_on(detr.infer(&numbers(96, 64))).unwrap();
        let both = detr.info().activation_bytes;
        detr.most_bytes = both + 1000;
        // Smaller than a program, which it can take the place of.
        let picture = Picture::new(60, 40, vec![100; 60 * 40 * 4]).unwrap();
        block_on(detr.run(&picture, 96, 64)).unwrap();
        assert_eq!(detr.programs.len(), 1);
        assert!(detr.info().activation_bytes <= detr.most_bytes);
    }

    #[test]
    fn the_oldest_programs_go_first_and_the_last_one_stays() {
        assert_eq!(surplus(&[], 10), 0);
        assert_eq!(surplus(&[5, 5], 10), 0);
        assert_eq!(surplus(&[5, 5, 1], 10), 1);
        assert_eq!(surplus(&[1, 9, 9], 10), 2);
        assert_eq!(surplus(&[1, 20], 10), 1);
    }
}
