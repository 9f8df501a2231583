//! Softmax regression in the space of a Gaussian kernel (Zhu and Hastie 2005, "Kernel logistic
//! regression and the import vector machine"), with some samples as landmarks where there are many
//! (Williams and Seeger 2001, "Using the Nyström method to speed up kernel machines").

use half::f16;

use super::linear_algebra::{Operand, cholesky, invert_lower, multiply};
use super::logistic::{self, LogisticOptions};
use super::rows::DenseRows;
use super::{Samples, TrainError, blocks, folds};
use crate::base::cancel::Cancel;
use crate::heads::{Kernel, Linear, Matrix, Step, Transform};

/// Most landmarks: with more samples, a stratified part of them.
const MAX_LANDMARKS: usize = 1500;
/// Added to the kernel matrix's diagonal of ones before it is factored.
const JITTER: f64 = 1e-4;

/// Fits weights on the kernel's values at landmarks so that the penalty is the norm of the function
/// in the kernel's space. `width_factor` times the mean cosine distance of two samples is the
/// kernel's bandwidth.
///
/// # Errors
/// As [`logistic::fit_softmax`].
pub fn fit(
    samples: &Samples<'_>,
    width_factor: f64,
    options: &LogisticOptions,
    seed: u64,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Kernel, TrainError> {
    let width = samples.rows.width();
    let chosen = landmarks(samples, seed);
    let count = chosen.len();
    let unit = Transform::new(vec![Step::UnitLength])?;
    // The landmarks are rounded to f16 first, so that training sees what prediction will.
    let mut rounded = vec![f16::ZERO; count * width];
    let mut z = vec![0.0_f32; count * width];
    for ((&index, row), half_row) in
        chosen.iter().zip(z.chunks_exact_mut(width)).zip(rounded.chunks_exact_mut(width))
    {
        blocks::read_block(samples.rows, &unit, index, row);
        for (value, half) in row.iter_mut().zip(half_row) {
            *half = f16::from_f32(*value);
            *value = half.to_f32();
        }
    }
    let z = Operand::new(&z, count, width);
    let mut gram = vec![0.0_f32; count * count];
    multiply(1.0, z, z.t(), 0.0, &mut gram, count);
    let distances = gram.iter().map(|&s| f64::from(1.0 - s)).sum::<f64>();
    let bandwidth = (width_factor * distances / (count * count) as f64).max(1e-3);
    let kernel = |similarity: f32| ((f64::from(similarity) - 1.0) / bandwidth).exp();
    let mut factor: Vec<f64> = gram.iter().map(|&s| kernel(s)).collect();
    drop(gram);
    for i in 0..count {
        factor[i * count + i] += JITTER;
    }
    cholesky(&mut factor, count, cancel)?;
    let inverse: Vec<f32> =
        invert_lower(&factor, count, cancel)?.into_iter().map(|v| v as f32).collect();
    drop(factor);
    // Rows of `L^-1 k(x)`: in these coordinates the kernel's norm is the Euclidean one.
    let whitener = Operand::new(&inverse, count, count);
    let mut features = vec![0.0_f32; samples.len() * count];
    let mut block = vec![0.0_f32; blocks::BLOCK_ROWS * width];
    let mut values = vec![0.0_f32; blocks::BLOCK_ROWS * count];
    for (index, out) in features.chunks_mut(blocks::BLOCK_ROWS * count).enumerate() {
        cancel.check()?;
        let rows = out.len() / count;
        let x = &mut block[..rows * width];
        blocks::read_block(samples.rows, &unit, index * blocks::BLOCK_ROWS, x);
        let k = &mut values[..rows * count];
        multiply(1.0, Operand::new(x, rows, width), z.t(), 0.0, k, count);
        k.iter_mut().for_each(|v| *v = kernel(*v) as f32);
        multiply(1.0, Operand::new(k, rows, count), whitener.t(), 0.0, out, count);
    }
    let rows = DenseRows::new(&features, count).ok_or(TrainError::Empty)?;
    let mapped = Samples {
        rows: &rows,
        labels: samples.labels.clone(),
        weights: samples.weights.clone(),
        classes: samples.classes.clone(),
    };
    let fitted =
        logistic::fit_softmax(&mapped, &Transform::default(), options, cancel, progress)?.linear;
    // Weights on `L^-1 k` are weights times `L^-1` on `k`.
    let classes = samples.classes.len();
    let mut weights = Matrix::zeros(classes, count);
    let found = Operand::new(fitted.weights().values(), classes, count);
    multiply(1.0, found, whitener, 0.0, weights.values_mut(), count);
    let output = Linear::new(weights, fitted.bias().to_vec())?;
    Ok(Kernel::new(rounded, width, bandwidth as f32, output)?)
}

fn landmarks(samples: &Samples<'_>, seed: u64) -> Vec<usize> {
    let parts = samples.len().div_ceil(MAX_LANDMARKS);
    if parts <= 1 {
        return (0..samples.len()).collect();
    }
    let assigned = folds::stratified(&samples.labels, samples.classes.len(), parts, seed);
    folds::split(&assigned, 0).1
}
