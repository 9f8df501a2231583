//! A dense row-major matrix of f32 whose size is known to fit its values.

use super::HeadError;

/// Row-major `rows x columns`; `values.len() == rows * columns` always holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    /// Takes row-major values.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] unless there are `rows * columns` of them and both are at least 1.
    pub fn new(rows: usize, columns: usize, values: Vec<f32>) -> Result<Self, HeadError> {
        if rows == 0 || columns == 0 || rows.checked_mul(columns) != Some(values.len()) {
            return Err(HeadError::Inconsistent(format!(
                "{} values for a matrix of {rows} x {columns}",
                values.len()
            )));
        }
        Ok(Self { rows, columns, values })
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Self { rows, columns, values: vec![0.0; rows * columns] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// All values, row after row, to be written.
    pub fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// Row `index`, which must be less than [`Matrix::rows`].
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// Row `index` to be written, which must be less than [`Matrix::rows`].
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[index * self.columns..(index + 1) * self.columns]
    }

    /// The rows in order.
    pub fn iter_rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.columns)
    }

    /// Appends a row.
    ///
    /// # Errors
    /// [`HeadError::Width`] unless it is as wide as the others.
    pub fn push_row(&mut self, row: &[f32]) -> Result<(), HeadError> {
        if row.len() != self.columns {
            return Err(HeadError::Width { expected: self.columns, found: row.len() });
        }
        self.values.extend_from_slice(row);
        self.rows += 1;
        Ok(())
    }

    /// `self * vector`; `vector` is as long as the matrix is wide.
    pub fn times(&self, vector: &[f32]) -> Vec<f32> {
        self.iter_rows().map(|row| dot(row, vector)).collect()
    }

    /// `transpose(self) * vector`; `vector` is as long as the matrix is high.
    pub fn transpose_times(&self, vector: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.columns];
        for (row, &factor) in self.iter_rows().zip(vector) {
            for (sum, &value) in out.iter_mut().zip(row) {
                *sum += factor * value;
            }
        }
        out
    }
}

/// Inner product, summed in eight interleaved lanes: fast, and the same on every machine.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    for (x, y) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_refuses_values_that_do_not_fill_it() {
        assert!(Matrix::new(2, 3, vec![0.0; 5]).is_err());
        assert!(Matrix::new(usize::MAX, 2, vec![]).is_err());
        assert!(Matrix::new(0, 3, vec![]).is_err());
    }

    #[test]
    fn dot_agrees_with_the_plain_sum_at_every_length() {
        for n in 0..40 {
            let a: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
            let plain: f32 = a.iter().map(|v| v * v).sum();
            assert!((dot(&a, &a) - plain).abs() <= 1e-3 * plain.max(1.0));
        }
    }
}
