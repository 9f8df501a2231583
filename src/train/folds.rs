//! Which samples are held out when.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

use super::Samples;
use super::covariance::by_class;

/// Assigns every sample to one of `folds` folds so that every class is spread as evenly as
/// possible. Seeded; depends on nothing but the arguments.
pub fn stratified(labels: &[u32], classes: usize, folds: usize, seed: u64) -> Vec<usize> {
    let folds = folds.max(1);
    let mut random = Pcg64::seed_from_u64(seed);
    let mut assigned = vec![0; labels.len()];
    // Each class goes on dealing where the one before it stopped, so that folds have like sizes.
    let mut next = 0;
    for mut members in by_class(labels, classes) {
        members.shuffle(&mut random);
        for index in members {
            assigned[index] = next % folds;
            next += 1;
        }
    }
    assigned
}

/// As [`stratified`], with every copy in the fold of its original.
pub(super) fn of_samples(samples: &Samples<'_>, folds: usize, seed: u64) -> Vec<usize> {
    let classes = samples.classes.len();
    if samples.copy_of.is_empty() {
        return stratified(&samples.labels, classes, folds, seed);
    }
    let originals: Vec<usize> = (0..samples.len()).filter(|&i| samples.is_original(i)).collect();
    let labels: Vec<u32> = originals.iter().map(|&i| samples.labels[i]).collect();
    let mut assigned = vec![0; samples.len()];
    for (&index, fold) in originals.iter().zip(stratified(&labels, classes, folds, seed)) {
        assigned[index] = fold;
    }
    (0..samples.len()).map(|index| assigned[samples.original(index)]).collect()
}

/// Which classes have samples in several folds: a class whose samples one fold holds out together is
/// unknown to the head that judges them.
pub(super) fn known_classes(labels: &[u32], assigned: &[usize], classes: usize) -> Vec<bool> {
    let mut first = vec![None; classes];
    let mut known = vec![false; classes];
    for (&label, &fold) in labels.iter().zip(assigned) {
        known[label as usize] |= *first[label as usize].get_or_insert(fold) != fold;
    }
    known
}

/// As [`split`]; copies are kept with their originals and never held out.
pub(super) fn split_samples(
    samples: &Samples<'_>,
    assigned: &[usize],
    fold: usize,
) -> (Vec<usize>, Vec<usize>) {
    let (kept, mut held_out) = split(assigned, fold);
    held_out.retain(|&index| samples.is_original(index));
    (kept, held_out)
}

/// Indices of the samples outside and inside of fold `fold`.
pub fn split(assigned: &[usize], fold: usize) -> (Vec<usize>, Vec<usize>) {
    (0..assigned.len()).partition(|&i| assigned[i] != fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_never_judged_by_a_head_that_saw_its_original() {
        let values = [0.0_f32; 12];
        let rows = crate::train::DenseRows::new(&values, 1).unwrap();
        let labels = (0..12).map(|i| (i % 2) as u32).collect();
        let mut samples = Samples::new(&rows, labels, vec!["a".into(), "b".into()]);
        // Samples 6 to 11 are copies of 0 to 5.
        samples.copy_of = (0..12).map(|i| i % 6).collect();
        samples.check(&crate::base::cancel::Cancel::default()).unwrap();
        let assigned = of_samples(&samples, 3, 0);
        for fold in 0..3 {
            let (kept, held_out) = split_samples(&samples, &assigned, fold);
            assert_eq!((kept.len(), held_out.len()), (8, 2));
            assert!(held_out.iter().all(|i| *i < 6 && !kept.contains(&(i + 6))));
        }
    }

    #[test]
    fn every_fold_has_its_share_of_every_class() {
        let labels: Vec<u32> = (0..103).map(|i| u32::from(i % 4 == 0)).collect();
        let folds = stratified(&labels, 2, 5, 7);
        for fold in 0..5 {
            let (_, held_out) = split(&folds, fold);
            let ones = held_out.iter().filter(|&&i| labels[i] == 1).count();
            assert!((20..=21).contains(&held_out.len()) && (5..=6).contains(&ones));
        }
        assert_eq!(folds, stratified(&labels, 2, 5, 7));
        assert_ne!(folds, stratified(&labels, 2, 5, 8));
    }
}
