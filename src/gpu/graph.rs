//! What is recorded: values on the device and the dispatches that make them.

use super::device::Memory;
use std::rc::Rc;

/// A handle to numbers on the device, some of which may only exist when the program runs.
#[derive(Clone)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub value: Rc<Value>,
}

/// Numbers on the device, whatever their shape.
pub struct Value {
    pub id: usize,
    pub bytes: usize,
    pub origin: Origin,
}

pub enum Origin {
    /// Weights and whatever else is there before the program runs.
    Constant(Rc<Memory>),
    /// Written by the host before each run.
    Input,
    /// Written by dispatches of the program.
    Made,
}

/// One kernel on its arguments.
pub struct Dispatch {
    pub pipeline: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
    /// The uniform block, a multiple of 16 bytes.
    pub parameters: Vec<u8>,
    pub reads: Vec<Rc<Value>>,
    /// May have been written before, in part or to be changed in place.
    pub write: Rc<Value>,
    pub groups: [u32; 3],
}

impl Tensor {
    /// How many numbers there are.
    pub fn size(&self) -> usize {
        self.shape.iter().product()
    }

    /// The size of the last dimension.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}
