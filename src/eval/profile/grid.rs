//! Times of one operation at several widths, and what follows from them for any others.

use super::Operation;
use crate::eval::operations::Kind;
use serde::{Deserialize, Serialize};

/// An operation's times on a grid of rows (of queries times keys for attention), channels in and channels out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub kind: Kind,
    /// Ascending, as `inputs` and `outputs`.
    pub rows: Vec<usize>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    /// Milliseconds `[rows, inputs, outputs]`.
    pub ms: Vec<f64>,
}

/// Of the time at the narrowest width measured, this much is taken to go with the width: the rest is spent however narrow it is.
const PROPORTIONAL: f64 = 0.5;

impl Entry {
    /// Refuses a grid that is none, and makes times non-decreasing along each axis: a shorter time for more work is noise.
    pub fn settle(&mut self) -> Result<(), String> {
        let axes = [("rows", &self.rows), ("inputs", &self.inputs), ("outputs", &self.outputs)];
        for (name, axis) in axes {
            if axis.first().is_none_or(|&first| first == 0) || !axis.is_sorted_by(|a, b| a < b) {
                return Err(format!("{name} must be positive and ascend, not {axis:?}"));
            }
        }
        let [_, inputs, outputs] = axes.map(|(_, axis)| axis.len());
        let cells = axes.iter().try_fold(1usize, |product, (_, axis)| product.checked_mul(axis.len()));
        if cells != Some(self.ms.len()) {
            return Err(format!("{} times don't fill the grid of its rows, inputs and outputs", self.ms.len()));
        }
        if let Some(wrong) = self.ms.iter().find(|ms| !(ms.is_finite() && **ms > 0.0)) {
            return Err(format!("a time must be a positive number of milliseconds, not {wrong}"));
        }
        for i in 0..self.ms.len() {
            let (row, input, output) = (i / (inputs * outputs), i / outputs % inputs, i % outputs);
            for (place, stride) in [(row, inputs * outputs), (input, outputs), (output, 1)] {
                if place > 0 {
                    self.ms[i] = self.ms[i].max(self.ms[i - stride]);
                }
            }
        }
        Ok(())
    }

    /// How far an operation's rows are from those measured; 0 among them.
    fn distance(&self, rows: f64) -> f64 {
        let (first, last) = (self.rows[0] as f64, self.rows[self.rows.len() - 1] as f64);
        (first / rows).max(rows / last).max(1.0)
    }

    /// Milliseconds, linear in each axis between measurements as a matrix product's are, and in proportion beyond them.
    fn at(&self, rows: f64, inputs: f64, outputs: f64) -> f64 {
        let [r, i, o] = [
            Between::new(&self.rows, rows, 1.0),
            Between::new(&self.inputs, inputs, PROPORTIONAL),
            Between::new(&self.outputs, outputs, PROPORTIONAL),
        ];
        let mut sum = 0.0;
        for (row, a) in r.corners() {
            for (input, b) in i.corners() {
                for (output, c) in o.corners() {
                    sum += a * b * c * self.ms[(row * self.inputs.len() + input) * self.outputs.len() + output];
                }
            }
        }
        sum * r.beyond * i.beyond * o.beyond
    }
}

/// A place on an axis: after which measurement, how far on to the next, and a factor for what lies beyond all.
struct Between {
    index: usize,
    part: f64,
    beyond: f64,
}

impl Between {
    fn new(axis: &[usize], x: f64, proportional: f64) -> Self {
        let (first, last) = (axis[0] as f64, axis[axis.len() - 1] as f64);
        if x <= first {
            return Self { index: 0, part: 0.0, beyond: 1.0 - proportional + proportional * x / first };
        }
        if x >= last {
            return Self { index: axis.len() - 1, part: 0.0, beyond: x / last };
        }
        let index = axis.partition_point(|&mark| mark as f64 <= x) - 1;
        let (low, high) = (axis[index] as f64, axis[index + 1] as f64);
        Self { index, part: (x - low) / (high - low), beyond: 1.0 }
    }

    fn corners(&self) -> impl Iterator<Item = (usize, f64)> {
        let next = (self.part > 0.0).then_some((self.index + 1, self.part));
        [(self.index, 1.0 - self.part)].into_iter().chain(next)
    }
}

/// Milliseconds of an operation by entries of its kind, else of the most similar kind, by multiply-accumulates.
///
/// Of all entries of the nearest rows the least time counts. Each of them never falls with more channels, and so neither does the
/// least; to choose the nearest by channels as well would make jumps where one entry's reach ends.
pub fn predict(entries: &[Entry], operation: &Operation) -> f64 {
    let [rows, inputs, outputs] = [operation.rows(), operation.inputs, operation.outputs].map(|x| x as f64);
    let least_of = |chosen: &dyn Fn(&Entry) -> bool, time: &dyn Fn(&Entry) -> f64| {
        let near = |entry: &&Entry| chosen(entry);
        let nearest = entries.iter().filter(near).map(|entry| entry.distance(rows)).min_by(f64::total_cmp)?;
        entries.iter().filter(near).filter(|entry| entry.distance(rows) <= nearest).map(time).min_by(f64::total_cmp)
    };
    let exact = least_of(&|entry| entry.kind == operation.kind, &|entry| entry.at(rows, inputs, outputs));
    let by_taps = |entry: &Entry| operation.kind.taps() as f64 / entry.kind.taps() as f64;
    let similar = || {
        let alike = |entry: &&Entry| family(entry.kind) == family(operation.kind);
        let far = |entry: &Entry| by_taps(entry).ln().abs();
        let nearest = entries.iter().filter(alike).map(far).min_by(f64::total_cmp)?;
        least_of(&|entry| alike(&entry) && far(entry) <= nearest, &|entry| by_taps(entry) * entry.at(rows, inputs, outputs))
    };
    let any = || {
        let rate = |entry: &Entry| {
            let most = [&entry.rows, &entry.inputs, &entry.outputs].map(|axis| axis[axis.len() - 1] as f64);
            entry.ms[entry.ms.len() - 1] / (most.iter().product::<f64>() * entry.kind.taps() as f64)
        };
        let rate = entries.iter().map(rate).min_by(f64::total_cmp)?;
        Some(rate * rows * inputs * outputs * operation.kind.taps() as f64)
    };
    exact.or_else(similar).or_else(any).unwrap_or_default()
}

/// Kinds that are computed alike.
fn family(kind: Kind) -> u8 {
    match kind {
        Kind::Conv { .. } | Kind::Linear { .. } => 0,
        Kind::Depthwise { .. } | Kind::Pool { .. } => 1,
        Kind::Attention { .. } | Kind::Deformable { .. } => 2,
        Kind::Norm | Kind::Add => 3,
    }
}
