//! One way of fitting a head, and the ways that are tried.

use serde::{Deserialize, Serialize};

use super::blocks::{read_all, read_block};
use super::covariance::moments;
use super::lbfgs::{self, Stop};
use super::lda::Shrinkage;
use super::logistic::{self, LogisticOptions};
use super::perceptron::{self, PerceptronOptions};
use super::rows::{DenseRows, Rows};
use super::{Options, Samples, TrainError, kernel, lda, nearest, prototypes};
use crate::base::cancel::Cancel;
use crate::heads::{Classifier, Kind, Linear, Step, Transform};

/// Up to this many bytes, transformed samples are kept as f32 for the time of a fit.
const DENSE_BYTES: usize = 64 << 20;

/// Working memory that a fit may take to be tried by `auto`, in bytes.
const AFFORDABLE: usize = 200 << 20;

/// What is done to the embedding first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Features {
    /// Nothing.
    Raw,
    /// Length 1.
    UnitLength,
    /// Mean 0 and variance 1 in every feature.
    Standardised,
    /// Length 1, then mean 0 and variance 1.
    UnitLengthStandardised,
    /// The values of a Gaussian kernel at the samples.
    Kernel,
    /// The same with half the bandwidth.
    NarrowKernel,
}

impl Features {
    /// Whether a kernel takes the place of the features.
    pub fn is_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::NarrowKernel)
    }
}

/// What a softmax head minimises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy: softmax regression.
    CrossEntropy,
    /// Squared distance to 1 for the true class and 0 for the others (Rifkin and Klautau 2004, "In
    /// defense of one-vs-all classification"); softmax of the scores, with the temperature that is
    /// fitted afterwards, makes probabilities of them. On a kernel only.
    Squares,
}

/// One way of fitting a head.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recipe {
    /// Kind of head.
    pub kind: Kind,
    /// Features that it sees.
    pub features: Features,
    /// What it minimises; only softmax heads have a choice.
    pub loss: Loss,
    /// Inverse strength of the penalty; only softmax heads have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inverse_penalty: Option<f64>,
}

impl std::fmt::Display for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let features = match self.features {
            Features::Raw => "raw features",
            Features::UnitLength => "unit-length features",
            Features::Standardised => "standardised features",
            Features::UnitLengthStandardised => "unit-length standardised features",
            Features::Kernel => "a Gaussian kernel",
            Features::NarrowKernel => "a narrow Gaussian kernel",
        };
        let by = if self.loss == Loss::Squares { " by least squares" } else { "" };
        write!(f, "{}{by} on {features}", self.kind)?;
        self.inverse_penalty.map_or(Ok(()), |c| write!(f, ", C = {c}"))
    }
}

/// Kinds that `auto` tries, cheapest first, so that equals are decided for the simpler one.
const AUTO: [Kind; 4] = [Kind::Prototype, Kind::Lda, Kind::Softmax, Kind::Knn];

/// The recipes worth trying for a kind, or for `auto` if `kind` is `None`.
pub fn candidates(options: &Options) -> Vec<Recipe> {
    let kinds = options.kind.map_or(AUTO.to_vec(), |kind| vec![kind]);
    kinds.into_iter().flat_map(|kind| of_kind(kind, options)).collect()
}

fn of_kind(kind: Kind, options: &Options) -> Vec<Recipe> {
    use Features::{Kernel, NarrowKernel, Standardised, UnitLength, UnitLengthStandardised};
    let one = |features| Recipe { kind, features, loss: Loss::CrossEntropy, inverse_penalty: None };
    let or = |usual| one(options.features.unwrap_or(usual));
    let penalised = |recipe: Recipe, penalties: &[f64]| -> Vec<Recipe> {
        penalties.iter().map(|&c| Recipe { inverse_penalty: Some(c), ..recipe }).collect()
    };
    match kind {
        // Strongest penalty first, so that equals are decided for the simpler head.
        Kind::Softmax | Kind::MultiLabel => match (options.inverse_penalty, options.features) {
            (Some(c), _) => penalised(or(UnitLength), &[c]),
            (None, Some(UnitLength)) => penalised(one(UnitLength), &[10.0, 30.0, 100.0]),
            (None, Some(features)) => penalised(one(features), &[0.001, 0.01, 0.1]),
            (None, None) => [
                penalised(one(UnitLength), &[10.0, 30.0, 100.0]),
                penalised(one(UnitLengthStandardised), &[0.001, 0.01]),
                penalised(one(Kernel), &[10.0, 30.0]),
                penalised(Recipe { loss: Loss::Squares, ..one(Kernel) }, &[3.0, 10.0, 30.0]),
                penalised(Recipe { loss: Loss::Squares, ..one(NarrowKernel) }, &[3.0, 10.0, 30.0]),
            ]
            .concat(),
        },
        Kind::Prototype if options.features.is_some_and(|f| f != UnitLength) => Vec::new(),
        Kind::Prototype => vec![one(UnitLength)],
        Kind::Lda | Kind::Slda | Kind::Knn => vec![or(UnitLength)],
        Kind::Mlp => vec![or(Standardised)],
    }
}

impl Recipe {
    /// Whether `auto` may try this: a device has little memory, and many classes or samples can make a
    /// fit take more of it than there is. A recipe that was asked for is fitted all the same.
    pub fn is_affordable(&self, samples: &Samples<'_>) -> bool {
        let (count, width) = (samples.len(), samples.rows.width());
        let bytes = match self.kind {
            Kind::Knn => count * width * (size_of::<f32>() + size_of::<half::f16>()),
            Kind::Softmax if self.features.is_kernel() => {
                kernel::working_bytes(count, samples.classes.len())
            }
            Kind::Softmax | Kind::MultiLabel => {
                lbfgs::working_bytes(samples.classes.len() * (width + 1))
            }
            Kind::Prototype | Kind::Lda | Kind::Slda | Kind::Mlp => 0,
        };
        bytes <= AFFORDABLE
    }
}

/// The fitted parts of a head.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// Applied to the raw embedding.
    pub transform: Transform,
    /// Applied to what the transform gives.
    pub classifier: Classifier,
}

impl Fitted {
    /// Scores of the rows of `samples`, row-major, one a class.
    ///
    /// # Errors
    /// [`TrainError::Cancelled`].
    pub fn scores(&self, samples: &Samples<'_>, cancel: &Cancel) -> Result<Vec<f32>, TrainError> {
        let mut row = vec![0.0_f32; samples.rows.width()];
        let mut scores = Vec::with_capacity(samples.len() * samples.classes.len());
        for index in 0..samples.len() {
            cancel.check()?;
            read_block(samples.rows, &self.transform, index, &mut row);
            scores.extend(self.classifier.scores(&row));
        }
        Ok(scores)
    }
}

/// Fits `recipe` from nothing; `progress` hears of each iteration and its loss, of kinds that have any.
///
/// # Errors
/// What the kind's own function returns.
pub fn fit(
    recipe: &Recipe,
    samples: &Samples<'_>,
    options: &Options,
    stop: Stop,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Fitted, TrainError> {
    let transform = transform(recipe.features, samples.rows, cancel)?;
    let seed_of_landmarks = options.seed;
    let classifier = match recipe.kind {
        Kind::Lda => {
            let shrinkage = Shrinkage::LedoitWolfByClass;
            Classifier::Linear(lda::fit(samples, &transform, shrinkage, cancel)?)
        }
        Kind::Slda => {
            let shrinkage = Shrinkage::OracleApproximating;
            Classifier::Linear(lda::fit(samples, &transform, shrinkage, cancel)?)
        }
        Kind::Prototype => Classifier::Linear(prototypes::fit(samples, cancel)?),
        Kind::Knn => {
            let count = options.neighbours;
            Classifier::Neighbours(nearest::fit(samples, &transform, count, cancel)?)
        }
        Kind::Softmax => {
            let options = LogisticOptions {
                inverse_penalty: recipe.inverse_penalty.unwrap_or(1.0),
                label_smoothing: f64::from(options.label_smoothing),
                stop,
            };
            if recipe.features.is_kernel() {
                let width = if recipe.features == Features::NarrowKernel { 0.5 } else { 1.0 };
                let (seed, loss) = (seed_of_landmarks, recipe.loss);
                Classifier::Kernel(kernel::fit(
                    samples, width, loss, &options, seed, cancel, progress,
                )?)
            } else {
                Classifier::Linear(fit_softmax(samples, &transform, &options, cancel, progress)?)
            }
        }
        Kind::Mlp => {
            let options = PerceptronOptions {
                hidden: options.hidden,
                label_smoothing: options.label_smoothing,
                seed: options.seed,
                ..PerceptronOptions::default()
            };
            let fitted = perceptron::fit(samples, &transform, &options, cancel, progress)?;
            Classifier::Perceptron(fitted)
        }
        Kind::MultiLabel => {
            return Err(TrainError::Invalid(
                "a multi-label head needs sets of labels; use fit_multi_label".into(),
            ));
        }
    };
    Ok(Fitted { transform, classifier })
}

fn fit_softmax(
    samples: &Samples<'_>,
    transform: &Transform,
    options: &LogisticOptions,
    cancel: &Cancel,
    progress: &mut dyn FnMut(usize, f64),
) -> Result<Linear, TrainError> {
    let bytes = samples.len() * samples.rows.width() * size_of::<f32>();
    if bytes > DENSE_BYTES {
        return Ok(logistic::fit_softmax(samples, transform, options, cancel, progress)?.linear);
    }
    let values = read_all(samples.rows, transform, cancel)?;
    let rows = DenseRows::new(&values, samples.rows.width())
        .ok_or_else(|| TrainError::Invalid("an embedding is 0 wide".into()))?;
    let dense = Samples {
        rows: &rows,
        labels: samples.labels.clone(),
        weights: samples.weights.clone(),
        classes: samples.classes.clone(),
        copy_of: Vec::new(),
    };
    let none = Transform::default();
    Ok(logistic::fit_softmax(&dense, &none, options, cancel, progress)?.linear)
}

/// The transform that gives `features`, with means and scales of `rows`.
///
/// # Errors
/// [`TrainError::Cancelled`].
pub fn transform(
    features: Features,
    rows: &dyn Rows,
    cancel: &Cancel,
) -> Result<Transform, TrainError> {
    let mut steps = Vec::new();
    if matches!(features, Features::UnitLength | Features::UnitLengthStandardised) {
        steps.push(Step::UnitLength);
    }
    if matches!(features, Features::Standardised | Features::UnitLengthStandardised) {
        let before = Transform::new(steps.clone())?;
        let all: Vec<usize> = (0..rows.len()).collect();
        let (mean, variance) = moments(rows, &before, &all, cancel)?;
        let scale = |v: &f64| if *v > 1e-20 { (1.0 / v.sqrt()) as f32 } else { 1.0 };
        steps.push(Step::Standardise {
            mean: mean.iter().map(|&m| m as f32).collect(),
            scale: variance.iter().map(scale).collect(),
        });
    }
    Ok(Transform::new(steps)?)
}
