//! The kernels' sources and the pipelines made of them, each once.

use super::template::{Constant, expand};
use std::cell::RefCell;
use std::collections::HashMap;

/// A file of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    GemmDirect,
    GemmTiled,
    Window,
    PoolLarge,
    Elementwise,
    Copy,
    Upsample,
    Norm,
    AttentionDirect,
    AttentionTiled,
    Deformable,
    Softmax,
    TopTokens,
    TopValues,
    Gather,
    Prepare,
}

impl Family {
    /// The name for error messages, and the parts of the template.
    fn source(self) -> (&'static str, &'static [&'static str]) {
        const EPILOGUE: &str = include_str!("kernels/epilogue.wgsl");
        const ELEMENT: &str = include_str!("kernels/element.wgsl");
        const POOL: &str = include_str!("kernels/pool.wgsl");
        const ORDER: &str = include_str!("kernels/order.wgsl");
        const ATTENTION: &str = include_str!("kernels/attention.wgsl");
        const GEMM: &str = include_str!("kernels/gemm.wgsl");
        match self {
            Family::GemmDirect => ("gemm_direct", &[EPILOGUE, ELEMENT, GEMM, include_str!("kernels/gemm_direct.wgsl")]),
            Family::GemmTiled => ("gemm_tiled", &[EPILOGUE, ELEMENT, GEMM, include_str!("kernels/gemm_tiled.wgsl")]),
            Family::Window => ("window", &[EPILOGUE, ELEMENT, POOL, include_str!("kernels/window.wgsl")]),
            Family::PoolLarge => ("pool_large", &[ELEMENT, POOL, include_str!("kernels/pool_large.wgsl")]),
            Family::Elementwise => ("elementwise", &[EPILOGUE, ELEMENT, include_str!("kernels/elementwise.wgsl")]),
            Family::Copy => ("copy", &[ELEMENT, include_str!("kernels/copy.wgsl")]),
            Family::Upsample => ("upsample", &[ELEMENT, include_str!("kernels/upsample.wgsl")]),
            Family::Norm => ("norm", &[include_str!("kernels/norm.wgsl")]),
            Family::AttentionDirect => ("attention_direct", &[ATTENTION, include_str!("kernels/attention_direct.wgsl")]),
            Family::AttentionTiled => ("attention_tiled", &[ATTENTION, include_str!("kernels/attention_tiled.wgsl")]),
            Family::Deformable => ("deformable", &[ELEMENT, include_str!("kernels/deformable.wgsl")]),
            Family::Softmax => ("softmax", &[include_str!("kernels/softmax.wgsl")]),
            Family::TopTokens => ("top_tokens", &[ORDER, include_str!("kernels/top_tokens.wgsl")]),
            Family::TopValues => ("top_values", &[ORDER, include_str!("kernels/top_values.wgsl")]),
            Family::Gather => ("gather", &[ELEMENT, include_str!("kernels/gather.wgsl")]),
            Family::Prepare => ("prepare", &[include_str!("kernels/prepare.wgsl")]),
        }
    }
}

/// Pipelines and layouts by what they were made of.
#[derive(Default)]
pub struct Kernels {
    pipelines: RefCell<HashMap<(Family, Vec<Constant>), wgpu::ComputePipeline>>,
    layouts: RefCell<HashMap<usize, wgpu::BindGroupLayout>>,
}

impl Kernels {
    /// The layout of every kernel that reads so many buffers: a uniform block, these, and one that is written.
    pub fn layout(&self, device: &wgpu::Device, reads: usize) -> wgpu::BindGroupLayout {
        let make = || {
            let entry = |(binding, ty)| wgpu::BindGroupLayoutEntry {
                binding: binding as u32,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
                count: None,
            };
            let read = wgpu::BufferBindingType::Storage { read_only: true };
            let write = wgpu::BufferBindingType::Storage { read_only: false };
            let types = [wgpu::BufferBindingType::Uniform].into_iter().chain(vec![read; reads]).chain([write]);
            let entries: Vec<_> = types.enumerate().map(entry).collect();
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        };
        self.layouts.borrow_mut().entry(reads).or_insert_with(make).clone()
    }

    pub fn pipeline(&self, device: &wgpu::Device, family: Family, constants: &[Constant], layout: &wgpu::BindGroupLayout) -> wgpu::ComputePipeline {
        let make = || {
            let (name, parts) = family.source();
            let source = expand(&parts.concat(), constants);
            let module =
                device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(name), source: wgpu::ShaderSource::Wgsl(source.into()) });
            let descriptor = wgpu::PipelineLayoutDescriptor { label: Some(name), bind_group_layouts: &[Some(layout)], immediate_size: 0 };
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&device.create_pipeline_layout(&descriptor)),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions { zero_initialize_workgroup_memory: false, ..Default::default() },
                cache: None,
            })
        };
        self.pipelines.borrow_mut().entry((family, constants.to_vec())).or_insert_with(make).clone()
    }
}
