//! Streaming linear discriminant analysis (Hayes and Kanan 2020, "Lifelong machine learning with
//! deep streaming linear discriminant analysis"): running class means and the running covariance
//! within classes. A sample is learnt by one rank-one update; after any number of samples the
//! discriminant equals that of the batch.

use super::calibration::fit_temperature;
use super::covariance::Scatter;
use super::lda::{Shrinkage, discriminant, intensity};
use super::{MAX_LEARNT_CLASSES, Samples, TrainError, novelty};
use crate::base::cancel::Cancel;
use crate::heads::{
    Classifier, Head, HeadError, Kind, Linear, Matrix, Novelty, NoveltyScore, Step, Transform,
    check_label, log_sum_exp,
};

/// Widest embedding whose covariance is kept (a 4096-wide one takes 128 MiB).
const MAX_WIDTH: usize = 4096;

/// Everything that streaming LDA knows of the samples it has seen, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamingLda {
    classes: Vec<String>,
    width: usize,
    counts: Vec<f64>,
    /// Classes x width.
    means: Vec<f64>,
    /// Lower triangle of the scatter within classes, packed rows.
    scatter: Vec<f64>,
    /// Scratch: the current sample, transformed, minus its class mean.
    difference: Vec<f64>,
}

impl StreamingLda {
    /// Knows nothing yet; `width` is that of the embedding, 1 to 4096.
    ///
    /// # Errors
    /// [`TrainError::Invalid`] for another width.
    pub fn new(width: usize) -> Result<Self, TrainError> {
        if !(1..=MAX_WIDTH).contains(&width) {
            return Err(TrainError::Invalid(format!(
                "streaming LDA keeps a covariance of width x width; {width} is not in 1..={MAX_WIDTH}"
            )));
        }
        Ok(Self {
            classes: Vec::new(),
            width,
            counts: Vec::new(),
            means: Vec::new(),
            scatter: vec![0.0; width * (width + 1) / 2],
            difference: Vec::new(),
        })
    }

    /// What is done to an embedding first: length 1, which needs no knowledge of other samples.
    pub fn transform() -> Transform {
        Transform::new(vec![Step::UnitLength]).unwrap_or_default()
    }

    /// Labels seen so far, in the order of their first sample.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Samples seen of every class.
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }

    /// Learns one sample: at most 2 ms for an embedding 1280 wide. A new label makes a new class;
    /// beyond [`MAX_LEARNT_CLASSES`] its samples are passed over. Whether the sample was learnt.
    ///
    /// # Errors
    /// [`TrainError::Head`] for a wrong width or a label that cannot be used,
    /// [`TrainError::NotFinite`].
    pub fn add(&mut self, embedding: &[f32], label: &str) -> Result<bool, TrainError> {
        if embedding.len() != self.width {
            let found = embedding.len();
            return Err(HeadError::Width { expected: self.width, found }.into());
        }
        if let Some(column) = embedding.iter().position(|v| !v.is_finite()) {
            return Err(TrainError::NotFinite { row: 0, column });
        }
        let Some(class) = self.class_of(label)? else { return Ok(false) };
        let mut x = embedding.to_vec();
        Self::transform().apply(&mut x);
        let count = self.counts[class];
        let mean = &mut self.means[class * self.width..(class + 1) * self.width];
        self.difference.clear();
        self.difference.extend(x.iter().zip(&*mean).map(|(x, m)| f64::from(*x) - m));
        for (m, d) in mean.iter_mut().zip(&self.difference) {
            *m += d / (count + 1.0);
        }
        self.counts[class] = count + 1.0;
        // sum (x - mean)(x - mean)' grows by d d' n / (n + 1), d taken from the old mean.
        let factor = count / (count + 1.0);
        if factor > 0.0 {
            let mut start = 0;
            for row in 0..self.width {
                let scale = factor * self.difference[row];
                let values = &mut self.scatter[start..=start + row];
                for (value, d) in values.iter_mut().zip(&self.difference) {
                    *value += scale * d;
                }
                start += row + 1;
            }
        }
        Ok(true)
    }

    /// The discriminant of all samples so far, on embeddings of length 1, and its classes' order is
    /// that of [`StreamingLda::classes`]. With `balance` every class counts alike, however many
    /// samples it has.
    ///
    /// # Errors
    /// [`TrainError::Empty`], [`TrainError::OneClass`], [`TrainError::Cancelled`].
    pub fn discriminant(
        &self,
        shrinkage: Shrinkage,
        balance: bool,
        cancel: &Cancel,
    ) -> Result<Linear, TrainError> {
        match self.classes.as_slice() {
            [] => return Err(TrainError::Empty),
            [only] => return Err(TrainError::OneClass(only.clone())),
            _ => {}
        }
        let count: f64 = self.counts.iter().sum();
        let mut scatter = Scatter::new(self.width);
        scatter.count = count;
        let mut start = 0;
        for row in 0..self.width {
            scatter.gram[row * self.width..=row * self.width + row]
                .copy_from_slice(&self.scatter[start..=start + row]);
            start += row + 1;
        }
        let covariance = scatter.shrunk(intensity(&scatter, shrinkage));
        drop(scatter);
        let means: Vec<Vec<f64>> =
            self.means.chunks_exact(self.width).map(<[f64]>::to_vec).collect();
        let even = 1.0 / self.counts.len() as f64;
        let prior = |n: &f64| if balance { even } else { n / count };
        let priors: Vec<f64> = self.counts.iter().map(prior).collect();
        discriminant(&means, &priors, covariance, cancel)
    }

    /// The discriminant as a head, its classes in the order of their names. `held_out` sets the
    /// temperature and, by the energy of its samples, the threshold for unknowns at
    /// `false_alarm_rate`; without any the temperature is 1 and nothing is unknown.
    ///
    /// # Errors
    /// As [`StreamingLda::discriminant`].
    pub fn head(
        &self,
        balance: bool,
        held_out: Option<&Samples<'_>>,
        false_alarm_rate: f32,
        cancel: &Cancel,
    ) -> Result<Head, TrainError> {
        let linear = self.discriminant(Shrinkage::OracleApproximating, balance, cancel)?;
        let mut order: Vec<usize> = (0..self.classes.len()).collect();
        order.sort_by(|a, b| self.classes[*a].cmp(&self.classes[*b]));
        let rows: Vec<f32> =
            order.iter().flat_map(|&class| linear.weights().row(class).to_vec()).collect();
        let bias = order.iter().map(|&class| linear.bias()[class]).collect();
        let sorted = Linear::new(Matrix::new(order.len(), self.width, rows)?, bias)?;
        let classes = order.iter().map(|&class| self.classes[class].clone()).collect();
        let head = Head::new(Kind::Slda, classes, Self::transform(), Classifier::Linear(sorted))?;
        match held_out {
            Some(samples) => calibrated(head, samples, false_alarm_rate, cancel),
            None => Ok(head),
        }
    }

    /// The class of a label, a new one for a new label while there is room.
    fn class_of(&mut self, label: &str) -> Result<Option<usize>, TrainError> {
        if let Some(class) = self.classes.iter().position(|known| known == label) {
            return Ok(Some(class));
        }
        check_label(label)?;
        if self.classes.len() == MAX_LEARNT_CLASSES {
            return Ok(None);
        }
        self.classes.push(label.to_owned());
        self.counts.push(0.0);
        self.means.resize(self.means.len() + self.width, 0.0);
        Ok(Some(self.classes.len() - 1))
    }
}

/// Temperature and threshold from the samples whose class the head knows.
fn calibrated(
    head: Head,
    held_out: &Samples<'_>,
    false_alarm_rate: f32,
    cancel: &Cancel,
) -> Result<Head, TrainError> {
    let known: Vec<Option<usize>> = held_out
        .classes
        .iter()
        .map(|label| head.classes().iter().position(|class| class == label))
        .collect();
    let (mut scores, mut labels) = (Vec::new(), Vec::new());
    let mut row = vec![0.0_f32; held_out.rows.width()];
    for (index, &label) in held_out.labels.iter().enumerate() {
        cancel.check()?;
        if let Some(class) = known[label as usize] {
            held_out.rows.read(index, &mut row);
            scores.extend(head.logits(&row)?);
            labels.push(class as u32);
        }
    }
    if labels.is_empty() {
        return Ok(head);
    }
    let classes = head.classes().len();
    let temperature = fit_temperature(&scores, &labels, classes, cancel)?;
    let energy = |row: &[f32]| {
        let scaled: Vec<f32> = row.iter().map(|score| score / temperature).collect();
        -log_sum_exp(&scaled)
    };
    let energies = scores.chunks_exact(classes).map(energy).collect();
    let threshold = novelty::threshold(energies, false_alarm_rate);
    let novelty = Novelty { score: NoveltyScore::Energy, threshold, false_alarm_rate };
    Ok(head.with_temperature(temperature)?.with_novelty(novelty)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::{DenseRows, lda};

    fn embedding(i: usize) -> Vec<f32> {
        (0..12)
            .map(|j| ((i * 37 + j * j * 11) % 29) as f32 / 29.0 + f32::from(j % 3 == i % 3))
            .collect()
    }

    fn learnt(count: usize) -> StreamingLda {
        let mut streaming = StreamingLda::new(12).unwrap();
        for i in 0..count {
            streaming.add(&embedding(i), ["a", "b", "c"][i % 3]).unwrap();
        }
        streaming
    }

    #[test]
    fn after_every_sample_it_equals_the_batch() {
        for count in [3, 4, 10, 50, 200] {
            let values: Vec<f32> = (0..count).flat_map(embedding).collect();
            let rows = DenseRows::new(&values, 12).unwrap();
            let labels = (0..count).map(|i| (i % 3) as u32).collect();
            let classes = ["a", "b", "c"].map(String::from).to_vec();
            let samples = Samples::new(&rows, labels, classes);
            let cancel = Cancel::default();
            let shrinkage = Shrinkage::OracleApproximating;
            let batch = lda::fit(&samples, &StreamingLda::transform(), shrinkage, &cancel).unwrap();
            let streaming = learnt(count).discriminant(shrinkage, false, &cancel).unwrap();
            let scale = batch.weights().values().iter().fold(1.0_f32, |m, w| m.max(w.abs()));
            let pairs = batch.weights().values().iter().zip(streaming.weights().values());
            for (a, b) in pairs.chain(batch.bias().iter().zip(streaming.bias())) {
                assert!((a - b).abs() <= 1e-5 * scale, "after {count}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_head_has_its_classes_by_name_and_the_threshold_of_its_held_out_samples() {
        let mut streaming = StreamingLda::new(12).unwrap();
        for i in 0..60 {
            streaming.add(&embedding(i), ["c", "a", "b"][i % 3]).unwrap();
        }
        let values: Vec<f32> = (60..120).flat_map(embedding).collect();
        let rows = DenseRows::new(&values, 12).unwrap();
        let labels = (0..60).map(|i| (i % 3) as u32).collect();
        let classes = ["c", "a", "b"].map(String::from).to_vec();
        let held_out = Samples::new(&rows, labels, classes);
        let head = streaming.head(true, Some(&held_out), 0.05, &Cancel::default()).unwrap();
        assert_eq!(head.classes(), ["a", "b", "c"]);
        let report = crate::train::evaluate(&head, &held_out, &Cancel::default()).unwrap();
        assert!(report.accuracy > 0.95, "{}", report.accuracy);
        let unknown = (60..120).filter(|&i| head.predict(&embedding(i)).unwrap().unknown);
        assert!(unknown.count() <= 3);
    }

    #[test]
    fn a_sample_of_one_class_more_than_can_be_learnt_is_passed_over_and_the_others_go_on() {
        let mut streaming = StreamingLda::new(1).unwrap();
        for class in 0..MAX_LEARNT_CLASSES {
            assert!(streaming.add(&[1.0], &format!("class {class}")).unwrap());
        }
        let before = streaming.clone();
        assert!(!streaming.add(&[1.0], "one more").unwrap());
        assert_eq!(streaming, before);
        assert!(streaming.add(&[1.0], "class 7").unwrap());
        assert_eq!(streaming.counts()[7], 2.0);
    }

    #[test]
    fn a_nan_or_a_wrong_width_changes_nothing() {
        let mut streaming = learnt(5);
        let before = streaming.clone();
        assert!(streaming.add(&[0.0; 3], "a").is_err());
        assert!(streaming.add(&[f32::NAN; 12], "a").is_err());
        assert!(streaming.add(&embedding(0), "").is_err());
        assert_eq!(streaming, before);
    }
}
