//! Where a network's time goes on the CPU: each node of its graph timed in whole runs, as profilers of PyTorch and ONNX Runtime tell it.

use super::bench::median;
use super::operations::operation;
use crate::checkpoint::Checkpoint;
use crate::config::NetworkConfig;
use crate::cpu::CpuSession;
use crate::error::Result;
use crate::graph::{Node, Op};
use crate::watch::Observe;
use crate::weights::HostTensor;
use serde::Serialize;
use std::collections::BTreeMap;
use web_time::Instant;

/// A node and the time that it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeTime {
    /// The layer whose weights it uses; of what has none, the layer before it.
    pub layer: String,
    pub op: &'static str,
    /// Of its output, `[batch, height, width, channels]` or `[batch, tokens, width]`.
    pub shape: Vec<usize>,
    /// Median milliseconds.
    pub ms: f64,
    pub macs: u64,
}

/// The time of every node that is computed for each image, in order; `size` is the height and width of the input. `runs` runs after one to
/// warm up.
pub fn node_times(checkpoint: &Checkpoint<impl NetworkConfig>, size: [usize; 2], runs: usize) -> Result<Vec<NodeTime>> {
    let mut session = CpuSession::load(&checkpoint.config.architecture(), &checkpoint.weights)?;
    let pixels = HostTensor::f32(&[1, size[0], size[1], 3], (0..size[0] * size[1] * 3).map(|i| (i % 251) as f32 / 251.0).collect());
    let mut clock = Clock::default();
    for run in 0..=runs {
        clock.last = None;
        session.run(&pixels, &mut clock)?;
        clock.stop();
        if run == 0 {
            clock.times.clear();
        }
    }
    let mut layer = String::new();
    let found = clock.times.into_values().map(|(node, mut times)| {
        layer = node.layer.clone().unwrap_or_else(|| layer.clone());
        times.sort_by(f64::total_cmp);
        let ms = median(&times).unwrap_or_default();
        NodeTime {
            layer: layer.clone(),
            op: name(&node.op),
            macs: operation(&node).map_or(0, |operation| operation.macs()),
            shape: node.output.shape,
            ms,
        }
    });
    Ok(found.collect())
}

/// Times of nodes, by their numbers.
#[derive(Default)]
struct Clock {
    times: BTreeMap<usize, (Node, Vec<f64>)>,
    last: Option<(usize, Instant)>,
}

impl Clock {
    fn stop(&mut self) {
        if let Some((id, since)) = self.last.take()
            && let Some((_, times)) = self.times.get_mut(&id)
        {
            times.push(since.elapsed().as_secs_f64() * 1e3);
        }
    }
}

impl<T> Observe<T> for Clock {
    fn node(&mut self, node: &Node) -> Result<()> {
        self.stop();
        let id = node.output.id;
        self.times.entry(id).or_insert_with(|| (node.clone(), Vec::new()));
        self.last = Some((id, Instant::now()));
        Ok(())
    }
}

/// As ONNX calls it, where it has it.
fn name(op: &Op) -> &'static str {
    match op {
        Op::Input => "Input",
        Op::Constant(_) => "Constant",
        Op::Parameter(_) => "Parameter",
        Op::Reshape => "Reshape",
        Op::Conv(..) => "Conv",
        Op::Depthwise(..) => "depthwise Conv",
        Op::Linear(_) => "Linear",
        Op::Norm => "Norm",
        Op::Pool(..) => "Pool",
        Op::Upsample => "Resize",
        Op::Concat { .. } => "Concat",
        Op::Narrow { .. } => "Slice",
        Op::Attention { .. } => "Attention",
        Op::Deformable(_) => "deformable attention",
        Op::Add(_) => "Add",
        Op::Multiply => "Mul",
        Op::Activate(_) => "activation",
        Op::Clamp { .. } => "Clip",
        Op::Softmax => "Softmax",
        Op::TopValues => "TopK",
        Op::TopTokens => "TopK of tokens",
        Op::Gather => "Gather",
        Op::IndexValues => "Cast",
    }
}
