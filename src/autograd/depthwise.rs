//! A depthwise convolution with its bounds as one operation of candle's autograd. (Made of candle's operations, it would keep
//! a copy of the feature map for each tap.)

use super::{contiguous, gradient, of, within};
use crate::backend::Window;
use crate::cpu::Floats;
use crate::cpu::lanes::dispatch;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Simd, WithSimd};

/// `x` `[batch, height, width, channels]`, weight `[taps, channels]`, bias `[channels]` → `[batch, out height, out width, channels]`.
pub struct Depthwise {
    pub window: Window,
    /// The smallest and largest value that is let through.
    pub bounds: Option<[f32; 2]>,
}

/// Channels that are computed together: as many as stay in registers.
const LANES: usize = 32;

/// A tap of an output, and the place of the picture that it lies on. Taps on the padding aren't listed.
#[derive(Clone, Copy)]
struct Sight {
    out: usize,
    tap: usize,
    place: usize,
}

/// What the outputs see of a picture.
struct Seen {
    sights: Vec<Sight>,
    taps: usize,
    places: usize,
    /// Of the output.
    size: [usize; 2],
}

impl Seen {
    fn new(window: Window, height: usize, width: usize) -> Result<Self> {
        let place = window.place(height, width);
        let size = [place.out_height, place.out_width];
        if size[0] * size[1] == 0 {
            candle_core::bail!("a window of {:?} doesn't fit into {height}×{width}", window.kernel)
        }
        let taps = window.kernel[0] * window.kernel[1];
        let mut sights = Vec::with_capacity(size[0] * size[1] * taps);
        for out in 0..size[0] * size[1] {
            for tap in 0..taps {
                let y = (out / size[1] * window.stride + tap / window.kernel[1] * window.dilation).wrapping_sub(place.top);
                let x = (out % size[1] * window.stride + tap % window.kernel[1] * window.dilation).wrapping_sub(place.left);
                // What lies above or on the left has wrapped around to a large number.
                if y < height && x < width {
                    sights.push(Sight { out, tap, place: y * width + x });
                }
            }
        }
        Ok(Self { sights, taps, places: height * width, size })
    }

    /// For each output, the taps and where they lie.
    fn by_output(&self) -> Groups {
        Groups::new(&self.sights, self.size[0] * self.size[1], |sight| (sight.out, [sight.tap, sight.place]))
    }

    /// For each place, the taps that lie on it and whose they are.
    fn by_place(&self) -> Groups {
        Groups::new(&self.sights, self.places, |sight| (sight.place, [sight.tap, sight.out]))
    }

    /// For each tap in each row of outputs, the outputs and where it lies.
    fn by_tap(&self) -> Groups {
        let group = |sight: Sight| sight.out / self.size[1] * self.taps + sight.tap;
        Groups::new(&self.sights, self.size[0] * self.taps, |sight| (group(sight), [sight.out, sight.place]))
    }
}

/// Pairs of indices, sorted into groups.
struct Groups {
    pairs: Vec<[usize; 2]>,
    /// Where each group ends.
    ends: Vec<usize>,
}

impl Groups {
    fn new(sights: &[Sight], count: usize, of: impl Fn(Sight) -> (usize, [usize; 2])) -> Self {
        let mut ends = vec![0; count];
        sights.iter().for_each(|&sight| ends[of(sight).0] += 1);
        let mut sum = 0;
        // Where each begins; once its pairs are there, where it ends.
        ends.iter_mut().for_each(|end| sum += std::mem::replace(end, sum));
        let mut pairs = vec![[0; 2]; sights.len()];
        for &sight in sights {
            let (group, pair) = of(sight);
            pairs[ends[group]] = pair;
            ends[group] += 1;
        }
        Self { pairs, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &[[usize; 2]]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.pairs[start..end])
    }
}

impl Depthwise {
    /// What is seen, and the number of channels.
    fn sizes(&self, x: &[usize], w: &[usize], b: &[usize]) -> Result<(Seen, usize)> {
        match (x, w, b) {
            (&[_, height, width, channels], &[taps, weighted], &[biased])
                if taps == self.window.kernel[0] * self.window.kernel[1] && channels > 0 && [weighted, biased] == [channels; 2] =>
            {
                Ok((Seen::new(self.window, height, width)?, channels))
            }
            _ => candle_core::bail!("a depthwise convolution {w:?} by a window of {:?} with bias {b:?} can't act on {x:?}", self.window.kernel),
        }
    }
}

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (seen, channels) = self.sizes(lx.dims(), lw.dims(), lb.dims())?;
        let (batch, height, width, _) = lx.shape().dims4()?;
        let [out_height, out_width] = seen.size;
        let mut out = vec![0.0; batch * out_height * out_width * channels];
        let pictures = of(x, lx)?.chunks_exact(height * width * channels).zip(out.chunks_exact_mut(out_height * out_width * channels));
        let by_output = &seen.by_output();
        for (x, out) in pictures {
            dispatch(Forward { by_output, channels, x, weight: of(w, lw)?, bias: of(b, lb)?, bounds: self.bounds, out });
        }
        Ok((CpuStorage::F32(out), (batch, out_height, out_width, channels).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, out: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (seen, channels) = self.sizes(x.dims(), w.dims(), b.dims())?;
        let (xt, wt, grad) = (contiguous(x)?, contiguous(w)?, contiguous(grad)?);
        let (xs, weight, g, out) = (Floats::of(&xt)?, Floats::of(&wt)?, Floats::of(&grad)?, Floats::of(out)?);
        let g = within(&g, &out, self.bounds);
        let (mut by_x, mut by_w, mut by_b) = (vec![0.0; xs.len()], vec![0.0; weight.len()], vec![0.0; channels]);
        let (whole, out_whole) = (seen.places * channels, seen.size[0] * seen.size[1] * channels);
        let (by_place, by_tap, taps) = (&seen.by_place(), &seen.by_tap(), seen.taps);
        for ((x, g), by_x) in xs.chunks_exact(whole).zip(g.chunks_exact(out_whole)).zip(by_x.chunks_exact_mut(whole)) {
            dispatch(Backward { by_place, by_tap, taps, channels, x, weight: &weight, g, by_x, by_w: &mut by_w, by_b: &mut by_b });
        }
        Ok((gradient(by_x, x)?, gradient(by_w, w)?, gradient(by_b, b)?))
    }
}

/// Adds the products of `L` numbers of each by as many of the other, for each pair; `at` tells where those of an index begin.
#[inline(always)]
fn add_products<const L: usize>(sum: &mut [f32; L], pairs: &[[usize; 2]], [first, second]: [&[f32]; 2], at: impl Fn(usize) -> usize) {
    for &[one, other] in pairs {
        let (a, b) = (&first[at(one)..][..L], &second[at(other)..][..L]);
        for i in 0..L {
            sum[i] += a[i] * b[i];
        }
    }
}

/// One picture's output.
struct Forward<'a> {
    by_output: &'a Groups,
    channels: usize,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    bounds: Option<[f32; 2]>,
    out: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let whole = self.channels / LANES * LANES;
        (0..whole).step_by(LANES).for_each(|channel| self.some::<LANES>(channel));
        (whole..self.channels).for_each(|channel| self.some::<1>(channel));
    }
}

impl Forward<'_> {
    /// `L` channels, from `channel` on.
    #[inline(always)]
    fn some<const L: usize>(&mut self, channel: usize) {
        for (pairs, out) in self.by_output.iter().zip(self.out.chunks_exact_mut(self.channels)) {
            let mut sum = [0.0; L];
            sum.copy_from_slice(&self.bias[channel..][..L]);
            add_products(&mut sum, pairs, [self.weight, self.x], |i| i * self.channels + channel);
            if let Some([least, most]) = self.bounds {
                sum.iter_mut().for_each(|x| *x = x.clamp(least, most));
            }
            out[channel..][..L].copy_from_slice(&sum);
        }
    }
}

/// What a picture's gradient `g` is by everything: by the picture, and, added to what is there, by weight and bias.
struct Backward<'a> {
    by_place: &'a Groups,
    by_tap: &'a Groups,
    taps: usize,
    channels: usize,
    x: &'a [f32],
    weight: &'a [f32],
    g: &'a [f32],
    by_x: &'a mut [f32],
    by_w: &'a mut [f32],
    by_b: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let whole = self.channels / LANES * LANES;
        (0..whole).step_by(LANES).for_each(|channel| self.some::<LANES>(channel));
        (whole..self.channels).for_each(|channel| self.some::<1>(channel));
    }
}

impl Backward<'_> {
    /// `L` channels, from `channel` on. Every sum stays in registers until it is whole, or a row of outputs has been.
    #[inline(always)]
    fn some<const L: usize>(&mut self, channel: usize) {
        let at = |i: usize| i * self.channels + channel;
        for (pairs, by_x) in self.by_place.iter().zip(self.by_x.chunks_exact_mut(self.channels)) {
            let mut sum = [0.0; L];
            add_products(&mut sum, pairs, [self.weight, self.g], at);
            by_x[channel..][..L].copy_from_slice(&sum);
        }
        for (group, pairs) in self.by_tap.iter().enumerate() {
            let mut sum = [0.0; L];
            add_products(&mut sum, pairs, [self.g, self.x], at);
            let by_w = &mut self.by_w[at(group % self.taps)..][..L];
            (0..L).for_each(|i| by_w[i] += sum[i]);
        }
        let mut sum = [0.0; L];
        for g in self.g.chunks_exact(self.channels) {
            let g = &g[channel..][..L];
            (0..L).for_each(|i| sum[i] += g[i]);
        }
        let by_b = &mut self.by_b[channel..][..L];
        (0..L).for_each(|i| by_b[i] += sum[i]);
    }
}
