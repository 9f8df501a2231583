//! Covariances of few samples in many dimensions: shrunk towards a multiple of the identity.

use super::TrainError;
use super::blocks::read_block;
use super::linear_algebra::add_gram;
use super::rows::Rows;
use crate::base::cancel::Cancel;
use crate::heads::Transform;

/// Rows expanded to f64 at a time.
const BLOCK_ROWS: usize = 256;

/// Sums of products of centred rows.
pub struct Scatter {
    /// Lower triangle of `sum(x x')`, width x width, row-major; the rest is undefined.
    pub gram: Vec<f64>,
    /// `sum(|x|^4)`, which the Ledoit-Wolf estimate needs.
    pub fourth: f64,
    /// Number of rows.
    pub count: f64,
    /// Number of columns.
    pub width: usize,
}

impl Scatter {
    /// Of no rows.
    pub fn new(width: usize) -> Self {
        Self { gram: vec![0.0; width * width], fourth: 0.0, count: 0.0, width }
    }

    /// Back to no rows.
    pub fn clear(&mut self) {
        self.gram.fill(0.0);
        self.fourth = 0.0;
        self.count = 0.0;
    }

    /// Adds whole centred rows.
    pub fn add(&mut self, centred: &[f64]) {
        let rows = centred.len() / self.width;
        for row in centred.chunks_exact(self.width) {
            self.fourth += row.iter().map(|v| v * v).sum::<f64>().powi(2);
        }
        self.count += rows as f64;
        add_gram(&mut self.gram, centred, rows, self.width);
    }

    /// Trace and squared Frobenius norm of `gram`.
    fn invariants(&self) -> (f64, f64) {
        let (mut trace, mut squares) = (0.0, 0.0);
        for (index, row) in self.gram.chunks_exact(self.width).enumerate() {
            trace += row[index];
            squares += row[index] * row[index];
            squares += 2.0 * row[..index].iter().map(|v| v * v).sum::<f64>();
        }
        (trace, squares)
    }

    /// Shrinkage intensity of Ledoit and Wolf 2004, "A well-conditioned estimator for
    /// large-dimensional covariance matrices"; 0 to 1.
    pub fn ledoit_wolf(&self) -> f64 {
        let (n, p) = (self.count, self.width as f64);
        if n < 1.0 {
            return 1.0;
        }
        let (trace, squares) = self.invariants();
        let mean = trace / n / p;
        let spread = squares / (n * n);
        let delta = (spread - p * mean * mean) / p;
        let beta = ((self.fourth / n - spread) / (p * n)).min(delta);
        if beta <= 0.0 || delta <= 0.0 { 0.0 } else { beta / delta }
    }

    /// Shrinkage intensity of Chen et al. 2010, "Shrinkage algorithms for MMSE covariance
    /// estimation" (oracle approximating shrinkage); 0 to 1. Needs no fourth moments, so it can be
    /// had from running sums.
    pub fn oracle_approximating(&self) -> f64 {
        let (n, p) = (self.count, self.width as f64);
        if n < 1.0 {
            return 1.0;
        }
        let (trace, squares) = self.invariants();
        let mean = trace / n / p;
        let alpha = squares / (n * n) / (p * p);
        let denominator = (n + 1.0) * (alpha - mean * mean / p);
        if denominator <= 0.0 { 1.0 } else { ((alpha + mean * mean) / denominator).min(1.0) }
    }

    /// `(1 - shrinkage) * gram / count + shrinkage * mean variance * I`, lower triangle.
    pub fn shrunk(&self, shrinkage: f64) -> Vec<f64> {
        let (trace, _) = self.invariants();
        let n = self.count.max(1.0);
        let variance = trace / n / self.width as f64;
        let factor = (1.0 - shrinkage) / n;
        let mut covariance: Vec<f64> = self.gram.iter().map(|v| v * factor).collect();
        for i in 0..self.width {
            covariance[i * self.width + i] += shrinkage * variance;
        }
        covariance
    }
}

/// Raises the diagonal a little, so that a covariance can always be factored; one that is zero, as
/// that of a single sample a class, becomes the identity, and distances Euclidean.
pub fn make_definite(covariance: &mut [f64], width: usize) {
    let trace: f64 = (0..width).map(|i| covariance[i * width + i]).sum();
    let floor = if trace > 1e-24 { 1e-9 * trace / width as f64 } else { 1.0 };
    for i in 0..width {
        covariance[i * width + i] += floor;
    }
}

/// Mean and variance (divided by n) of every column of the transformed rows at `indices`.
///
/// # Errors
/// [`TrainError::Cancelled`].
pub fn moments(
    rows: &dyn Rows,
    transform: &Transform,
    indices: &[usize],
    cancel: &Cancel,
) -> Result<(Vec<f64>, Vec<f64>), TrainError> {
    let width = rows.width();
    let (mut mean, mut squares) = (vec![0.0_f64; width], vec![0.0_f64; width]);
    let mut row = vec![0.0_f32; width];
    for (seen, &index) in indices.iter().enumerate() {
        if seen % BLOCK_ROWS == 0 {
            cancel.check()?;
        }
        read_block(rows, transform, index, &mut row);
        let share = 1.0 / (seen + 1) as f64;
        for ((m, s), &value) in mean.iter_mut().zip(&mut squares).zip(&row) {
            let difference = f64::from(value) - *m;
            *m += difference * share;
            *s += difference * (f64::from(value) - *m);
        }
    }
    let n = indices.len().max(1) as f64;
    squares.iter_mut().for_each(|s| *s /= n);
    Ok((mean, squares))
}

/// Adds the transformed rows at `indices`, minus `mean`, divided by `deviation` (empty: by 1).
///
/// # Errors
/// [`TrainError::Cancelled`] within one block.
pub fn add_centred(
    scatter: &mut Scatter,
    rows: &dyn Rows,
    transform: &Transform,
    indices: &[usize],
    mean: &[f64],
    deviation: &[f64],
    cancel: &Cancel,
) -> Result<(), TrainError> {
    let width = rows.width();
    let mut row = vec![0.0_f32; width];
    let mut centred = vec![0.0_f64; BLOCK_ROWS.min(indices.len()) * width];
    for chunk in indices.chunks(BLOCK_ROWS) {
        cancel.check()?;
        for (&index, out) in chunk.iter().zip(centred.chunks_exact_mut(width)) {
            read_block(rows, transform, index, &mut row);
            for (column, value) in out.iter_mut().enumerate() {
                let scale = deviation.get(column).copied().unwrap_or(1.0);
                *value = (f64::from(row[column]) - mean[column]) / scale;
            }
        }
        scatter.add(&centred[..chunk.len() * width]);
    }
    Ok(())
}

/// Indices of the samples of every class.
pub fn by_class(labels: &[u32], classes: usize) -> Vec<Vec<usize>> {
    let mut members = vec![Vec::new(); classes];
    for (index, &label) in labels.iter().enumerate() {
        members[label as usize].push(index);
    }
    members
}
