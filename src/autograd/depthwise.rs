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

/// What each place of the output sees of a picture.
struct Seen {
    /// A tap and the place of the input that it lies on, for one output after the other. Taps on the padding aren't listed.
    pairs: Vec<(usize, usize)>,
    /// Where each output's pairs end.
    ends: Vec<usize>,
    size: [usize; 2],
}

impl Seen {
    fn new(window: Window, height: usize, width: usize) -> Result<Self> {
        let place = window.place(height, width);
        let size = [place.out_height, place.out_width];
        if size[0] * size[1] == 0 {
            candle_core::bail!("a window of {:?} doesn't fit into {height}×{width}", window.kernel)
        }
        let (mut pairs, mut ends) = (Vec::new(), Vec::with_capacity(size[0] * size[1]));
        for out in 0..size[0] * size[1] {
            for tap in 0..window.kernel[0] * window.kernel[1] {
                let y = (out / size[1] * window.stride + tap / window.kernel[1] * window.dilation).wrapping_sub(place.top);
                let x = (out % size[1] * window.stride + tap % window.kernel[1] * window.dilation).wrapping_sub(place.left);
                // What lies above or on the left has wrapped around to a large number.
                if y < height && x < width {
                    pairs.push((tap, y * width + x));
                }
            }
            ends.push(pairs.len());
        }
        Ok(Self { pairs, ends, size })
    }

    /// The pairs of each output.
    fn outputs(&self) -> impl Iterator<Item = &[(usize, usize)]> {
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
        for (x, out) in pictures {
            dispatch(Forward { seen: &seen, channels, x, weight: of(w, lw)?, bias: of(b, lb)?, bounds: self.bounds, out });
        }
        Ok((CpuStorage::F32(out), (batch, out_height, out_width, channels).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, b: &Tensor, out: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (seen, channels) = self.sizes(x.dims(), w.dims(), b.dims())?;
        let (xt, wt, grad) = (contiguous(x)?, contiguous(w)?, contiguous(grad)?);
        let (xs, weight, g, out) = (Floats::of(&xt)?, Floats::of(&wt)?, Floats::of(&grad)?, Floats::of(out)?);
        let g = within(&g, &out, self.bounds);
        let (mut by_x, mut by_w, mut by_b) = (vec![0.0; xs.len()], vec![0.0; weight.len()], vec![0.0; channels]);
        let (whole, out_whole) = (x.dim(1)? * x.dim(2)? * channels, seen.ends.len() * channels);
        for ((x, g), by_x) in xs.chunks_exact(whole).zip(g.chunks_exact(out_whole)).zip(by_x.chunks_exact_mut(whole)) {
            dispatch(Backward { seen: &seen, channels, x, weight: &weight, g, by_x, by_w: &mut by_w, by_b: &mut by_b });
        }
        Ok((gradient(by_x, x)?, gradient(by_w, w)?, gradient(by_b, b)?))
    }
}

/// One picture's output.
struct Forward<'a> {
    seen: &'a Seen,
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
        for (pairs, out) in self.seen.outputs().zip(self.out.chunks_exact_mut(self.channels)) {
            let mut sum: [f32; L] = std::array::from_fn(|i| self.bias[channel + i]);
            for &(tap, place) in pairs {
                let x = &self.x[place * self.channels + channel..][..L];
                let w = &self.weight[tap * self.channels + channel..][..L];
                for i in 0..L {
                    sum[i] += x[i] * w[i];
                }
            }
            if let Some([least, most]) = self.bounds {
                sum.iter_mut().for_each(|x| *x = x.clamp(least, most));
            }
            out[channel..][..L].copy_from_slice(&sum);
        }
    }
}

/// What a picture's gradient `g` is by everything; added to what is there.
struct Backward<'a> {
    seen: &'a Seen,
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
    /// `L` channels, from `channel` on.
    #[inline(always)]
    fn some<const L: usize>(&mut self, channel: usize) {
        for (pairs, g) in self.seen.outputs().zip(self.g.chunks_exact(self.channels)) {
            let g: [f32; L] = std::array::from_fn(|i| g[channel + i]);
            for &(tap, place) in pairs {
                let (at_x, at_w) = (place * self.channels + channel, tap * self.channels + channel);
                let (x, by_x) = (&self.x[at_x..][..L], &mut self.by_x[at_x..][..L]);
                let (w, by_w) = (&self.weight[at_w..][..L], &mut self.by_w[at_w..][..L]);
                for i in 0..L {
                    by_x[i] += g[i] * w[i];
                    by_w[i] += g[i] * x[i];
                }
            }
            for (sum, g) in self.by_b[channel..].iter_mut().zip(g) {
                *sum += g;
            }
        }
    }
}
