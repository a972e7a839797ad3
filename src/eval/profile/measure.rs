//! Times single operations on the processor.
//!
//! An operation is run once at a time on fresh tensors, as in a network, and all are taken in turn in an order that is shuffled anew
//! every round, so that a slow moment of the machine doesn't hit one shape. The network itself runs between the rounds.

use super::grid::{Entry, predict};
use super::shrunk::shrunk;
use super::{Measured, Operation, Profile, Tell};
use crate::backend::{Backend, Deformable, Padding, Pool, SamplingMethod, Window};
use crate::checkpoint::Checkpoint;
use crate::config::{Activation, Config, NetworkConfig};
use crate::cpu::{Cpu, CpuSession};
use crate::error::{Error, Result};
use crate::eval::bench::median;
use crate::eval::operations::{Kind, operations};
use crate::session::Unobserved;
use crate::structure::Place;
use crate::weights::HostTensor;
use fastrand::Rng;
use std::time::Duration;
use web_time::Instant;

/// Rows and columns of the map that a deformable attention is timed on.
const LEVEL: [usize; 2] = [26, 26];

/// Shares of a network's widths that are measured.
const SHARES: [f64; 5] = [1.0, 0.75, 0.5, 0.25, 0.125];
/// The numbers of queries, as shares, for which all that is repeated.
const QUERIES: [f64; 2] = [1.0, 0.5];
/// No further round is begun after this long.
const PATIENCE: Duration = Duration::from_secs(40);
const FEWEST_ROUNDS: usize = 3;
const MOST_ROUNDS: usize = 25;
/// What is timed should take so many ticks of the clock: browsers make theirs coarse.
const TICKS: u32 = 10;

/// A grid to be measured.
#[derive(PartialEq)]
struct Grid {
    kind: Kind,
    maps: Vec<[usize; 2]>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

/// A cell of a grid and the times that it took.
struct Cell {
    operation: Operation,
    repeats: u32,
    times: Vec<f64>,
}

pub fn measure(checkpoint: &Checkpoint, size: [usize; 2], tell: Tell) -> Result<Profile> {
    let config = &checkpoint.config;
    let grids = grids(config, size);
    let mut cells: Vec<Cell> = grids.iter().flat_map(Grid::cells).map(|operation| Cell { operation, repeats: 1, times: Vec::new() }).collect();
    let tick = tick();
    for i in 0..cells.len() {
        tell("trying every shape", i, cells.len());
        cells[i].repeats = repeats(&cells[i].operation, tick)?;
    }

    let mut session = CpuSession::load(&config.architecture(), &checkpoint.weights)?;
    let pixels = filled(&[1, size[0], size[1], 3], 0.5);
    let mut whole = Vec::new();
    let mut order: Vec<usize> = (0..cells.len()).collect();
    let mut rng = Rng::with_seed(0);
    let begun = Instant::now();
    for round in 0..MOST_ROUNDS {
        if round >= FEWEST_ROUNDS && begun.elapsed() > PATIENCE {
            break;
        }
        tell("timing every shape", round, MOST_ROUNDS);
        rng.shuffle(&mut order);
        for &i in &order {
            let (operation, repeats) = (cells[i].operation, cells[i].repeats);
            cells[i].times.push(milliseconds(&operation, repeats)?);
        }
        for run in 0..3 {
            let start = Instant::now();
            drop(session.run(&pixels, &mut Unobserved)?);
            // The first finds its weights pushed out of the caches.
            if run > 0 {
                whole.push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }

    let mut times = cells.iter_mut().map(|cell| middle(&mut cell.times));
    let mut entries = Vec::new();
    for Grid { kind, maps, inputs, outputs } in grids {
        let rows: Vec<usize> = maps.iter().map(|map| map[0] * map[1]).collect();
        let ms = times.by_ref().take(rows.len() * inputs.len() * outputs.len()).collect();
        let mut entry = Entry { kind, rows, inputs, outputs, ms };
        entry.settle().map_err(|problem| Error::Config(format!("a measurement failed: {problem}")))?;
        entries.push(entry);
    }
    let network = middle(&mut whole);
    let sum: f64 = operations(config, size).iter().map(|step| predict(&entries, &step.operation)).sum();
    Ok(Profile { device: device(), size, network, measured: Measured::Operations { scale: rounded(network / sum).max(1e-6), entries } })
}

#[cfg(not(target_arch = "wasm32"))]
fn device() -> String {
    let threads = rayon::current_num_threads();
    format!("CPU, {threads} thread{}", if threads == 1 { "" } else { "s" })
}

#[cfg(target_arch = "wasm32")]
fn device() -> String {
    "CPU (WebAssembly)".into()
}

/// A grid for every operation of the network whose widths, or whose ways of shrinking, differ.
fn grids(config: &Config, size: [usize; 2]) -> Vec<Grid> {
    let shrunk = SHARES.map(|share| shrunk(config, |_| share));
    let narrower = shrunk.each_ref().map(|config| operations(config, size));
    let fewer = QUERIES.map(|share| operations(&super::shrunk::shrunk(config, |place| if *place == Place::Queries { share } else { 1.0 }), size));
    let mut grids: Vec<Grid> = Vec::new();
    for (i, step) in narrower[0].iter().enumerate() {
        let marks = |of: fn(&Operation) -> usize| {
            let mut marks: Vec<usize> = narrower.iter().map(|steps| of(&steps[i].operation)).collect();
            marks.sort_unstable();
            marks.dedup();
            marks
        };
        let mut maps: Vec<[usize; 2]> = fewer.iter().map(|steps| steps[i].operation.map).collect();
        maps.sort_unstable_by_key(|map| map[0] * map[1]);
        maps.dedup_by_key(|map| map[0] * map[1]);
        let grid = Grid { kind: step.operation.kind, maps, inputs: marks(|o| o.inputs), outputs: marks(|o| o.outputs) };
        if !grids.contains(&grid) {
            grids.push(grid);
        }
    }
    grids
}

impl Grid {
    fn cells(&self) -> impl Iterator<Item = Operation> {
        let cell = |map, inputs, outputs| Operation { kind: self.kind, map, inputs, outputs };
        self.maps
            .iter()
            .flat_map(move |&map| self.inputs.iter().flat_map(move |&inputs| self.outputs.iter().map(move |&outputs| cell(map, inputs, outputs))))
    }
}

/// The clock's smallest step.
fn tick() -> Duration {
    let start = Instant::now();
    let step = || {
        let now = Instant::now();
        loop {
            let passed = now.elapsed();
            if !passed.is_zero() {
                return passed;
            }
        }
    };
    let mut least = step();
    while start.elapsed() < Duration::from_millis(10) {
        least = least.min(step());
    }
    least
}

/// How often an operation must be run to take long enough for the clock.
fn repeats(operation: &Operation, tick: Duration) -> Result<u32> {
    const MOST: u32 = 1 << 12;
    let enough = tick.as_secs_f64() * 1e3 * f64::from(TICKS);
    let mut repeats = 1;
    // The first run is slower.
    if milliseconds(operation, 1)? > 2.0 * enough {
        return Ok(1);
    }
    while repeats < MOST && milliseconds(operation, repeats)? * f64::from(repeats) < enough {
        repeats *= 2;
    }
    Ok(repeats)
}

fn middle(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    // What no clock can tell from nothing still takes some time.
    rounded(median(times).unwrap_or_default()).max(1e-6)
}

/// Millionths are enough, and short to write.
pub fn rounded(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

fn filled(shape: &[usize], value: f32) -> HostTensor {
    HostTensor::f32(shape, vec![value; shape.iter().product()])
}

/// Milliseconds of one run, on average over some. What is in the tensors makes no difference.
fn milliseconds(operation: &Operation, repeats: u32) -> Result<f64> {
    let Operation { kind, map: [height, width], inputs, outputs } = *operation;
    let x = |shape: &[usize]| Cpu.constant(&filled(shape, 0.5));
    let weight = |shape: &[usize]| filled(shape, 0.01);
    let time = |run: &dyn Fn() -> Result<<Cpu as Backend>::Tensor>| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..repeats {
            drop(run()?);
        }
        Ok(start.elapsed().as_secs_f64() * 1e3 / f64::from(repeats))
    };
    let source = |stride: usize, channels: usize| x(&[1, height * stride, width * stride, channels]);
    match kind {
        Kind::Conv { kernel, stride, residual } => {
            let window = Window::new(kernel, stride, Padding::Same);
            let conv = Cpu.load_conv("", &weight(&[outputs, kernel, kernel, inputs]), &weight(&[outputs]), None, window)?;
            let residual = residual.then(|| x(&[1, height, width, outputs])).transpose()?;
            let x = source(stride, inputs)?;
            time(&|| Cpu.conv(&x, &conv, Activation::Relu, residual.as_ref()))
        }
        Kind::Depthwise { kernel, stride } => {
            let window = Window::new(kernel, stride, Padding::Same);
            let conv = Cpu.load_depthwise("", &weight(&[kernel, kernel, inputs]), &weight(&[inputs]), None, window)?;
            let x = source(stride, inputs)?;
            time(&|| Cpu.depthwise(&x, &conv, Activation::Relu))
        }
        Kind::Pool { kernel, stride } => {
            let x = source(stride, inputs)?;
            time(&|| Cpu.pool(&x, Window::new(kernel, stride, Padding::Same), Pool::Max))
        }
        Kind::Linear { residual } => {
            let linear = Cpu.load_linear("", &weight(&[outputs, inputs]), &weight(&[outputs]))?;
            let residual = residual.then(|| x(&[height, width, outputs])).transpose()?;
            let x = x(&[height, width, inputs])?;
            time(&|| Cpu.linear(&x, &linear, Activation::None, residual.as_ref()))
        }
        Kind::Attention { head_width } => {
            let (q, k) = (x(&[1, height, inputs * head_width])?, x(&[1, width, inputs * head_width])?);
            time(&|| Cpu.attention(&q, &k, &k, inputs, None))
        }
        Kind::Deformable { head_width, points } => {
            // On one level of the usual size, whose place in memory matters little.
            let deformable =
                Deformable { heads: inputs, levels: vec![LEVEL], points: vec![points], offset_scale: 0.5, method: SamplingMethod::Default };
            let value = x(&[1, deformable.tokens(), inputs * head_width])?;
            let (offsets, weights) = (x(&[1, width, inputs * points * 2])?, x(&[1, width, inputs * points])?);
            let boxes = x(&[1, width, 4])?;
            time(&|| Cpu.deformable_attention(&value, &offsets, &weights, &boxes, &deformable))
        }
        Kind::Norm => {
            let norm = Cpu.load_norm("", &weight(&[inputs]), Some(&weight(&[inputs])), 1e-5)?;
            let x = x(&[height, width, inputs])?;
            time(&|| Cpu.norm(&x, &norm))
        }
        Kind::Add => {
            let (a, b) = (x(&[height, width, inputs])?, x(&[height, width, inputs])?);
            time(&|| Cpu.add(&a, &b, Activation::None))
        }
    }
}
