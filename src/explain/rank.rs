//! Rank correlation.

/// Spearman's rank correlation of two equally long lists, ties at their mean rank; 0 where one of
/// them is constant.
pub fn spearman(a: &[f32], b: &[f32]) -> f64 {
    correlation(&ranks(a), &ranks(b))
}

/// Pearson's correlation; 0 where one of the lists is constant.
pub(super) fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len().min(b.len()).max(1) as f64;
    let (mean_a, mean_b) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x - mean_a, y - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    while first < order.len() {
        let same = |at: &&usize| values[**at] == values[order[first]];
        let end = first + order[first..].iter().take_while(same).count().max(1);
        for at in &order[first..end] {
            ranks[*at] = (first + end - 1) as f64 / 2.0;
        }
        first = end;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_scipy() {
        // scipy.stats.spearmanr([1, 2, 2, 4, 0], [3, 1, 4, 4, 0]).statistic
        let rho = spearman(&[1.0, 2.0, 2.0, 4.0, 0.0], &[3.0, 1.0, 4.0, 4.0, 0.0]);
        assert!((rho - 0.763_157_894_736_842_1).abs() < 1e-12, "{rho}");
        assert_eq!(spearman(&[1.0; 4], &[1.0, 2.0, 3.0, 4.0]), 0.0);
        assert_eq!(spearman(&[], &[]), 0.0);
    }
}
