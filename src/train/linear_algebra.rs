//! Dense products and factorisations in blocks, on ndarray's matrix product.
//!
//! Every function gives the same bits on any number of threads: work is divided by size alone and
//! each output element is computed by one thread.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar, ShapeBuilder, s};
use rayon::prelude::*;

use super::TrainError;
use crate::base::cancel::Cancel;

/// Rows and columns that are factored at a time.
const BLOCK: usize = 64;

/// A row-major matrix, or the transpose of one, in a product.
#[derive(Clone, Copy)]
pub struct Operand<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    stride: usize,
    transposed: bool,
}

impl<'a, T> Operand<'a, T> {
    /// `values` is row-major, rows x columns.
    pub fn new(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self { values, rows, columns, stride: columns, transposed: false }
    }

    /// A part of a row-major matrix: `values` begins at its first element, `stride` is the distance
    /// of its rows.
    pub fn part(values: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        Self { values, rows, columns, stride, transposed: false }
    }

    /// The transpose.
    #[must_use]
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    fn view(&self) -> ArrayView2<'a, T> {
        let shape = (self.rows, self.columns).strides((self.stride, 1));
        let view = ArrayView2::from_shape(shape, self.values);
        let view = view.expect("the operand's slice covers its shape");
        if self.transposed { view.reversed_axes() } else { view }
    }
}

/// `c = alpha * a * b + beta * c`; `c` is row-major, as high as `a` and as wide as `b`, its rows
/// `stride` apart.
pub fn multiply<T: LinalgScalar>(
    alpha: T,
    a: Operand<'_, T>,
    b: Operand<'_, T>,
    beta: T,
    c: &mut [T],
    stride: usize,
) {
    let (a, b) = (a.view(), b.view());
    let shape = (a.nrows(), b.ncols()).strides((stride, 1));
    let mut c = ArrayViewMut2::from_shape(shape, c).expect("the result's slice covers its shape");
    general_mat_mul(alpha, &a, &b, beta, &mut c);
}

/// `c = a * b`, for products that may take long; `c` is as in [`multiply`], without a gap between its
/// rows.
///
/// # Errors
/// [`TrainError::Cancelled`] within 64 rows.
pub fn multiply_in_blocks(
    a: Operand<'_, f32>,
    b: Operand<'_, f32>,
    c: &mut [f32],
    cancel: &Cancel,
) -> Result<(), TrainError> {
    let (a, b) = (a.view(), b.view());
    let columns = b.ncols();
    for (strip, c) in c.chunks_mut((BLOCK * columns).max(1)).enumerate() {
        cancel.check()?;
        let rows = c.len() / columns;
        let a = a.slice(s![strip * BLOCK..strip * BLOCK + rows, ..]);
        let mut c = ArrayViewMut2::from_shape((rows, columns), c)
            .expect("the result's slice covers its shape");
        general_mat_mul(1.0, &a, &b, 0.0, &mut c);
    }
    Ok(())
}

/// Adds `x' x` to the lower triangle of `sum` (`width` x `width`), for `rows` rows of `width`. The
/// upper triangle is left undefined.
pub fn add_gram(sum: &mut [f64], x: &[f64], rows: usize, width: usize) {
    sum.par_chunks_mut(2 * BLOCK * width).enumerate().for_each(|(index, strip)| {
        let first = index * 2 * BLOCK;
        let height = strip.len() / width;
        let left = Operand::part(&x[first..], rows, height, width).t();
        let right = Operand::part(x, rows, first + height, width);
        multiply(1.0, left, right, 1.0, strip, width);
    });
}

/// Copies the lower triangle over the upper one.
#[cfg(test)]
fn mirror(matrix: &mut [f64], width: usize) {
    for row in 0..width {
        for column in 0..row {
            matrix[column * width + row] = matrix[row * width + column];
        }
    }
}

/// Replaces the lower triangle of a symmetric positive definite matrix by its Cholesky factor `L`
/// (`L L'` is the matrix) and zeroes the rest.
///
/// # Errors
/// [`TrainError::Diverged`] if the matrix is not positive definite, [`TrainError::Cancelled`].
pub fn cholesky(matrix: &mut [f64], width: usize, cancel: &Cancel) -> Result<(), TrainError> {
    let mut panel = Vec::new();
    for first in (0..width).step_by(BLOCK) {
        cancel.check()?;
        let size = BLOCK.min(width - first);
        let next = first + size;
        factor_diagonal(matrix, width, first, size)?;
        // Panel below: each row solves r L11' = a.
        let (top, below) = matrix.split_at_mut(next * width);
        let diagonal = &top[first * width..];
        below.par_chunks_mut(width).for_each(|row| {
            for column in 0..size {
                let factor = &diagonal[column * width + first..][..=column];
                let solved = &row[first..first + column];
                let sum: f64 = factor.iter().zip(solved).map(|(l, r)| l * r).sum();
                row[first + column] = (row[first + column] - sum) / factor[column];
            }
        });
        // Trailing triangle: A22 -= L21 L21'.
        let height = width - next;
        panel.clear();
        for row in below.chunks_exact(width) {
            panel.extend_from_slice(&row[first..next]);
        }
        below.par_chunks_mut(2 * BLOCK * width).enumerate().for_each(|(index, strip)| {
            let from = index * 2 * BLOCK;
            let rows = strip.len() / width;
            let left = Operand::new(&panel[from * size..(from + rows) * size], rows, size);
            let reach = (from + rows).min(height);
            let right = Operand::new(&panel[..reach * size], reach, size).t();
            multiply(-1.0, left, right, 1.0, &mut strip[next..], width);
        });
    }
    for row in 0..width {
        matrix[row * width + row + 1..(row + 1) * width].fill(0.0);
    }
    Ok(())
}

fn factor_diagonal(
    matrix: &mut [f64],
    width: usize,
    first: usize,
    size: usize,
) -> Result<(), TrainError> {
    for i in first..first + size {
        for j in first..=i {
            let sum: f64 = (first..j).map(|k| matrix[i * width + k] * matrix[j * width + k]).sum();
            let value = matrix[i * width + j] - sum;
            matrix[i * width + j] = if i == j {
                if value <= 0.0 || !value.is_finite() {
                    return Err(TrainError::Diverged("a covariance is not positive definite"));
                }
                value.sqrt()
            } else {
                value / matrix[j * width + j]
            };
        }
    }
    Ok(())
}

/// Solves `L L' x = b` in place for one right-hand side.
pub fn solve_cholesky(factor: &[f64], width: usize, b: &mut [f64]) {
    for i in 0..width {
        let row = &factor[i * width..i * width + i];
        let sum: f64 = row.iter().zip(&*b).map(|(l, x)| l * x).sum();
        b[i] = (b[i] - sum) / factor[i * width + i];
    }
    for i in (0..width).rev() {
        b[i] /= factor[i * width + i];
        let x = b[i];
        for (value, l) in b[..i].iter_mut().zip(&factor[i * width..i * width + i]) {
            *value -= l * x;
        }
    }
}

/// The inverse of a lower triangular matrix, itself lower triangular.
///
/// # Errors
/// [`TrainError::Cancelled`].
pub fn invert_lower(factor: &[f64], width: usize, cancel: &Cancel) -> Result<Vec<f64>, TrainError> {
    let mut inverse = vec![0.0_f64; width * width];
    let mut product = vec![0.0_f64; BLOCK * width];
    for first in (0..width).step_by(BLOCK) {
        cancel.check()?;
        let size = BLOCK.min(width - first);
        let (done, rest) = inverse.split_at_mut(first * width);
        // product = L[block, ..first] * inverse[..first, ..first]
        if first > 0 {
            let left = Operand::part(&factor[first * width..], size, first, width);
            let right = Operand::part(done, first, first, width);
            multiply(1.0, left, right, 0.0, &mut product, width);
        }
        for i in 0..size {
            let l = &factor[(first + i) * width + first..][..=i];
            let (above, row) = rest.split_at_mut(i * width);
            let row = &mut row[..width];
            for (value, p) in row[..first].iter_mut().zip(&product[i * width..]) {
                *value = -p;
            }
            row[first + i] = 1.0;
            for (k, previous) in above.chunks_exact(width).enumerate() {
                for (value, p) in row[..=first + k].iter_mut().zip(previous) {
                    *value -= l[k] * p;
                }
            }
            row[..=first + i].iter_mut().for_each(|value| *value /= l[i]);
        }
    }
    Ok(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positive_definite(width: usize) -> Vec<f64> {
        let x: Vec<f64> =
            (0..2 * width * width).map(|i| ((i * 7919 % 1013) as f64 / 1013.0) - 0.5).collect();
        let mut gram = vec![0.0; width * width];
        add_gram(&mut gram, &x, 2 * width, width);
        mirror(&mut gram, width);
        for i in 0..width {
            gram[i * width + i] += 0.1;
        }
        gram
    }

    #[test]
    fn the_cholesky_factor_times_its_transpose_is_the_matrix_at_every_block_boundary() {
        for width in [1, 5, 63, 64, 65, 130, 300] {
            let matrix = positive_definite(width);
            let mut factor = matrix.clone();
            cholesky(&mut factor, width, &Cancel::default()).unwrap();
            let mut back = vec![0.0; width * width];
            let l = Operand::new(&factor, width, width);
            multiply(1.0, l, l.t(), 0.0, &mut back, width);
            for (a, b) in back.iter().zip(&matrix) {
                assert!((a - b).abs() < 1e-9 * width as f64, "width {width}");
            }
            let mut x = vec![1.0; width];
            solve_cholesky(&factor, width, &mut x);
            for row in matrix.chunks_exact(width) {
                let product: f64 = row.iter().zip(&x).map(|(a, b)| a * b).sum();
                assert!((product - 1.0).abs() < 1e-8);
            }
            let inverse = invert_lower(&factor, width, &Cancel::default()).unwrap();
            let mut identity = vec![0.0; width * width];
            let inverse = Operand::new(&inverse, width, width);
            multiply(1.0, inverse, l, 0.0, &mut identity, width);
            for i in 0..width {
                for j in 0..width {
                    let expected = f64::from(u8::from(i == j));
                    assert!((identity[i * width + j] - expected).abs() < 1e-8);
                }
            }
        }
    }

    #[test]
    fn a_product_in_blocks_is_the_product_and_a_raised_flag_ends_it() {
        let cancelled = Cancel::default();
        cancelled.cancel();
        for rows in [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3] {
            let values = |count: usize| -> Vec<f32> {
                (0..count).map(|i| ((i * 31) % 17) as f32 - 8.0).collect()
            };
            let (a, b) = (values(rows * 5), values(7 * 5));
            let (a, b) = (Operand::new(&a, rows, 5), Operand::new(&b, 7, 5).t());
            let (mut whole, mut blocks) = (vec![0.0; rows * 7], vec![1.0; rows * 7]);
            multiply(1.0, a, b, 0.0, &mut whole, 7);
            assert!(multiply_in_blocks(a, b, &mut blocks, &cancelled).is_err());
            assert!(blocks.iter().all(|v| *v == 1.0), "nothing was done");
            multiply_in_blocks(a, b, &mut blocks, &Cancel::default()).unwrap();
            assert_eq!(whole, blocks, "{rows} rows");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_is_an_error() {
        let mut matrix = vec![1.0, 2.0, 2.0, 1.0];
        assert!(cholesky(&mut matrix, 2, &Cancel::default()).is_err());
    }
}
