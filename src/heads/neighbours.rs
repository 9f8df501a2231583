//! Cosine k-nearest-neighbours with weighted votes (Wu et al. 2018, "Unsupervised feature learning
//! via non-parametric instance discrimination", section 3.4).

use half::f16;

use super::{HeadError, Matrix, dot};

/// Added to every class's votes, so that a class without a neighbour has a finite logit.
pub(super) const VOTE_FLOOR: f32 = 1e-6;

/// The training embeddings themselves. A neighbour `i` votes for its class with
/// `exp((similarity_i - 1) / bandwidth)`; `logit[c] = ln(votes[c] + 1e-6)`, so that softmax of the
/// logits is each class's share of the votes.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbours {
    /// Unit-length rows, samples x width, kept as the store keeps them.
    rows: Vec<f16>,
    width: usize,
    labels: Vec<u32>,
    classes: usize,
    neighbours: usize,
    bandwidth: f32,
}

impl Neighbours {
    /// `rows` is samples x width, each row scaled to length 1 here; `labels` are class indices;
    /// `neighbours` of them vote.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] for unlike counts, a label out of range, no neighbours, or a
    /// bandwidth that is not positive.
    pub fn new(
        rows: &Matrix,
        labels: Vec<u32>,
        classes: usize,
        neighbours: usize,
        bandwidth: f32,
    ) -> Result<Self, HeadError> {
        let mut unit = Vec::with_capacity(rows.values().len());
        for row in rows.iter_rows() {
            let length = dot(row, row).sqrt().max(1e-12);
            unit.extend(row.iter().map(|v| f16::from_f32(v / length)));
        }
        Self::from_unit_rows(unit, rows.columns(), labels, classes, neighbours, bandwidth)
    }

    /// As [`Neighbours::new`], from rows that already have length 1.
    ///
    /// # Errors
    /// As [`Neighbours::new`].
    pub fn from_unit_rows(
        rows: Vec<f16>,
        width: usize,
        labels: Vec<u32>,
        classes: usize,
        neighbours: usize,
        bandwidth: f32,
    ) -> Result<Self, HeadError> {
        let consistent = width > 0
            && !labels.is_empty()
            && labels.len().checked_mul(width) == Some(rows.len())
            && labels.iter().all(|&label| (label as usize) < classes)
            && neighbours > 0
            && bandwidth.is_finite()
            && bandwidth > 0.0;
        if !consistent {
            return Err(HeadError::Inconsistent("the neighbours' rows and labels disagree".into()));
        }
        let neighbours = neighbours.min(labels.len());
        Ok(Self { rows, width, labels, classes, neighbours, bandwidth })
    }

    /// Unit-length rows, samples x width.
    pub fn rows(&self) -> &[f16] {
        &self.rows
    }

    /// Width of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Class index of every row.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How many neighbours vote.
    pub fn neighbours(&self) -> usize {
        self.neighbours
    }

    /// Difference of cosine similarity that divides a vote's weight by e.
    pub fn bandwidth(&self) -> f32 {
        self.bandwidth
    }

    /// Scores of one transformed embedding.
    pub fn logits(&self, x: &[f32]) -> Vec<f32> {
        self.votes(x).0.iter().map(|v| v.ln()).collect()
    }

    /// Gradient of `sum(cotangent * logits)` with respect to the transformed embedding, with the
    /// set of neighbours held fixed (the logits jump where it changes).
    pub fn vjp(&self, x: &[f32], cotangent: &[f32]) -> Vec<f32> {
        let (votes, nearest, unit, length) = self.votes(x);
        let mut gradient = vec![0.0_f32; self.width];
        if length <= 1e-12 {
            return gradient;
        }
        for (similarity, index) in nearest {
            let class = self.labels[index] as usize;
            let weight = self.weight(similarity);
            let factor = cotangent[class] * weight / (votes[class] * self.bandwidth * length);
            let row = &self.rows[index * self.width..(index + 1) * self.width];
            for ((g, r), u) in gradient.iter_mut().zip(row).zip(&unit) {
                *g += factor * (r.to_f32() - similarity * u);
            }
        }
        gradient
    }

    fn weight(&self, similarity: f32) -> f32 {
        ((similarity - 1.0) / self.bandwidth).exp()
    }

    /// Votes by class, the voting rows with their similarities, the unit vector and length of `x`.
    fn votes(&self, x: &[f32]) -> (Vec<f32>, Vec<(f32, usize)>, Vec<f32>, f32) {
        let length = dot(x, x).sqrt();
        let unit: Vec<f32> = x.iter().map(|v| v / length.max(1e-12)).collect();
        let mut row = vec![0.0_f32; self.width];
        let mut nearest: Vec<(f32, usize)> = Vec::with_capacity(self.labels.len());
        for (index, half_row) in self.rows.chunks_exact(self.width).enumerate() {
            use half::slice::HalfFloatSliceExt;
            half_row.convert_to_f32_slice(&mut row);
            nearest.push((dot(&row, &unit), index));
        }
        // Ties go to the earlier sample, so that the answer never depends on the sort.
        let by_similarity =
            |a: &(f32, usize), b: &(f32, usize)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if nearest.len() > self.neighbours {
            nearest.select_nth_unstable_by(self.neighbours - 1, by_similarity);
            nearest.truncate(self.neighbours);
        }
        nearest.sort_unstable_by(by_similarity);
        let mut votes = vec![VOTE_FLOOR; self.classes];
        for &(similarity, index) in &nearest {
            votes[self.labels[index] as usize] += self.weight(similarity);
        }
        (votes, nearest, unit, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Neighbours {
        let rows = Matrix::new(3, 2, vec![2.0, 0.0, 1.0, 0.1, 0.0, 5.0]).unwrap();
        Neighbours::new(&rows, vec![0, 0, 1], 2, 2, 0.1).unwrap()
    }

    #[test]
    fn the_nearest_rows_decide_whatever_their_length() {
        let logits = three().logits(&[0.001, 0.0]);
        assert!(logits[0] > logits[1]);
        let logits = three().logits(&[0.0, 7.0]);
        assert!(logits[1] > logits[0]);
    }

    #[test]
    fn the_gradient_is_that_of_central_differences() {
        let head = three();
        let (x, cotangent) = ([0.8_f32, 0.5], [1.0_f32, -0.5]);
        let gradient = head.vjp(&x, &cotangent);
        for i in 0..2 {
            let value = |delta: f32| {
                let mut y = x;
                y[i] += delta;
                f64::from(dot(&head.logits(&y), &cotangent))
            };
            let numeric = (value(1e-3) - value(-1e-3)) / 2e-3;
            assert!((numeric - f64::from(gradient[i])).abs() < 1e-2 * numeric.abs().max(1.0));
        }
    }
}
