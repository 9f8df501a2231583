//! Linear classifiers in the space of a Gaussian kernel: softmax regression (Zhu and Hastie 2005,
//! "Kernel logistic regression and the import vector machine") and regularised least squares (Rifkin
//! and Klautau 2004, "In defense of one-vs-all classification"), with some samples as landmarks where
//! there are many (Williams and Seeger 2001, "Using the Nyström method to speed up kernel machines").

use half::f16;

use super::linear_algebra::{
    Operand, add_gram, cholesky, invert_lower, multiply, multiply_in_blocks, solve_cholesky,
};
use super::logistic::{self, LogisticOptions};
use super::recipe::Loss;
use super::rows::DenseRows;
use super::{Samples, TrainError, blocks, folds, lbfgs};
use crate::base::cancel::Cancel;
use crate::heads::{Kernel, Linear, Matrix, Step, Transform};

/// Most landmarks: with more samples, a stratified part of them.
const MAX_LANDMARKS: usize = 1500;
/// Added to the kernel matrix's diagonal of ones before it is factored.
const JITTER: f64 = 1e-4;

/// Rows that enter the normal equations at a time.
const NORMAL_ROWS: usize = 256;

/// Bytes that a fit on so many samples takes, about: the samples' values at the landmarks, square
/// matrices of these, and an optimiser.
pub fn working_bytes(samples: usize, classes: usize) -> usize {
    let landmarks = samples.min(MAX_LANDMARKS);
    let matrices = landmarks * landmarks * (size_of::<f64>() + 2 * size_of::<f32>());
    let values = samples * landmarks * size_of::<f32>();
    matrices + values + lbfgs::working_bytes(classes * (landmarks + 1))
}

/// Fits weights on the kernel's values at landmarks so that the penalty is the norm of the function
/// in the kernel's space. `width_factor` times the mean cosine distance of two samples is the
/// kernel's bandwidth. Label smoothing plays no part in least squares.
///
/// # Errors
/// As [`logistic::fit_softmax`].
pub fn fit(
    samples: &Samples<'_>,
    width_factor: f64,
    loss: Loss,
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
    multiply_in_blocks(z, z.t(), &mut gram, cancel)?;
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
        copy_of: Vec::new(),
    };
    let fitted = match loss {
        Loss::CrossEntropy => {
            logistic::fit_softmax(&mapped, &Transform::default(), options, cancel, progress)?.linear
        }
        Loss::Squares => least_squares(&mapped, 1.0 / options.inverse_penalty, cancel)?,
    };
    // Weights on `L^-1 k` are weights times `L^-1` on `k`.
    let classes = samples.classes.len();
    let mut weights = Matrix::zeros(classes, count);
    let found = Operand::new(fitted.weights().values(), classes, count);
    multiply_in_blocks(found, whitener, weights.values_mut(), cancel)?;
    let output = Linear::new(weights, fitted.bias().to_vec())?;
    Ok(Kernel::new(rounded, width, bandwidth as f32, output)?)
}

/// Minimises `sum(weight * |target - score|^2) + penalty * |W|^2` by the normal equations, where
/// targets are 1 for the true class and 0 else, and each bias is its class's share of the weights.
fn least_squares(
    samples: &Samples<'_>,
    penalty: f64,
    cancel: &Cancel,
) -> Result<Linear, TrainError> {
    let (width, classes) = (samples.rows.width(), samples.classes.len());
    let mut share = vec![0.0_f64; classes];
    for (index, &label) in samples.labels.iter().enumerate() {
        share[label as usize] += f64::from(samples.weight(index));
    }
    let total: f64 = share.iter().sum();
    share.iter_mut().for_each(|s| *s /= total);
    let mut gram = vec![0.0_f64; width * width];
    let mut targets = vec![0.0_f64; classes * width];
    let mut row = vec![0.0_f32; width];
    let mut block = vec![0.0_f64; NORMAL_ROWS.min(samples.len()) * width];
    for start in (0..samples.len()).step_by(NORMAL_ROWS) {
        let rows = NORMAL_ROWS.min(samples.len() - start);
        for (index, out) in (start..).zip(block[..rows * width].chunks_exact_mut(width)) {
            cancel.check()?;
            samples.rows.read(index, &mut row);
            let weight = f64::from(samples.weight(index));
            let root = weight.sqrt();
            out.iter_mut().zip(&row).for_each(|(o, &v)| *o = root * f64::from(v));
            for (class, sum) in targets.chunks_exact_mut(width).enumerate() {
                let hit = f64::from(u8::from(samples.labels[index] as usize == class));
                let scale = weight * (hit - share[class]);
                sum.iter_mut().zip(&row).for_each(|(s, &v)| *s += scale * f64::from(v));
            }
        }
        add_gram(&mut gram, &block[..rows * width], rows, width);
    }
    for i in 0..width {
        gram[i * width + i] += penalty;
    }
    cholesky(&mut gram, width, cancel)?;
    for solution in targets.chunks_exact_mut(width) {
        cancel.check()?;
        solve_cholesky(&gram, width, solution);
    }
    let weights = Matrix::new(classes, width, targets.iter().map(|&w| w as f32).collect())?;
    Ok(Linear::new(weights, share.iter().map(|&s| s as f32).collect())?)
}

fn landmarks(samples: &Samples<'_>, seed: u64) -> Vec<usize> {
    let parts = samples.len().div_ceil(MAX_LANDMARKS);
    if parts <= 1 {
        return (0..samples.len()).collect();
    }
    folds::split(&folds::of_samples(samples, parts, seed), 0).1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::lbfgs::Stop;

    /// With as many landmarks as samples, regularised least squares has the closed form
    /// `(K + penalty I)^-1 (Y - share)` (Rifkin and Klautau, equation 4).
    #[test]
    fn least_squares_on_a_kernel_equal_the_closed_form() {
        let (count, width) = (12, 3);
        let values: Vec<f32> =
            (0..count * width).map(|i| ((i * 37 + i * i * 11) % 29) as f32 / 29.0 + 0.1).collect();
        let rows = DenseRows::new(&values, width).unwrap();
        let labels: Vec<u32> = (0..count).map(|i| u32::from(i % 3 == 0)).collect();
        let samples = Samples::new(&rows, labels.clone(), vec!["a".into(), "b".into()]);
        let options =
            LogisticOptions { inverse_penalty: 10.0, label_smoothing: 0.0, stop: Stop::default() };
        let cancel = Cancel::default();
        let fitted =
            fit(&samples, 1.0, Loss::Squares, &options, 0, &cancel, &mut |_, _| {}).unwrap();
        let unit: Vec<Vec<f64>> = values
            .chunks_exact(width)
            .map(|row| {
                let length = row.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt();
                row.iter().map(|v| f64::from(*v) / length).collect()
            })
            .collect();
        let cosine = |i: usize, j: usize| -> f64 {
            unit[i].iter().zip(&unit[j]).map(|(a, b)| a * b).sum::<f64>()
        };
        let pairs = (0..count).flat_map(|i| (0..count).map(move |j| (i, j)));
        let mean = pairs.map(|(i, j)| 1.0 - cosine(i, j)).sum::<f64>() / (count * count) as f64;
        let kernel = |i: usize, j: usize| ((cosine(i, j) - 1.0) / mean).exp();
        let mut matrix: Vec<f64> =
            (0..count * count).map(|at| kernel(at / count, at % count)).collect();
        (0..count).for_each(|i| matrix[i * count + i] += 0.1);
        cholesky(&mut matrix, count, &cancel).unwrap();
        let share = labels.iter().filter(|l| **l == 1).count() as f64 / count as f64;
        let mut dual: Vec<f64> = labels.iter().map(|l| f64::from(*l) - share).collect();
        solve_cholesky(&matrix, count, &mut dual);
        for i in 0..count {
            let expected = share + (0..count).map(|j| kernel(i, j) * dual[j]).sum::<f64>();
            let unit: Vec<f32> = unit[i].iter().map(|&v| v as f32).collect();
            let found = f64::from(fitted.logits(&unit)[1]);
            assert!((found - expected).abs() < 5e-3, "sample {i}: {found} {expected}");
        }
    }
}
