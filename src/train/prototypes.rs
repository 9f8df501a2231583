//! Class prototypes as weights (Qi et al. 2018, "Low-shot learning with imprinted weights").

use super::blocks::read_block;
use super::{Samples, TrainError};
use crate::base::cancel::Cancel;
use crate::heads::{Linear, Matrix, Step, Transform};

/// Cosine similarity is multiplied by this before the temperature is fitted.
const SCALE: f32 = 20.0;

/// The transform that imprinted weights need: length 1.
pub fn transform() -> Transform {
    Transform::new(vec![Step::UnitLength]).unwrap_or_default()
}

/// One row a class: the mean of its embeddings of length 1, itself brought to length 1, times 20.
///
/// # Errors
/// [`TrainError::Cancelled`].
pub fn fit(samples: &Samples<'_>, cancel: &Cancel) -> Result<Linear, TrainError> {
    let width = samples.rows.width();
    let classes = samples.classes.len();
    let transform = transform();
    let mut sums = vec![0.0_f64; classes * width];
    let mut row = vec![0.0_f32; width];
    for (index, &label) in samples.labels.iter().enumerate() {
        if index % 256 == 0 {
            cancel.check()?;
        }
        read_block(samples.rows, &transform, index, &mut row);
        let weight = f64::from(samples.weight(index));
        let sum = &mut sums[label as usize * width..(label as usize + 1) * width];
        sum.iter_mut().zip(&row).for_each(|(s, &v)| *s += weight * f64::from(v));
    }
    let mut weights = Matrix::zeros(classes, width);
    for (class, sum) in sums.chunks_exact(width).enumerate() {
        let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
        for (w, s) in weights.row_mut(class).iter_mut().zip(sum) {
            *w = SCALE * (s / length) as f32;
        }
    }
    Ok(Linear::new(weights, vec![0.0; classes])?)
}
