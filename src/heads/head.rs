//! A head: transform, classifier, temperature and novelty model together.

use super::labels::check_labels;
use super::{
    Classifier, HeadError, Kind, Linear, Matrix, Novelty, NoveltyScore, Provenance, Transform,
};

/// What a head says of one embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// One a class, in the order of the head's classes; already divided by the temperature.
    pub logits: Vec<f32>,
    /// Softmax of the logits; for a multi-label head the sigmoid of each.
    pub probabilities: Vec<f32>,
    /// How strange the embedding is, if the head has a novelty model; higher is stranger.
    pub novelty: Option<f32>,
    /// Whether it is stranger than the head's threshold.
    pub unknown: bool,
}

impl Prediction {
    /// Index of the most probable class; the first of equals.
    pub fn top(&self) -> usize {
        let mut best = 0;
        for (index, value) in self.logits.iter().enumerate() {
            if *value > self.logits[best] {
                best = index;
            }
        }
        best
    }
}

/// The logits as an affine function of the raw embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearView {
    /// Classes x width, with transform and temperature folded in.
    pub weights: Matrix,
    /// One a class.
    pub bias: Vec<f32>,
}

/// A trained classifier on a backbone's embedding. Built only through [`Head::new`] and
/// [`Head::from_bytes`], so its parts always fit each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub(super) kind: Kind,
    pub(super) classes: Vec<String>,
    pub(super) transform: Transform,
    pub(super) classifier: Classifier,
    pub(super) temperature: f32,
    pub(super) novelty: Option<Novelty>,
    pub(super) provenance: Provenance,
}

impl Head {
    /// Puts a head together: temperature 1, no novelty model, no provenance.
    ///
    /// # Errors
    /// [`HeadError`] if labels, transform and classifier do not fit, or a parameter is not finite.
    pub fn new(
        kind: Kind,
        classes: Vec<String>,
        transform: Transform,
        classifier: Classifier,
    ) -> Result<Self, HeadError> {
        check_labels(&classes)?;
        if classes.len() != classifier.classes() {
            return Err(HeadError::Classes {
                expected: classifier.classes(),
                found: classes.len(),
            });
        }
        if !transform.fits(classifier.width()) {
            return Err(HeadError::Inconsistent(
                "the feature transform is not as wide as the classifier".into(),
            ));
        }
        classifier.check_finite()?;
        Ok(Self {
            kind,
            classes,
            transform,
            classifier,
            temperature: 1.0,
            novelty: None,
            provenance: Provenance::default(),
        })
    }

    /// The same head with its scores divided by `temperature`.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] unless it is positive and finite.
    pub fn with_temperature(mut self, temperature: f32) -> Result<Self, HeadError> {
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(HeadError::Inconsistent(format!("temperature {temperature}")));
        }
        self.temperature = temperature;
        Ok(self)
    }

    /// The same head with a novelty model.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] if the model is for another width, or its threshold is NaN.
    pub fn with_novelty(mut self, novelty: Novelty) -> Result<Self, HeadError> {
        let fits = match &novelty.score {
            NoveltyScore::Mahalanobis(model) => model.means().columns() == self.width(),
            NoveltyScore::Energy => true,
        };
        if !fits || !novelty.threshold.is_finite() {
            return Err(HeadError::Inconsistent("the novelty model does not fit the head".into()));
        }
        self.novelty = Some(novelty);
        Ok(self)
    }

    /// The same head with its origin recorded.
    #[must_use]
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }

    /// How it was trained.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Labels, by class index.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Width of the embedding that it takes.
    pub fn width(&self) -> usize {
        self.classifier.width()
    }

    /// Bytes that its parameters take in memory, about.
    pub fn bytes_in_memory(&self) -> usize {
        let novelty = match self.novelty.as_ref().map(|novelty| &novelty.score) {
            Some(NoveltyScore::Mahalanobis(model)) => {
                size_of_val(model.means().values()) + size_of_val(model.whitening())
            }
            Some(NoveltyScore::Energy) | None => 0,
        };
        let linear = |part: &Linear| size_of_val(part.weights().values());
        novelty
            + match &self.classifier {
                Classifier::Linear(part) => linear(part),
                Classifier::Neighbours(part) => size_of_val(part.rows()),
                Classifier::Kernel(part) => size_of_val(part.landmarks()) + linear(part.output()),
                Classifier::Perceptron(part) => linear(part.hidden()) + linear(part.output()),
            }
    }

    /// What is done to an embedding first.
    pub fn transform(&self) -> &Transform {
        &self.transform
    }

    /// The parameters.
    pub fn classifier(&self) -> &Classifier {
        &self.classifier
    }

    /// What the scores are divided by.
    pub fn temperature(&self) -> f32 {
        self.temperature
    }

    /// The novelty model, if there is one.
    pub fn novelty(&self) -> Option<&Novelty> {
        self.novelty.as_ref()
    }

    /// Where it came from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Logits of one embedding, one a class.
    ///
    /// # Errors
    /// [`HeadError::Width`], [`HeadError::NotFinite`].
    pub fn logits(&self, embedding: &[f32]) -> Result<Vec<f32>, HeadError> {
        self.check(embedding)?;
        let mut x = embedding.to_vec();
        self.transform.apply(&mut x);
        let mut logits = self.classifier.scores(&x);
        for logit in &mut logits {
            *logit /= self.temperature;
        }
        Ok(logits)
    }

    /// Probabilities from this head's logits.
    pub fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        if self.kind == Kind::MultiLabel {
            logits.iter().map(|&logit| sigmoid(logit)).collect()
        } else {
            softmax(logits)
        }
    }

    /// Everything that the head says of one embedding.
    ///
    /// # Errors
    /// [`HeadError::Width`], [`HeadError::NotFinite`].
    pub fn predict(&self, embedding: &[f32]) -> Result<Prediction, HeadError> {
        let logits = self.logits(embedding)?;
        let probabilities = self.probabilities(&logits);
        let novelty = self.novelty.as_ref().map(|model| model.score(embedding, &logits));
        let unknown = match (&self.novelty, novelty) {
            // A score that overflowed is as strange as can be.
            (Some(model), Some(score)) => score.is_nan() || score > model.threshold,
            _ => false,
        };
        Ok(Prediction { logits, probabilities, novelty, unknown })
    }

    /// Gradient of `sum(cotangent * logits)` with respect to the raw embedding.
    ///
    /// # Errors
    /// [`HeadError::Width`], [`HeadError::NotFinite`], [`HeadError::Classes`].
    pub fn vjp(&self, embedding: &[f32], cotangent: &[f32]) -> Result<Vec<f32>, HeadError> {
        self.check(embedding)?;
        if cotangent.len() != self.classes.len() {
            return Err(HeadError::Classes {
                expected: self.classes.len(),
                found: cotangent.len(),
            });
        }
        let mut x = embedding.to_vec();
        self.transform.apply(&mut x);
        let scaled: Vec<f32> = cotangent.iter().map(|c| c / self.temperature).collect();
        let mut gradient = self.classifier.vjp(&x, &scaled);
        self.transform.vjp(embedding, &mut gradient);
        Ok(gradient)
    }

    /// The weights with respect to the raw embedding, if the logits are an affine function of it:
    /// what the closed form of Grad-CAM needs. `None` for k-NN, perceptrons, and heads that
    /// normalise lengths.
    pub fn linear_view(&self) -> Option<LinearView> {
        let Classifier::Linear(linear) = &self.classifier else { return None };
        let (scale, offset) = self.transform.affine(self.width())?;
        let mut weights = linear.weights().clone();
        let mut bias = linear.bias().to_vec();
        for class in 0..weights.rows() {
            let row = weights.row_mut(class);
            bias[class] += super::dot(row, &offset);
            bias[class] /= self.temperature;
            for (value, s) in row.iter_mut().zip(&scale) {
                *value *= s / self.temperature;
            }
        }
        Some(LinearView { weights, bias })
    }

    fn check(&self, embedding: &[f32]) -> Result<(), HeadError> {
        if embedding.len() != self.width() {
            return Err(HeadError::Width { expected: self.width(), found: embedding.len() });
        }
        match embedding.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(HeadError::NotFinite { index }),
            None => Ok(()),
        }
    }
}

/// `log(sum(exp(x)))` without overflow.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return largest;
    }
    largest + x.iter().map(|v| (v - largest).exp()).sum::<f32>().ln()
}

/// Softmax: positive, sums to 1.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut out: Vec<f32> = logits.iter().map(|v| (v - largest).exp()).collect();
    let sum: f32 = out.iter().sum();
    out.iter_mut().for_each(|v| *v /= sum);
    out
}

/// The logistic function, 0 to 1.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heads::{Kernel, Linear, Neighbours, Perceptron, Step};

    fn labels(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("class {i}")).collect()
    }

    fn linear(rows: usize, columns: usize, seed: f32) -> Linear {
        let values = (0..rows * columns).map(|i| (i as f32 * 1.7 + seed).sin()).collect();
        let bias = (0..rows).map(|i| (i as f32 + seed).cos()).collect();
        Linear::new(Matrix::new(rows, columns, values).unwrap(), bias).unwrap()
    }

    fn standardise() -> Transform {
        let mean = vec![0.1, -0.2, 0.3, 0.0];
        Transform::new(vec![Step::Standardise { mean, scale: vec![2.0, 0.5, 1.0, 3.0] }]).unwrap()
    }

    fn heads() -> Vec<Head> {
        let unit = Transform::new(vec![Step::UnitLength]).unwrap();
        let rows = Matrix::new(3, 4, linear(3, 4, 2.0).weights().values().to_vec()).unwrap();
        let knn = Neighbours::new(&rows, vec![0, 1, 2], 3, 3, 0.2).unwrap();
        let landmarks = [0.5, 0.5, 0.5, 0.5, 0.6, 0.0, 0.8, 0.0].map(half::f16::from_f32).to_vec();
        let kernel = Kernel::new(landmarks, 4, 0.4, linear(3, 2, 0.7)).unwrap();
        let mlp = Perceptron::new(linear(5, 4, 0.3), linear(3, 5, 0.9)).unwrap();
        let make = |kind, transform: &Transform, classifier| {
            Head::new(kind, labels(3), transform.clone(), classifier)
                .unwrap()
                .with_temperature(1.7)
                .unwrap()
        };
        vec![
            make(Kind::Softmax, &standardise(), Classifier::Linear(linear(3, 4, 0.0))),
            make(Kind::Prototype, &unit, Classifier::Linear(linear(3, 4, 0.5))),
            make(Kind::Knn, &standardise(), Classifier::Neighbours(knn)),
            make(Kind::Softmax, &standardise(), Classifier::Kernel(kernel)),
            make(Kind::Mlp, &unit, Classifier::Perceptron(mlp)),
        ]
    }

    #[test]
    fn the_gradient_of_every_kind_is_that_of_central_differences() {
        let x = [0.5_f32, -0.3, 0.8, 0.2];
        let cotangent = [1.0_f32, -0.4, 0.2];
        for head in heads() {
            let gradient = head.vjp(&x, &cotangent).unwrap();
            for i in 0..4 {
                let value = |delta: f32| {
                    let mut y = x;
                    y[i] += delta;
                    f64::from(super::super::dot(&head.logits(&y).unwrap(), &cotangent))
                };
                let numeric = (value(1e-3) - value(-1e-3)) / 2e-3;
                let error = (numeric - f64::from(gradient[i])).abs();
                assert!(error < 1e-2 * numeric.abs().max(0.5), "{} feature {i}", head.kind());
            }
        }
    }

    #[test]
    fn the_linear_view_gives_the_same_logits_as_the_head() {
        let head = &heads()[0];
        let view = head.linear_view().unwrap();
        let x = [0.5_f32, -0.3, 0.8, 0.2];
        let logits = head.logits(&x).unwrap();
        for class in 0..3 {
            let value = super::super::dot(view.weights.row(class), &x) + view.bias[class];
            assert!((value - logits[class]).abs() < 1e-5);
        }
        assert!(heads()[1..].iter().all(|head| head.linear_view().is_none()));
    }

    #[test]
    fn a_wrong_width_and_a_nan_are_refused() {
        for head in heads() {
            assert_eq!(head.predict(&[0.0; 3]), Err(HeadError::Width { expected: 4, found: 3 }));
            let nan = [0.0, f32::NAN, 0.0, 0.0];
            assert_eq!(head.predict(&nan), Err(HeadError::NotFinite { index: 1 }));
        }
    }

    #[test]
    fn what_lies_beyond_the_threshold_is_unknown() {
        let novelty =
            Novelty { score: NoveltyScore::Energy, threshold: -1.0, false_alarm_rate: 0.05 };
        let one = Linear::new(Matrix::new(2, 1, vec![1.0, -1.0]).unwrap(), vec![0.0; 2]).unwrap();
        let head =
            Head::new(Kind::Softmax, labels(2), Transform::default(), Classifier::Linear(one))
                .unwrap()
                .with_novelty(novelty)
                .unwrap();
        assert!(head.predict(&[0.0]).unwrap().unknown);
        assert!(!head.predict(&[9.0]).unwrap().unknown);
    }

    #[test]
    fn huge_logits_give_finite_probabilities() {
        let p = softmax(&[1e30, 0.0, -1e30]);
        assert_eq!(p, vec![1.0, 0.0, 0.0]);
        assert!(log_sum_exp(&[1e30, 1e30]).is_finite());
    }
}
