//! The first principal component of a feature map's pixels, as Eigen-CAM needs it.

/// Vectors that subspace iteration carries along: more of them converge faster.
const BLOCK: usize = 8;
/// Relative residual at which the component counts as found.
const TOLERANCE: f64 = 1e-9;
const MAX_ROUNDS: usize = 1000;

/// The pixels (each a vector over channels, their mean taken off) projected on their first right
/// singular vector: one number a pixel, all zero where the pixels are equal.
///
/// A singular vector has no sign of its own. It is turned so that the mean pixel lies in its
/// positive direction: where activations are high, the map is high. (The projections themselves sum
/// to zero, so their sum cannot decide.)
pub fn first_component(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let means: Vec<f64> =
        (0..channels).map(|c| sum(&values[c * pixels..(c + 1) * pixels]) / pixels as f64).collect();
    // Rows of `x` are the shorter side, so that the Gram matrix is as small as it can be.
    let by_pixel = pixels <= channels;
    let (rows, columns) = if by_pixel { (pixels, channels) } else { (channels, pixels) };
    let mut x = vec![0.0; rows * columns];
    for c in 0..channels {
        for p in 0..pixels {
            let at = if by_pixel { p * channels + c } else { c * pixels + p };
            x[at] = f64::from(values[c * pixels + p]) - means[c];
        }
    }
    let gram = gram_matrix(&x, rows, columns);
    let Some((value, vector)) = largest_eigenpair(&gram, rows) else { return vec![0.0; pixels] };
    // X = U S V': the projection X v is s u, and v is X' u / s.
    let scale = value.sqrt();
    let (projection, direction): (Vec<f64>, Vec<f64>) = if by_pixel {
        let direction = transposed_product(&x, &vector, columns);
        (vector.iter().map(|u| u * scale).collect(), direction)
    } else {
        (transposed_product(&x, &vector, columns), vector)
    };
    let along: f64 = direction.iter().zip(&means).map(|(d, m)| d * m).sum();
    let sign = if along < 0.0 { -1.0 } else { 1.0 };
    projection.iter().map(|p| (sign * p) as f32).collect()
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value)).sum()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x x'` of row-major `x`.
fn gram_matrix(x: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    let row = |i: usize| &x[i * columns..(i + 1) * columns];
    let mut gram = vec![0.0; rows * rows];
    for i in 0..rows {
        for j in i..rows {
            let product = dot(row(i), row(j));
            gram[i * rows + j] = product;
            gram[j * rows + i] = product;
        }
    }
    gram
}

/// `x' u` of row-major `x`.
fn transposed_product(x: &[f64], u: &[f64], columns: usize) -> Vec<f64> {
    let mut product = vec![0.0; columns];
    for (row, factor) in x.chunks_exact(columns).zip(u) {
        product.iter_mut().zip(row).for_each(|(p, x)| *p += factor * x);
    }
    product
}

/// Largest eigenvalue of a symmetric positive matrix and its vector, by subspace iteration with a
/// Rayleigh-Ritz step; `None` for the zero matrix or one with numbers that are not finite.
fn largest_eigenpair(matrix: &[f64], n: usize) -> Option<(f64, Vec<f64>)> {
    let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
    if !(trace.is_finite() && trace > 0.0) {
        return None;
    }
    let apply = |v: &[f64]| -> Vec<f64> { matrix.chunks_exact(n).map(|row| dot(row, v)).collect() };
    // Fixed start vectors without any symmetry that a map might share.
    let start = |k: usize, i: usize| ((i * 7919 + k * 104_729 + 13) % 1009) as f64 / 504.5 - 1.0;
    let mut basis: Vec<Vec<f64>> =
        (0..BLOCK.min(n)).map(|k| (0..n).map(|i| start(k, i)).collect()).collect();
    let mut best = None;
    for _ in 0..MAX_ROUNDS {
        orthonormalise(&mut basis);
        let images: Vec<Vec<f64>> = basis.iter().map(|v| apply(v)).collect();
        let k = basis.len();
        let small: Vec<f64> = (0..k * k).map(|at| dot(&basis[at / k], &images[at % k])).collect();
        let rotation = jacobi(small, k);
        let mix = |vectors: &[Vec<f64>], weights: &[f64]| -> Vec<f64> {
            let mut mixed = vec![0.0; n];
            for (vector, weight) in vectors.iter().zip(weights) {
                mixed.iter_mut().zip(vector).for_each(|(m, v)| *m += weight * v);
            }
            mixed
        };
        let (value, weights) = &rotation[0];
        let vector = mix(&basis, weights);
        let image = mix(&images, weights);
        let residual = image.iter().zip(&vector).map(|(a, b)| (a - value * b).powi(2)).sum::<f64>();
        best = Some((value.max(0.0), vector));
        if residual.sqrt() <= TOLERANCE * value {
            break;
        }
        basis = rotation.iter().map(|(_, weights)| mix(&images, weights)).collect();
    }
    best
}

/// Gram-Schmidt, twice for accuracy; vectors that vanish are dropped.
fn orthonormalise(basis: &mut Vec<Vec<f64>>) {
    let mut done: Vec<Vec<f64>> = Vec::with_capacity(basis.len());
    for mut vector in basis.drain(..) {
        let before = dot(&vector, &vector).sqrt();
        for _ in 0..2 {
            for other in &done {
                let along = dot(&vector, other);
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let length = dot(&vector, &vector).sqrt();
        if length > 1e-12 * before && length > 0.0 {
            vector.iter_mut().for_each(|v| *v /= length);
            done.push(vector);
        }
    }
    *basis = done;
}

/// Eigenvalues and vectors of a small symmetric matrix by Jacobi rotations, the largest first.
fn jacobi(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<f64> = (0..n * n).map(|at| f64::from(at / n == at % n)).collect();
    for _ in 0..60 {
        let off: f64 = (0..n * n).filter(|at| at / n != at % n).map(|at| a[at] * a[at]).sum();
        let diagonal: f64 = (0..n).map(|i| a[i * n + i] * a[i * n + i]).sum();
        if off <= 1e-30 * diagonal {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p * n + q] == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                rotate(&mut a, &mut vectors, n, (p, q), (c, t * c));
            }
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> =
        (0..n).map(|j| (a[j * n + j], (0..n).map(|i| vectors[i * n + j]).collect())).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

fn rotate(
    a: &mut [f64],
    vectors: &mut [f64],
    n: usize,
    (p, q): (usize, usize),
    (c, s): (f64, f64),
) {
    for i in 0..n {
        let (x, y) = (a[i * n + p], a[i * n + q]);
        (a[i * n + p], a[i * n + q]) = (c * x - s * y, s * x + c * y);
    }
    for i in 0..n {
        let (x, y) = (a[p * n + i], a[q * n + i]);
        (a[p * n + i], a[q * n + i]) = (c * x - s * y, s * x + c * y);
        let (x, y) = (vectors[i * n + p], vectors[i * n + q]);
        (vectors[i * n + p], vectors[i * n + q]) = (c * x - s * y, s * x + c * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_rank_one_is_found_with_its_sign() {
        // Two channels that rise together over four pixels.
        let values = [1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0];
        let projection = first_component(&values, 2, 4);
        let expected = [-1.5, -0.5, 0.5, 1.5].map(|x: f32| x * 5.0_f32.sqrt());
        for (a, b) in projection.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{projection:?}");
        }
    }

    #[test]
    fn both_shapes_of_the_gram_matrix_give_the_same_projection() {
        // 3 channels x 5 pixels, and the same with 4 dead channels added: 7 x 5.
        let values: Vec<f32> = (0..15).map(|i| ((i * 7 + 3) % 11) as f32).collect();
        let mut padded = values.clone();
        padded.extend([0.0; 20]);
        let (a, b) = (first_component(&values, 3, 5), first_component(&padded, 7, 5));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
    }

    #[test]
    fn a_constant_map_has_no_component() {
        assert_eq!(first_component(&[3.0; 12], 3, 4), [0.0; 4]);
    }
}
