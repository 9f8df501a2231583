//! Matrix products over strided slices.

use tract_onnx::prelude::tract_ndarray::linalg::general_mat_mul;
use tract_onnx::prelude::tract_ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder};

use crate::grad::real::Real;

/// Distances between rows and between columns.
pub type Strides = (usize, usize);

/// Up to one in so many, single columns of a matrix cost less than a walk through all of it.
const SELDOM: usize = 64;

/// `c += a b`, with `a` of m x k, `b` of k x n and `c` of m x n lying at these strides.
///
/// The first elements of the slices are the matrices' first elements; slices too short for their
/// matrix are a programming error.
pub fn multiply_add<T: Real>(
    (m, k, n): (usize, usize, usize),
    (a, a_strides): (&[T], Strides),
    (b, b_strides): (&[T], Strides),
    (c, c_strides): (&mut [T], Strides),
) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    if n == 1 {
        return matrix_vector((m, k), (a, a_strides), (b, b_strides.0), (c, c_strides.0));
    }
    if m == 1 {
        let transposed = (b_strides.1, b_strides.0);
        return matrix_vector((n, k), (b, transposed), (a, a_strides.1), (c, c_strides.1));
    }
    let fits = "the slice holds its matrix";
    let a = ArrayView2::from_shape((m, k).strides(a_strides), a).expect(fits);
    let b = ArrayView2::from_shape((k, n).strides(b_strides), b).expect(fits);
    let mut c = ArrayViewMut2::from_shape((m, n).strides(c_strides), c).expect(fits);
    general_mat_mul(T::one(), &a, &b, T::one(), &mut c);
}

/// `y += a x`, walking the matrix along its contiguous axis, or only where `x` is not zero if that
/// is seldom: the seed of one class is zero but for one entry.
fn matrix_vector<T: Real>(
    (m, k): (usize, usize),
    (a, (row, column)): (&[T], Strides),
    (x, x_step): (&[T], usize),
    (y, y_step): (&mut [T], usize),
) {
    let present: Vec<usize> = (0..k).filter(|j| x[j * x_step] != T::zero()).collect();
    if present.len() * SELDOM <= k {
        for j in present {
            for i in 0..m {
                y[i * y_step] += a[i * row + j * column] * x[j * x_step];
            }
        }
    } else if column == 1 && x_step == 1 {
        for i in 0..m {
            y[i * y_step] += dot(&a[i * row..i * row + k], &x[..k]);
        }
    } else if row == 1 && y_step == 1 {
        for j in 0..k {
            let factor = x[j * x_step];
            let column = &a[j * column..j * column + m];
            y[..m].iter_mut().zip(column).for_each(|(y, a)| *y += *a * factor);
        }
    } else {
        for i in 0..m {
            y[i * y_step] += (0..k).map(|j| a[i * row + j * column] * x[j * x_step]).sum();
        }
    }
}

/// Inner product in eight interleaved sums, which vectorises and rounds less than one.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::zero(); 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: T = tail.map(|(a, b)| *a * *b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.into_iter().sum::<T>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_of_few_entries_gives_the_sum_of_their_columns() {
        let (m, k) = (3, 2 * SELDOM);
        let matrix: Vec<f64> = (0..m * k).map(|i| (i % 23) as f64 - 11.0).collect();
        for entries in [vec![], vec![5], vec![0, k - 1], vec![1, 2, 3]] {
            let mut x = vec![0.0; k];
            entries.iter().for_each(|&j| x[j] = 2.0 + j as f64);
            for (row, column) in [(k, 1), (1, m)] {
                let mut y = vec![1.0; m];
                multiply_add((m, k, 1), (&matrix, (row, column)), (&x, (1, 1)), (&mut y, (1, 1)));
                for (i, y) in y.iter().enumerate() {
                    let sum: f64 = (0..k).map(|j| matrix[i * row + j * column] * x[j]).sum();
                    assert_eq!(*y, 1.0 + sum, "{entries:?} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn every_shape_and_stride_gives_the_plain_triple_loop() {
        let value = |i: usize| ((i * 37 + 11) % 19) as f64 - 9.0;
        for (m, k, n) in [(1, 5, 7), (9, 4, 1), (10, 11, 12), (1, 1, 1), (3, 30, 2), (9, 9, 1)] {
            for transposed in 0..8 {
                let strides = |rows: usize, columns: usize, bit: usize| {
                    if transposed & bit == 0 { (columns, 1) } else { (1, rows) }
                };
                let (sa, sb, sc) = (strides(m, k, 1), strides(k, n, 2), strides(m, n, 4));
                let a: Vec<f64> = (0..m * k).map(value).collect();
                let b: Vec<f64> = (0..k * n).map(|i| value(i + 5)).collect();
                let mut c = vec![1.0; m * n];
                multiply_add((m, k, n), (&a, sa), (&b, sb), (&mut c, sc));
                for i in 0..m {
                    for j in 0..n {
                        let expected: f64 =
                            (0..k).map(|l| a[i * sa.0 + l * sa.1] * b[l * sb.0 + j * sb.1]).sum();
                        let got = c[i * sc.0 + j * sc.1];
                        assert!((got - 1.0 - expected).abs() < 1e-9, "{m} {k} {n} {transposed}");
                    }
                }
            }
        }
    }
}
