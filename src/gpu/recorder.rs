//! The [`Backend`] that records: each operation appends dispatches, and nothing is computed until a program runs.

use super::attention;
use super::device::{Gpu, Memory};
use super::gemm::{self, Matrix, Variant};
use super::graph::{Dispatch, Origin, Tensor, Value};
use super::kernels::{Family, Kernels};
use super::prepare;
use super::program::Program;
use super::template::Constant;
use super::window;
use crate::backend::{Backend, Padding, Window};
use crate::config::{Activation, Pixels};
use crate::error::{Error, Result};
use crate::image::Picture;
use crate::weights::HostTensor;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

pub struct Recorder {
    pub gpu: Rc<Gpu>,
    pub kernels: Kernels,
    /// The matrix product's variants for large and for small outputs.
    pub variants: [Variant; 2],
    recording: RefCell<Vec<Dispatch>>,
    stages: RefCell<Vec<(String, Tensor)>>,
    next: Cell<usize>,
    constant_bytes: Cell<usize>,
}

/// Weights of a layer norm.
pub struct Norm {
    weight: Rc<Value>,
    bias: Rc<Value>,
    width: usize,
    epsilon: f32,
}

impl Recorder {
    pub fn new(gpu: Rc<Gpu>) -> Self {
        Self {
            gpu,
            kernels: Kernels::default(),
            variants: [Variant::ALL[0]; 2],
            recording: RefCell::default(),
            stages: RefCell::default(),
            next: Cell::new(0),
            constant_bytes: Cell::new(0),
        }
    }

    /// Forgets what was recorded so far; tensors of it can't be used any more.
    pub fn restart(&self) {
        self.recording.borrow_mut().clear();
        self.stages.borrow_mut().clear();
    }

    /// The stages of the network that were recorded since the last restart, by [`Backend::stage`]'s names.
    pub fn take_stages(&self) -> Vec<(String, Tensor)> {
        self.stages.take()
    }

    /// Bytes of all constants uploaded so far.
    pub fn constant_bytes(&self) -> usize {
        self.constant_bytes.get()
    }

    /// The bytes that [`Recorder::finish`] will take.
    pub fn needs(&self, outputs: &[Tensor]) -> usize {
        Program::needs(&self.recording.borrow(), outputs)
    }

    /// The bytes that [`Recorder::finish_before`] will take.
    pub fn needs_before(&self, target: &Tensor) -> usize {
        Program::needs_before(&self.recording.borrow(), target)
    }

    /// Makes a program of what was recorded, as far as `outputs` need it.
    pub async fn finish(&self, outputs: &[Tensor]) -> Result<Program> {
        let recording = self.recording.take();
        let program = Program::new(&self.gpu, &recording, outputs).await;
        self.recording.replace(recording);
        program
    }

    /// Makes a program of what was recorded that writes `target` where `program` has `input`.
    pub async fn finish_before(&self, program: &Program, target: &Tensor, input: &Tensor) -> Result<Program> {
        let recording = self.recording.take();
        Program::before(program, &self.gpu, &recording, target, input).await
    }

    /// Computes what was recorded as far as `tensor` needs it.
    pub async fn read(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let program = self.finish(std::slice::from_ref(tensor)).await?;
        let mut outputs = program.run(&self.gpu, None).await?;
        Ok(outputs.pop().unwrap_or_default())
    }

    /// A picture as the network's input `[1, out height, out width, 3]`, resized and normalised.
    pub async fn prepare(&self, picture: &Picture, out_height: usize, out_width: usize, pixels: &Pixels) -> Result<Vec<f32>> {
        let source = self.upload("a picture", &picture.rgba)?;
        let source = Tensor { shape: vec![picture.height, picture.width], value: source };
        self.read(&prepare::record(self, &source, out_height, out_width, pixels)?).await
    }

    /// A tensor that is written before each run.
    pub fn input(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor(shape, Origin::Input)
    }

    /// A tensor that dispatches will write.
    pub fn made(&self, shape: &[usize]) -> Result<Tensor> {
        self.tensor(shape, Origin::Made)
    }

    fn tensor(&self, shape: &[usize], origin: Origin) -> Result<Tensor> {
        let size = shape.iter().product::<usize>();
        if size == 0 {
            return Err(Error::Gpu(format!("the input is too small for this network: a feature map would be {shape:?}")));
        }
        Ok(Tensor { shape: shape.to_vec(), value: self.value(size * size_of::<f32>(), origin) })
    }

    fn value(&self, bytes: usize, origin: Origin) -> Rc<Value> {
        let id = self.next.replace(self.next.get() + 1);
        Rc::new(Value { id, bytes, origin })
    }

    /// Puts numbers into the device's memory for good.
    pub fn upload<T: bytemuck::NoUninit>(&self, label: &str, data: &[T]) -> Result<Rc<Value>> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let memory: Memory = self.gpu.upload(label, bytes)?;
        self.constant_bytes.set(self.constant_bytes.get() + bytes.len());
        Ok(self.value(bytes.len(), Origin::Constant(Rc::new(memory))))
    }

    /// Appends one kernel's work.
    pub fn dispatch<P: bytemuck::Pod>(
        &self,
        family: Family,
        constants: &[Constant],
        parameters: &[P],
        reads: &[&Rc<Value>],
        write: &Rc<Value>,
        groups: [u32; 3],
    ) {
        let layout = self.kernels.layout(&self.gpu.device, reads.len());
        let pipeline = self.kernels.pipeline(&self.gpu.device, family, constants, &layout);
        let mut parameters = bytemuck::cast_slice(parameters).to_vec();
        parameters.resize(parameters.len().next_multiple_of(16), 0);
        let reads = reads.iter().map(|&value| value.clone()).collect();
        self.recording.borrow_mut().push(Dispatch { pipeline, layout, parameters, reads, write: write.clone(), groups });
    }
}

/// Most workgroups in one direction.
const MOST_GROUPS: usize = 65_535;

/// A number of workgroups in two directions, of which neither is too large.
pub fn spread(groups: usize) -> [u32; 2] {
    let rows = groups.div_ceil(MOST_GROUPS);
    [groups.div_ceil(rows.max(1)) as u32, rows as u32]
}

/// An activation as the kernels have it (`activation.wgsl`).
pub struct Ending {
    /// The constant CURVE.
    pub curve: u32,
    /// Code, low and high.
    pub words: [u32; 3],
}

impl From<Activation> for Ending {
    fn from(activation: Activation) -> Self {
        let clamp = |low: f32, high: f32| Self { curve: 0, words: [0, low.to_bits(), high.to_bits()] };
        let curve = |code| Self { curve: 1, words: [code, 0, 0] };
        match activation {
            Activation::None => clamp(f32::MIN, f32::MAX),
            Activation::Relu => clamp(0.0, f32::MAX),
            Activation::Relu6 => clamp(0.0, 6.0),
            Activation::Gelu => curve(1),
            Activation::Silu => curve(2),
            Activation::Sigmoid => curve(3),
        }
    }
}

/// 1 where vectors of four fit.
pub fn vectors(width: usize) -> u32 {
    u32::from(width.is_multiple_of(4))
}

/// Fails unless the network is consistent with itself.
pub fn expect(what: &str, found: &[usize], expected: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Gpu(format!("{what} has shape {found:?}, expected {expected:?}")))
}

impl Backend for Recorder {
    type Tensor = Tensor;
    type Conv = Matrix;
    type Depthwise = window::Depthwise;
    type Linear = Matrix;
    type Norm = Norm;

    fn load_conv(&self, _: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<Matrix> {
        Matrix::load(self, weight, bias, window)
    }

    fn load_depthwise(&self, _: &str, weight: &HostTensor, bias: &HostTensor, window: Window) -> Result<window::Depthwise> {
        window::Depthwise::load(self, weight, bias, window)
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Matrix> {
        Matrix::load(self, weight, bias, Window::new(1, 1, Padding::Even(0)))
    }

    fn load_norm(&self, _: &str, weight: &HostTensor, bias: &HostTensor, epsilon: f32) -> Result<Norm> {
        let (weight, bias) = (weight.to_f32(), bias.to_f32());
        Ok(Norm { width: weight.len(), weight: self.upload("a norm's weight", &weight)?, bias: self.upload("a norm's bias", &bias)?, epsilon })
    }

    fn constant(&self, tensor: &HostTensor) -> Result<Tensor> {
        Ok(Tensor { shape: tensor.shape.clone(), value: self.upload("a constant", &tensor.to_f32())? })
    }

    fn shape(&self, x: &Tensor) -> Vec<usize> {
        x.shape.clone()
    }

    fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        expect("a reshaped tensor's size", &[shape.iter().product()], &[x.size()])?;
        Ok(Tensor { shape: shape.to_vec(), value: x.value.clone() })
    }

    fn conv(&self, x: &Tensor, conv: &Matrix, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let [batch, height, width, _] = x.shape[..] else { return Err(Error::Gpu(format!("a convolution of shape {:?}", x.shape))) };
        gemm::record(self, x, conv, [batch, height, width], activation, residual)
    }

    fn depthwise(&self, x: &Tensor, conv: &window::Depthwise, activation: Activation) -> Result<Tensor> {
        window::record(self, x, conv.window, Some(conv), activation)
    }

    fn max_pool(&self, x: &Tensor, window: Window) -> Result<Tensor> {
        window::record(self, x, window, None, Activation::None)
    }

    fn linear(&self, x: &Tensor, linear: &Matrix, activation: Activation, residual: Option<&Tensor>) -> Result<Tensor> {
        let rows = x.size() / x.width();
        let y = gemm::record(self, x, linear, [1, 1, rows], activation, residual)?;
        let places = &x.shape[..x.shape.len() - 1];
        self.reshape(&y, &[places, &[linear.out]].concat())
    }

    fn attention(&self, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, bias: Option<&Tensor>) -> Result<Tensor> {
        attention::record(self, q, k, v, heads, bias)
    }

    fn layer_norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        expect("a layer norm's input", &[x.width()], &[norm.width])?;
        let (rows, y) = (x.size() / norm.width, self.made(&x.shape)?);
        // A workgroup takes four rows.
        let [across, down] = spread(rows.div_ceil(4));
        let parameters = [rows as u32, norm.width as u32, norm.epsilon.to_bits()];
        self.dispatch(Family::Norm, &[], &parameters, &[&x.value, &norm.weight, &norm.bias], &y.value, [across, down, 1]);
        Ok(y)
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        expect("the second term of a sum", &b.shape[1..], &a.shape[1..])?;
        let vector = vectors(b.size());
        let lanes = if vector == 1 { 4 } else { 1 };
        let (count, y) = (a.size() / lanes, self.made(&a.shape)?);
        let [across, down] = spread(count.div_ceil(64));
        let Ending { curve, words: [code, low, high] } = activation.into();
        let parameters = [count as u32, (b.size() / lanes) as u32, code, low, high];
        self.dispatch(Family::Add, &[("VECTOR", vector), ("CURVE", curve)], &parameters, &[&a.value, &b.value], &y.value, [across, down, 1]);
        Ok(y)
    }

    fn stage(&self, name: &str, x: &Tensor) -> Result<()> {
        self.stages.borrow_mut().push((name.into(), x.clone()));
        Ok(())
    }
}
