//! A recording made ready: memory, bind groups and pipelines are fixed, and a run is a write, a replay and a read.

use super::device::{Gpu, Memory};
use super::graph::{Dispatch, Origin, Tensor, Value};
use super::plan::{Plan, share};
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use wgpu::BufferUsages;

/// Where values are, by their ids.
type Places = HashMap<usize, Rc<Memory>>;

/// What can be replayed.
pub struct Program {
    steps: Steps,
    inputs: Places,
    outputs: Vec<(Rc<Memory>, usize)>,
    /// Where the outputs are read from, one after the other.
    staging: Option<Memory>,
    /// Bytes of all memory that belongs to this program.
    pub bytes: usize,
}

/// Dispatches with their arguments bound.
struct Steps {
    steps: Vec<(wgpu::ComputePipeline, wgpu::BindGroup, [u32; 3])>,
    /// Owners of what the bind groups refer to.
    _memory: Vec<Rc<Memory>>,
}

impl Program {
    /// Cuts `recording` to what `outputs` need, gives memory to it and computes what doesn't depend on the inputs.
    pub async fn new(gpu: &Gpu, recording: &[Dispatch], outputs: &[Tensor]) -> Result<Self> {
        let watch = gpu.watch();
        let program = Self::build(gpu, recording, outputs);
        watch.end().await?;
        program
    }

    fn build(gpu: &Gpu, recording: &[Dispatch], outputs: &[Tensor]) -> Result<Self> {
        let values: Vec<&Value> = outputs.iter().map(|tensor| &*tensor.value).collect();
        let plan = Plan::new(recording, &values);
        let mut places = Places::new();
        let once = Steps::new(gpu, &plan.once, &plan.kept, &mut places)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        once.encode(&mut encoder);
        gpu.queue.submit([encoder.finish()]);
        places.retain(|id, _| plan.kept.contains(id));

        let last: HashSet<usize> = values.iter().map(|value| value.id).collect();
        let steps = Steps::new(gpu, &plan.repeated, &last, &mut places)?;
        let found = values.iter().map(|value| Ok((place(value, &places)?, value.bytes)));
        let outputs: Vec<_> = found.collect::<Result<_>>()?;
        let total = outputs.iter().map(|(_, bytes)| bytes).sum();
        let staging = gpu.create("read-back", total, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        Ok(Self { inputs: inputs(&plan.repeated, &places), steps, outputs, staging: Some(staging), bytes: total + bytes(&places) })
    }

    /// The most bytes that [`Program::new`] takes, while it works and afterwards.
    pub fn needs(recording: &[Dispatch], outputs: &[Tensor]) -> usize {
        let values: Vec<&Value> = outputs.iter().map(|tensor| &*tensor.value).collect();
        let plan = Plan::new(recording, &values);
        let last: HashSet<usize> = values.iter().map(|value| value.id).collect();
        let (once, repeated) = (share(&plan.once, &plan.kept, |_| false), share(&plan.repeated, &last, |id| plan.kept.contains(&id)));
        let read_back: usize = values.iter().map(|value| value.bytes).sum();
        read_back + once.bytes.iter().chain(&repeated.bytes).sum::<usize>()
    }

    /// The bytes that [`Program::before`] takes.
    pub fn needs_before(recording: &[Dispatch], target: &Tensor) -> usize {
        let plan = Plan::new(recording, &[&target.value]);
        share(&plan.repeated, &HashSet::new(), |id| id == target.value.id).bytes.iter().sum()
    }

    /// A program that writes `target` where `other` has it as an input, to be run before `other`.
    pub async fn before(other: &Program, gpu: &Gpu, recording: &[Dispatch], target: &Tensor, input: &Tensor) -> Result<Self> {
        let plan = Plan::new(recording, &[&target.value]);
        let Some(memory) = other.inputs.get(&input.value.id) else { return Err(missing(input.value.id)) };
        let mut places = Places::from([(target.value.id, memory.clone())]);
        let watch = gpu.watch();
        let steps = Steps::new(gpu, &plan.repeated, &HashSet::new(), &mut places);
        watch.end().await?;
        places.remove(&target.value.id);
        Ok(Self { inputs: inputs(&plan.repeated, &places), steps: steps?, outputs: Vec::new(), staging: None, bytes: bytes(&places) })
    }

    /// Writes an input for the runs that follow.
    pub fn write(&self, gpu: &Gpu, input: &Tensor, bytes: &[u8]) {
        // An input that nothing depends on has no memory.
        if let Some(memory) = self.inputs.get(&input.value.id) {
            gpu.queue.write_buffer(&memory.0, 0, bytes);
        }
    }

    pub fn dispatches(&self) -> usize {
        self.steps.steps.len()
    }

    /// Runs once and gives the outputs: one submit, one read-back.
    pub async fn run(&self, gpu: &Gpu, before: Option<&Program>) -> Result<Vec<Vec<f32>>> {
        let Some(staging) = &self.staging else { return Ok(Vec::new()) };
        let watch = gpu.watch();
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        if let Some(before) = before {
            before.steps.encode(&mut encoder);
        }
        self.steps.encode(&mut encoder);
        let mut offset = 0;
        for (memory, bytes) in &self.outputs {
            encoder.copy_buffer_to_buffer(&memory.0, 0, &staging.0, offset as u64, *bytes as u64);
            offset += bytes;
        }
        gpu.queue.submit([encoder.finish()]);
        let submitted = watch.end();
        let read = gpu.read(&staging.0, offset).await;
        submitted.await?;
        gpu.check()?;
        let data = read?;

        let mut rest = &data[..];
        let split = self.outputs.iter().map(|(_, bytes)| {
            let (this, after) = rest.split_at(*bytes);
            rest = after;
            bytemuck::pod_collect_to_vec(this)
        });
        Ok(split.collect())
    }
}

impl Steps {
    /// Finds memory for what `places` hasn't got and binds it; the values of `last` stay to the end.
    fn new(gpu: &Gpu, dispatches: &[&Dispatch], last: &HashSet<usize>, places: &mut Places) -> Result<Self> {
        let slots = share(dispatches, last, |id| places.contains_key(&id));
        let memory = slots.bytes.iter().map(|&bytes| Ok(Rc::new(gpu.allocate("an activation", bytes)?))).collect::<Result<Vec<_>>>()?;
        places.extend(slots.of.iter().map(|(&id, &slot)| (id, memory[slot].clone())));
        Self::bind(gpu, dispatches, places)
    }

    fn bind(gpu: &Gpu, dispatches: &[&Dispatch], places: &Places) -> Result<Self> {
        let stride = gpu.device.limits().min_uniform_buffer_offset_alignment as usize;
        let mut parameters = vec![0u8; dispatches.len() * stride];
        for (to, dispatch) in parameters.chunks_exact_mut(stride).zip(dispatches) {
            to[..dispatch.parameters.len()].copy_from_slice(&dispatch.parameters);
        }
        let uniform = gpu.create("parameters", parameters.len(), BufferUsages::UNIFORM | BufferUsages::COPY_DST);
        gpu.queue.write_buffer(&uniform.0, 0, &parameters);

        let mut memory = vec![Rc::new(uniform)];
        let mut steps = Vec::with_capacity(dispatches.len());
        for (i, dispatch) in dispatches.iter().enumerate() {
            let arguments = dispatch.reads.iter().chain([&dispatch.write]).map(|value| place(value, places));
            let arguments = arguments.collect::<Result<Vec<_>>>()?;
            let size = wgpu::BufferSize::new(dispatch.parameters.len() as u64);
            let block = wgpu::BufferBinding { buffer: &memory[0].0, offset: (i * stride) as u64, size };
            let mut entries = vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(block) }];
            entries.extend(arguments.iter().zip(1..).map(|(a, binding)| wgpu::BindGroupEntry { binding, resource: a.0.as_entire_binding() }));
            let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &dispatch.layout, entries: &entries });
            steps.push((dispatch.pipeline.clone(), group, dispatch.groups));
            memory.extend(arguments);
        }
        memory.sort_by_key(Rc::as_ptr);
        memory.dedup_by_key(|memory| Rc::as_ptr(memory));
        Ok(Self { steps, _memory: memory })
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for (pipeline, group, [x, y, z]) in &self.steps {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*x, *y, *z);
        }
    }
}

fn place(value: &Value, places: &Places) -> Result<Rc<Memory>> {
    match &value.origin {
        Origin::Constant(memory) => Ok(memory.clone()),
        _ => places.get(&value.id).cloned().ok_or_else(|| missing(value.id)),
    }
}

fn inputs(dispatches: &[&Dispatch], places: &Places) -> Places {
    let inputs = dispatches.iter().flat_map(|d| &d.reads).filter(|value| matches!(value.origin, Origin::Input));
    inputs.filter_map(|value| Some((value.id, places.get(&value.id)?.clone()))).collect()
}

/// Bytes of all memory in `places`, each counted once.
fn bytes(places: &Places) -> usize {
    let distinct: HashMap<*const Memory, u64> = places.values().map(|memory| (Rc::as_ptr(memory), memory.0.size())).collect();
    distinct.values().sum::<u64>() as usize
}

fn missing(id: usize) -> Error {
    Error::Gpu(format!("value {id} is used before it is made"))
}
