//! Where the embeddings come from: row by row, so that f16 from the store is never expanded at once.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// A matrix of embeddings, one row a sample, that can be read in any order by several threads.
pub trait Rows: Sync {
    /// Number of samples.
    fn len(&self) -> usize;

    /// Width of an embedding.
    fn width(&self) -> usize;

    /// Writes row `index` (less than [`Rows::len`]) to `out`, which is [`Rows::width`] long.
    fn read(&self, index: usize, out: &mut [f32]);

    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Row-major f32 values.
#[derive(Debug, Clone, Copy)]
pub struct DenseRows<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> DenseRows<'a> {
    /// `values` holds whole rows of `width`; `None` if it does not, or if `width` is 0.
    pub fn new(values: &'a [f32], width: usize) -> Option<Self> {
        (width > 0 && values.len().is_multiple_of(width)).then_some(Self { values, width })
    }
}

impl Rows for DenseRows<'_> {
    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, index: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.values[index * self.width..(index + 1) * self.width]);
    }
}

/// Row-major f16 values, as the store keeps them.
#[derive(Debug, Clone, Copy)]
pub struct HalfRows<'a> {
    values: &'a [f16],
    width: usize,
}

impl<'a> HalfRows<'a> {
    /// `values` holds whole rows of `width`; `None` if it does not, or if `width` is 0.
    pub fn new(values: &'a [f16], width: usize) -> Option<Self> {
        (width > 0 && values.len().is_multiple_of(width)).then_some(Self { values, width })
    }
}

impl Rows for HalfRows<'_> {
    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn width(&self) -> usize {
        self.width
    }

    fn read(&self, index: usize, out: &mut [f32]) {
        self.values[index * self.width..(index + 1) * self.width].convert_to_f32_slice(out);
    }
}

/// Some rows of another matrix, in the order of their indices.
pub struct Subset<'a> {
    rows: &'a dyn Rows,
    indices: &'a [usize],
}

impl<'a> Subset<'a> {
    /// Every index must be less than `rows.len()`.
    pub fn new(rows: &'a dyn Rows, indices: &'a [usize]) -> Self {
        debug_assert!(indices.iter().all(|&index| index < rows.len()));
        Self { rows, indices }
    }
}

impl Rows for Subset<'_> {
    fn len(&self) -> usize {
        self.indices.len()
    }

    fn width(&self) -> usize {
        self.rows.width()
    }

    fn read(&self, index: usize, out: &mut [f32]) {
        self.rows.read(self.indices[index], out);
    }
}
