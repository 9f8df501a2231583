//! Samples that show the same: pairs, and the groups that pairs make.

use rayon::prelude::*;
use serde::Serialize;

use super::{MAX_FINDINGS, PhotographFacts};
use crate::base::cancel::Cancel;
use crate::heads::{Step, Transform};
use crate::train::linear_algebra::{Operand, multiply};
use crate::train::{Samples, TrainError, blocks};

/// Cosine of embeddings from which two samples are near-duplicates if their photographs' hashes are
/// alike, and if nothing is known of the photographs.
const NEAR_COSINE: (f32, f32) = (0.95, 0.995);
/// Bits of 64 in which the hashes of near-duplicates may differ.
const NEAR_BITS: u32 = 8;
/// Samples that are compared with each other; more would take minutes.
const MAX_COMPARED: usize = 20_000;

/// Two samples that show the same.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Duplicate {
    /// Index of the earlier sample.
    pub first: usize,
    /// Index of the later sample.
    pub second: usize,
    /// Cosine of their embeddings.
    pub similarity: f32,
    /// Whether their labels differ: then at least one is wrong.
    pub across_classes: bool,
}

/// Samples that show the same, by way of pairs of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DuplicateGroup {
    /// Indices of the samples, two at least, ascending.
    pub samples: Vec<usize>,
    /// Least cosine of a pair that joined them.
    pub similarity: f32,
    /// Whether their labels differ.
    pub across_classes: bool,
}

/// Joins pairs that share a sample. Groups across classes come first, then the most alike.
pub fn groups(pairs: &[Duplicate]) -> Vec<DuplicateGroup> {
    let mut groups: Vec<DuplicateGroup> = Vec::new();
    for pair in pairs {
        let mut joined = DuplicateGroup {
            samples: vec![pair.first, pair.second],
            similarity: pair.similarity,
            across_classes: pair.across_classes,
        };
        groups.retain(|group| {
            let touches =
                group.samples.contains(&pair.first) || group.samples.contains(&pair.second);
            if touches {
                joined.samples.extend(&group.samples);
                joined.similarity = joined.similarity.min(group.similarity);
                joined.across_classes |= group.across_classes;
            }
            !touches
        });
        joined.samples.sort_unstable();
        joined.samples.dedup();
        groups.push(joined);
    }
    groups.sort_by(|a, b| {
        let alike = b.similarity.total_cmp(&a.similarity);
        b.across_classes.cmp(&a.across_classes).then(alike).then(a.samples.cmp(&b.samples))
    });
    groups
}

/// Pairs of samples that show the same, the most alike first.
pub(super) fn find(
    samples: &Samples<'_>,
    facts: &[Option<PhotographFacts>],
    cancel: &Cancel,
) -> Result<Vec<Duplicate>, TrainError> {
    let (count, width) = (samples.len().min(MAX_COMPARED), samples.rows.width());
    let unit = Transform::new(vec![Step::UnitLength])?;
    let fact = |i: usize| facts.get(i).copied().flatten();
    let starts: Vec<usize> = (0..count).step_by(blocks::BLOCK_ROWS).collect();
    let read = |start: usize| {
        let rows = blocks::BLOCK_ROWS.min(count - start);
        let mut block = vec![0.0_f32; rows * width];
        blocks::read_block(samples.rows, &unit, start, &mut block);
        (rows, block)
    };
    let found: Result<Vec<Vec<Duplicate>>, TrainError> = starts
        .par_iter()
        .map(|&start| {
            let (rows, block) = read(start);
            let left = Operand::new(&block, rows, width);
            let mut pairs = Vec::new();
            for &other in starts.iter().filter(|&&other| other >= start) {
                cancel.check()?;
                let (columns, opposite) = read(other);
                let mut cosines = vec![0.0_f32; rows * columns];
                let right = Operand::new(&opposite, columns, width).t();
                multiply(1.0, left, right, 0.0, &mut cosines, columns);
                for (index, &similarity) in cosines.iter().enumerate() {
                    let (first, second) = (start + index / columns, other + index % columns);
                    if first < second && alike(similarity, fact(first), fact(second)) {
                        let across_classes = samples.labels[first] != samples.labels[second];
                        pairs.push(Duplicate { first, second, similarity, across_classes });
                    }
                }
                if pairs.len() > 16 * MAX_FINDINGS {
                    break;
                }
            }
            Ok(pairs)
        })
        .collect();
    let mut pairs = found?.concat();
    pairs.sort_by(|a, b| {
        b.similarity.total_cmp(&a.similarity).then((a.first, a.second).cmp(&(b.first, b.second)))
    });
    pairs.truncate(MAX_FINDINGS);
    Ok(pairs)
}

fn alike(similarity: f32, first: Option<PhotographFacts>, second: Option<PhotographFacts>) -> bool {
    match (first, second) {
        (Some(a), Some(b)) => {
            similarity >= NEAR_COSINE.0 && (a.hash ^ b.hash).count_ones() <= NEAR_BITS
        }
        _ => similarity >= NEAR_COSINE.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(first: usize, second: usize, similarity: f32, across_classes: bool) -> Duplicate {
        Duplicate { first, second, similarity, across_classes }
    }

    #[test]
    fn pairs_that_share_a_sample_are_one_group_and_those_across_classes_come_first() {
        let pairs = [pair(0, 1, 1.0, false), pair(4, 7, 0.98, true), pair(1, 2, 0.97, false)];
        let found = groups(&pairs);
        assert_eq!(found[0].samples, [4, 7]);
        assert_eq!((found[1].samples.as_slice(), found[1].similarity), (&[0, 1, 2][..], 0.97));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn two_groups_become_one_where_a_pair_joins_them() {
        let pairs = [pair(0, 1, 1.0, false), pair(2, 3, 1.0, false), pair(1, 2, 0.96, true)];
        let found = groups(&pairs);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].samples, [0, 1, 2, 3]);
        assert!(found[0].across_classes);
    }

    #[test]
    fn alike_embeddings_of_unlike_photographs_are_no_duplicates() {
        let facts =
            |hash| Some(PhotographFacts { shorter_side: 256, sharpness: 9.0, contrast: 9.0, hash });
        assert!(alike(0.97, facts(0b111), facts(0)));
        assert!(!alike(0.999, facts(u64::MAX), facts(0)));
    }
}
