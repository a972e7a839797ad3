//! The [`Backend`] that records: each operation appends dispatches, and nothing is computed until a program runs.

use super::attention;
use super::copy;
use super::deformable;
use super::device::{Gpu, Memory};
use super::elementwise::{self, Operation};
use super::epilogue::Epilogue;
use super::gemm::{self, Matrix, Variant};
use super::graph::{Dispatch, Origin, Tensor, Value};
use super::kernels::{Family, Kernels};
use super::norm::{self, Norm};
use super::pool;
use super::prepare;
use super::program::Program;
use super::template::Constant;
use super::top::{self, Indices};
use super::window::{self, Depthwise};
use crate::backend::{Backend, Deformable, Padding, Pool, Window};
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
    next: Cell<usize>,
    constant_bytes: Cell<usize>,
}

impl Recorder {
    pub fn new(gpu: Rc<Gpu>) -> Self {
        Self {
            gpu,
            kernels: Kernels::default(),
            variants: [Variant::ALL[0]; 2],
            recording: RefCell::default(),
            next: Cell::new(0),
            constant_bytes: Cell::new(0),
        }
    }

    /// Forgets what was recorded so far; tensors of it can't be used any more.
    pub fn restart(&self) {
        self.recording.borrow_mut().clear();
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

    /// Appends the work of a kernel that has 64 invocations in a workgroup, of which `count` have something to do.
    pub fn dispatch_each<P: bytemuck::Pod>(
        &self,
        family: Family,
        constants: &[Constant],
        parameters: &[P],
        reads: &[&Rc<Value>],
        write: &Rc<Value>,
        count: usize,
    ) {
        let [across, down] = spread(count.div_ceil(64));
        self.dispatch(family, constants, parameters, reads, write, [across, down, 1]);
    }
}

/// Most workgroups in one direction.
const MOST_GROUPS: usize = 65_535;

/// A number of workgroups in two directions, of which neither is too large.
pub fn spread(groups: usize) -> [u32; 2] {
    let rows = groups.div_ceil(MOST_GROUPS);
    [groups.div_ceil(rows.max(1)) as u32, rows as u32]
}

/// 1 where vectors of four fit.
pub fn vectors(width: usize) -> u32 {
    u32::from(width.is_multiple_of(4))
}

/// Numbers in an element, of which [`vectors`] tells whether it is a vector.
pub fn lanes(vector: u32) -> usize {
    if vector == 1 { 4 } else { 1 }
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
    type Indices = Indices;
    type Conv = Matrix;
    type Depthwise = Depthwise;
    type Linear = Matrix;
    type Norm = Norm;

    fn load_conv(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Matrix> {
        Matrix::load(self, weight, bias, affine, window)
    }

    fn load_depthwise(&self, _: &str, weight: &HostTensor, bias: &HostTensor, affine: Option<&HostTensor>, window: Window) -> Result<Depthwise> {
        Depthwise::load(self, weight, bias, affine, window)
    }

    fn load_linear(&self, _: &str, weight: &HostTensor, bias: &HostTensor) -> Result<Matrix> {
        Matrix::load(self, weight, bias, None, Window::new(1, 1, Padding::Even(0)))
    }

    fn load_norm(&self, _: &str, weight: &HostTensor, bias: Option<&HostTensor>, epsilon: f32) -> Result<Norm> {
        Norm::load(self, weight, bias, epsilon)
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

    fn depthwise(&self, x: &Tensor, conv: &Depthwise, activation: Activation) -> Result<Tensor> {
        window::record(self, x, conv.window, window::Kind::Depthwise(conv, activation))
    }

    fn pool(&self, x: &Tensor, window: Window, pool: Pool) -> Result<Tensor> {
        pool::record(self, x, window, pool)
    }

    fn upsample(&self, x: &Tensor) -> Result<Tensor> {
        copy::upsample(self, x)
    }

    fn concat(&self, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        copy::concat(self, parts, axis)
    }

    fn narrow(&self, x: &Tensor, start: usize, length: usize) -> Result<Tensor> {
        copy::narrow(self, x, start, length)
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

    fn deformable_attention(&self, value: &Tensor, offsets: &Tensor, weights: &Tensor, boxes: &Tensor, deformable: &Deformable) -> Result<Tensor> {
        deformable::record(self, value, offsets, weights, boxes, deformable)
    }

    fn norm(&self, x: &Tensor, norm: &Norm) -> Result<Tensor> {
        norm::record(self, x, norm)
    }

    fn add(&self, a: &Tensor, b: &Tensor, activation: Activation) -> Result<Tensor> {
        elementwise::binary(self, Operation::Add, a, b, &Epilogue::new(activation, None))
    }

    fn multiply(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        elementwise::binary(self, Operation::Multiply, a, b, &Epilogue::new(Activation::None, None))
    }

    fn activate(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        elementwise::unary(self, x, &Epilogue::new(activation, None))
    }

    fn clamp(&self, x: &Tensor, min: f32, max: f32) -> Result<Tensor> {
        elementwise::unary(self, x, &Epilogue::clamp(min, max))
    }

    fn softmax(&self, x: &Tensor) -> Result<Tensor> {
        norm::softmax(self, x)
    }

    fn top_values(&self, x: &Tensor, k: usize) -> Result<Tensor> {
        top::values(self, x, k)
    }

    fn top_tokens(&self, scores: &Tensor, k: usize) -> Result<Indices> {
        top::tokens(self, scores, k)
    }

    fn gather(&self, x: &Tensor, indices: &Indices) -> Result<Tensor> {
        top::gather(self, x, indices)
    }

    fn index_values(&self, indices: &Indices) -> Result<Tensor> {
        top::index_values(self, indices)
    }
}
