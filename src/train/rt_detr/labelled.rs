//! The losses against labels of what one layer says: classes, boxes and box distributions of matched queries, and of denoising queries, whose
//! targets are known.

use super::Example;
use super::localisation::{Bins, Localisation, WEIGHT};
use crate::boxes::iou;
use crate::config::ClassActivation;
use crate::error::Result;
use crate::model::{EdgeDistributions, Output};
use crate::train::denoise::Noised;
use crate::train::loss::{Criterion, Normaliser, Parts};
use crate::train::scored::Scored;
use crate::train::step::pairs;
use candle_core::Tensor;
use std::ops::Range;

/// What a layer says, and the gradient of the losses by it.
pub struct LayerLosses<'a> {
    pub scored: Scored<'a>,
    pub localisation: Option<Localisation<'a>>,
}

impl<'a> LayerLosses<'a> {
    /// `bins` where boxes come of distributions, and may lie beyond the image.
    pub fn new(output: &'a Output<Tensor>, distributions: Option<&'a EdgeDistributions<Tensor>>, bins: Option<&'a Bins>) -> Result<Self> {
        let localisation = match (distributions, bins) {
            (Some(distributions), Some(bins)) => Some(Localisation::new(distributions, bins)?),
            _ => None,
        };
        let scored = if bins.is_some() { Scored::bounded(output)? } else { Scored::new(output)? };
        Ok(Self { scored, localisation })
    }

    /// Adds the loss of image `n`'s own queries, which are matched with its targets: the parts, and the weighted sum.
    pub fn matched(
        &mut self,
        criterion: &Criterion,
        (n, rows): (usize, Range<usize>),
        example: &Example,
        normaliser: Normaliser,
    ) -> Result<(Parts, f32)> {
        let pairs = self.scored.rows((n, rows.clone()), |predicted, _, _| criterion.assign(predicted, &example.targets, 1))?;
        self.add(criterion, (n, rows), example, normaliser, &pairs)
    }

    /// Adds the loss of image `n`'s denoising queries, which come first.
    pub fn denoised(&mut self, criterion: &Criterion, n: usize, noised: &[Noised], example: &Example, normaliser: Normaliser) -> Result<f32> {
        Ok(self.add(criterion, (n, 0..noised.len()), example, normaliser, &pairs(noised))?.1)
    }

    fn add(
        &mut self,
        criterion: &Criterion,
        (n, rows): (usize, Range<usize>),
        example: &Example,
        normaliser: Normaliser,
        pairs: &[(usize, usize)],
    ) -> Result<(Parts, f32)> {
        let parts = self.scored.add(criterion, (n, rows.clone()), example.labels(), normaliser, |_| pairs.to_vec())?;
        let mut sum = parts.weighted(criterion.weights);
        if let Some(localisation) = &mut self.localisation {
            // As much beside the other losses as these count.
            let by = WEIGHT * criterion.weights.class * normaliser.factors(ClassActivation::Sigmoid).1;
            for &(query, target) in pairs {
                let (row, target) = (rows.start + query, &example.targets[target]);
                let overlap = iou(self.scored.bounds_of(n, row), target.bounds);
                sum += localisation.add(n, row, target.bounds, by * target.weight * overlap);
            }
        }
        Ok((parts, sum))
    }

    /// Numbers whose gradients by what the layer says are the losses'.
    pub fn surrogates(self) -> Result<Vec<Tensor>> {
        let mut all = vec![self.scored.surrogate()?];
        all.extend(self.localisation.map(Localisation::surrogate).transpose()?);
        Ok(all)
    }
}
