//! Walking several strided arrays in step, row by row.

/// Row-major strides of a dense shape.
pub fn dense_strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1_isize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

/// Strides that repeat a dense array of shape `from` over `to` (same rank, each dimension equal or
/// one): zero along the repeated axes.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<isize> {
    let mut strides = dense_strides(from);
    for axis in 0..from.len() {
        if from[axis] == 1 && to[axis] != 1 {
            strides[axis] = 0;
        }
    }
    strides
}

/// Number of elements.
pub fn volume(shape: &[usize]) -> usize {
    shape.iter().product()
}

/// A box walked over `N` arrays at once. Neighbouring axes that are evenly spaced in all arrays
/// are merged, so that rows are as long as they can be.
#[derive(Debug, Clone)]
pub struct Walk<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<isize>; N],
}

/// One row of a [`Walk`].
#[derive(Debug, Clone, Copy)]
pub struct Row<const N: usize> {
    /// Offset of the row's first element in each array.
    pub start: [isize; N],
    /// Distance between neighbours in each array.
    pub step: [isize; N],
    /// Elements in the row.
    pub len: usize,
}

impl<const N: usize> Walk<N> {
    /// Over a box of `shape`, the arrays having these strides along its axes.
    pub fn new(shape: &[usize], strides: [&[isize]; N]) -> Walk<N> {
        let mut merged = Walk { shape: Vec::new(), strides: std::array::from_fn(|_| Vec::new()) };
        for axis in 0..shape.len() {
            if shape[axis] == 1 {
                continue;
            }
            let joins_previous = !merged.shape.is_empty()
                && (0..N).all(|array| {
                    merged.strides[array].last().copied()
                        == Some(strides[array][axis] * shape[axis] as isize)
                });
            if joins_previous {
                let last = merged.shape.len() - 1;
                merged.shape[last] *= shape[axis];
                for array in 0..N {
                    merged.strides[array][last] = strides[array][axis];
                }
            } else {
                merged.shape.push(shape[axis]);
                for array in 0..N {
                    merged.strides[array].push(strides[array][axis]);
                }
            }
        }
        merged
    }

    /// Calls `visit` for every row.
    pub fn rows(&self, mut visit: impl FnMut(Row<N>)) {
        if self.shape.contains(&0) {
            return;
        }
        let Some(inner) = self.shape.len().checked_sub(1) else {
            visit(Row { start: [0; N], step: [0; N], len: 1 });
            return;
        };
        let step = std::array::from_fn(|array| self.strides[array][inner]);
        let mut index = vec![0; inner];
        let mut start = [0_isize; N];
        loop {
            visit(Row { start, step, len: self.shape[inner] });
            let mut axis = inner;
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                for array in 0..N {
                    start[array] += self.strides[array][axis];
                }
                if index[axis] < self.shape[axis] {
                    break;
                }
                for array in 0..N {
                    start[array] -= self.strides[array][axis] * self.shape[axis] as isize;
                }
                index[axis] = 0;
            }
        }
    }
}

impl<const N: usize> Row<N> {
    /// Calls `visit` with each element's offset in each array.
    #[inline]
    pub fn each(&self, visit: impl FnMut([usize; N])) {
        self.each_offset([0; N], visit);
    }

    /// As [`Row::each`], with the arrays beginning at these offsets.
    #[inline]
    pub fn each_offset(&self, offsets: [isize; N], mut visit: impl FnMut([usize; N])) {
        let mut at: [isize; N] = std::array::from_fn(|array| self.start[array] + offsets[array]);
        for _ in 0..self.len {
            visit(at.map(|offset| offset as usize));
            for array in 0..N {
                at[array] += self.step[array];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_walk_visits_every_element_once_in_order() {
        let mut seen = Vec::new();
        Walk::new(&[3, 2], [&[1, 3], &[2, 1]]).rows(|row| row.each(|[a, b]| seen.push((a, b))));
        assert_eq!(seen, [(0, 0), (3, 1), (1, 2), (4, 3), (2, 4), (5, 5)]);
    }

    #[test]
    fn evenly_spaced_axes_are_walked_as_one_row() {
        let mut rows = 0;
        let dense = dense_strides(&[4, 5, 6]);
        Walk::new(&[4, 5, 6], [&dense, &dense]).rows(|row| {
            rows += 1;
            assert_eq!(row.len, 120);
        });
        assert_eq!(rows, 1);
    }

    #[test]
    fn an_empty_shape_is_one_element_and_a_zero_dimension_is_none() {
        let mut elements = 0;
        Walk::<1>::new(&[], [&[]]).rows(|row| elements += row.len);
        assert_eq!(elements, 1);
        Walk::new(&[3, 0], [&[0, 1]]).rows(|row| elements += row.len);
        assert_eq!(elements, 1);
    }
}
