//! Passes over all samples in blocks, on all cores, with the same result on any number of them.
//!
//! The samples are divided into *lanes* by their number alone, never by the number of threads. A
//! lane runs through its rows in order, and the lanes' sums are added in the order of the lanes, so
//! that every floating-point sum is formed in the same order whoever does the work.

use rayon::prelude::*;

use super::TrainError;
use super::rows::Rows;
use crate::base::cancel::Cancel;
use crate::heads::Transform;

/// Rows that are expanded to f32 at a time: with 1280 columns 640 KiB, which a second-level cache
/// holds.
pub const BLOCK_ROWS: usize = 128;
/// Most lanes; also the most threads that a pass can use.
const MAX_LANES: usize = 16;
/// Most bytes that all lanes' sums together may take.
const MAX_LANE_BYTES: usize = 64 << 20;

/// A block of transformed rows in the hands of a lane.
pub struct Block<'a> {
    /// Index of the first row.
    pub start: usize,
    /// Number of rows.
    pub rows: usize,
    /// Row-major, `rows` x width.
    pub values: &'a [f32],
}

/// Runs through all rows: each lane starts from `start()` and adds its blocks with `add`; the lanes'
/// results come back in order. `sum_bytes` is the size of one lane's result.
///
/// # Errors
/// [`TrainError::Cancelled`] within one block, whatever `add` returns otherwise.
pub fn pass<S: Send>(
    rows: &dyn Rows,
    transform: &Transform,
    sum_bytes: usize,
    cancel: &Cancel,
    start: impl Fn() -> S + Sync,
    add: impl Fn(&mut S, &Block<'_>) -> Result<(), TrainError> + Sync,
) -> Result<Vec<S>, TrainError> {
    let lanes = lane_bounds(rows.len(), sum_bytes);
    lanes
        .into_par_iter()
        .map(|(from, to)| {
            let mut sum = start();
            let mut buffer = vec![0.0_f32; BLOCK_ROWS.min(to - from) * rows.width()];
            let mut at = from;
            while at < to {
                cancel.check()?;
                let count = BLOCK_ROWS.min(to - at);
                let values = &mut buffer[..count * rows.width()];
                read_block(rows, transform, at, values);
                add(&mut sum, &Block { start: at, rows: count, values })?;
                at += count;
            }
            Ok(sum)
        })
        .collect()
}

/// Reads rows `start..` and transforms them, as many as `out` has place for.
pub fn read_block(rows: &dyn Rows, transform: &Transform, start: usize, out: &mut [f32]) {
    for (offset, row) in out.chunks_exact_mut(rows.width()).enumerate() {
        rows.read(start + offset, row);
        transform.apply(row);
    }
}

/// All rows, transformed, as one matrix: for data known to be small.
///
/// # Errors
/// [`TrainError::Cancelled`] within one block.
pub fn read_all(
    rows: &dyn Rows,
    transform: &Transform,
    cancel: &Cancel,
) -> Result<Vec<f32>, TrainError> {
    let mut values = vec![0.0; rows.len() * rows.width()];
    let blocks = values.par_chunks_mut(BLOCK_ROWS * rows.width()).enumerate();
    blocks.try_for_each(|(index, block)| {
        cancel.check()?;
        read_block(rows, transform, index * BLOCK_ROWS, block);
        Ok::<_, TrainError>(())
    })?;
    Ok(values)
}

/// Refuses NaN and infinities.
///
/// # Errors
/// [`TrainError::NotFinite`] for the first one; [`TrainError::Cancelled`] within one block.
pub fn check_finite(rows: &dyn Rows, cancel: &Cancel) -> Result<(), TrainError> {
    let found = pass(
        rows,
        &Transform::default(),
        0,
        cancel,
        || None,
        |first, block| {
            if first.is_none() {
                *first = block
                    .values
                    .iter()
                    .position(|v| !v.is_finite())
                    .map(|at| (block.start + at / rows.width(), at % rows.width()));
            }
            Ok(())
        },
    )?;
    match found.into_iter().flatten().next() {
        Some((row, column)) => Err(TrainError::NotFinite { row, column }),
        None => Ok(()),
    }
}

fn lane_bounds(rows: usize, sum_bytes: usize) -> Vec<(usize, usize)> {
    let affordable = MAX_LANE_BYTES.checked_div(sum_bytes).unwrap_or(MAX_LANES);
    let useful = rows.div_ceil(BLOCK_ROWS);
    let lanes = useful.min(affordable).clamp(1, MAX_LANES);
    (0..lanes)
        .map(|lane| (lane * rows / lanes, (lane + 1) * rows / lanes))
        .filter(|(from, to)| from < to)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DenseRows, Samples, nearest};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_row_is_visited_once_and_in_order() {
        for count in [0, 1, 127, 128, 129, 5000] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            let rows = DenseRows::new(&values, 1).unwrap();
            let lanes = pass(
                &rows,
                &Transform::default(),
                8,
                &Cancel::default(),
                Vec::new,
                |seen: &mut Vec<f32>, block| {
                    seen.extend_from_slice(block.values);
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(lanes.concat(), values);
        }
    }

    #[test]
    fn a_nan_is_found_where_it_is() {
        let mut values = vec![0.0_f32; 300 * 3];
        values[200 * 3 + 2] = f32::NAN;
        let rows = DenseRows::new(&values, 3).unwrap();
        let found = check_finite(&rows, &Cancel::default());
        assert_eq!(found, Err(TrainError::NotFinite { row: 200, column: 2 }));
    }

    /// Rows that raise a flag as soon as one of them is read, and count how many are.
    struct Raising(Cancel, AtomicUsize);

    impl Rows for Raising {
        fn len(&self) -> usize {
            MAX_LANES * BLOCK_ROWS * 50
        }

        fn width(&self) -> usize {
            2
        }

        fn read(&self, _: usize, out: &mut [f32]) {
            self.0.cancel();
            self.1.fetch_add(1, Ordering::Relaxed);
            out.fill(0.5);
        }
    }

    #[test]
    fn a_raised_flag_ends_every_way_through_the_rows_within_a_block_of_each_lane() {
        let samples = |rows: &dyn Rows, cancel: &Cancel| {
            let labels = (0..rows.len()).map(|i| (i % 2) as u32).collect();
            let samples = Samples::new(rows, labels, vec!["a".into(), "b".into()]);
            samples.check(cancel).unwrap_err()
        };
        let all = |rows: &dyn Rows, cancel: &Cancel| {
            read_all(rows, &Transform::default(), cancel).unwrap_err()
        };
        let neighbours = |rows: &dyn Rows, cancel: &Cancel| {
            let labels = (0..rows.len()).map(|i| (i % 2) as u32).collect();
            let samples = Samples::new(rows, labels, vec!["a".into(), "b".into()]);
            nearest::fit(&samples, &Transform::default(), 3, cancel).unwrap_err()
        };
        type Way<'a> = &'a dyn Fn(&dyn Rows, &Cancel) -> TrainError;
        let threads = rayon::current_num_threads().max(1);
        for way in [&samples as Way<'_>, &all, &neighbours] {
            let cancel = Cancel::default();
            let rows = Raising(cancel.clone(), AtomicUsize::new(0));
            assert!(matches!(way(&rows, &cancel), TrainError::Cancelled(_)));
            let read = rows.1.load(Ordering::Relaxed);
            assert!(read <= threads * BLOCK_ROWS, "{read} rows on {threads} threads");
        }
    }
}
