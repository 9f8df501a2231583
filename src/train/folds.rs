//! Which samples are held out when.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;

/// Assigns every sample to one of `folds` folds so that every class is spread as evenly as
/// possible. Seeded; depends on nothing but the arguments.
pub fn stratified(labels: &[u32], classes: usize, folds: usize, seed: u64) -> Vec<usize> {
    let folds = folds.max(1);
    let mut random = Pcg64::seed_from_u64(seed);
    let mut assigned = vec![0; labels.len()];
    // Each class goes on dealing where the one before it stopped, so that folds have like sizes.
    let mut next = 0;
    for class in 0..classes {
        let mut members: Vec<usize> =
            (0..labels.len()).filter(|&i| labels[i] as usize == class).collect();
        members.shuffle(&mut random);
        for index in members {
            assigned[index] = next % folds;
            next += 1;
        }
    }
    assigned
}

/// Indices of the samples outside and inside of fold `fold`.
pub fn split(assigned: &[usize], fold: usize) -> (Vec<usize>, Vec<usize>) {
    (0..assigned.len()).partition(|&i| assigned[i] != fold)
}

#[cfg(test)]
mod tests {
    use super::*;

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
