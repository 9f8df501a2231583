//! The number that an explanation explains: a class's logit or probability, or a difference.

use super::request::{ClassName, ClassSpec};
use super::{ExplainError, Forward};
use crate::graph::Network;
use crate::heads::{Head, Kind, sigmoid, softmax};

/// Which of the classifier's numbers is explained. The two give different maps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ScoreKind {
    /// Before softmax or sigmoid, as in the Grad-CAM paper.
    #[default]
    Logit,
    /// After it, as in the Keras tutorial.
    Probability,
}

/// What turns a forward run into logits: the network's own classifier or a trained head.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The head; `None` for the network's own classifier.
    pub head: Option<&'a Head>,
    /// Names of the classes; may be empty.
    pub labels: &'a [&'a str],
}

impl Judge<'_> {
    /// One number a class.
    pub fn logits(&self, forward: &Forward) -> Result<Vec<f32>, ExplainError> {
        match self.head {
            Some(head) => Ok(head.logits(forward.embedding())?),
            None => Ok(forward.logits().to_vec()),
        }
    }

    /// Whether a probability is the logistic function of its own logit and not the softmax over all:
    /// of a multi-label head, and of a network that ends in a sigmoid.
    pub fn has_independent_classes(&self, network: &Network) -> bool {
        match self.head {
            Some(head) => head.kind() == Kind::MultiLabel,
            None => network.classifier().is_some_and(|own| own.is_of_independent_classes()),
        }
    }

    /// The class that `spec` names, and the one that it is set against, given the logits of this
    /// picture.
    pub fn resolve(
        &self,
        spec: &ClassSpec,
        logits: &[f32],
    ) -> Result<(usize, Option<usize>), ExplainError> {
        if logits.is_empty() {
            return Err(ExplainError::NoClassifier);
        }
        if logits.iter().any(|logit| !logit.is_finite()) {
            return Err(ExplainError::NotFinite("classifier's answer"));
        }
        Ok(match spec {
            ClassSpec::Top => {
                let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
                ((0..logits.len()).fold(0, best), None)
            }
            ClassSpec::One(name) => match self.index(name, logits.len()) {
                Err(unknown @ ExplainError::UnknownLabel(_)) => {
                    self.split(name, logits.len()).ok_or(unknown)?
                }
                index => (index?, None),
            },
            ClassSpec::Difference(first, second) => {
                let second = self.index(second, logits.len())?;
                (self.index(first, logits.len())?, Some(second))
            }
        })
    }

    /// `label:tusker-101` where no class is called `tusker-101`, but one `tusker`: the difference of it
    /// and class 101.
    fn split(&self, name: &ClassName, classes: usize) -> Option<(usize, Option<usize>)> {
        let ClassName::Label(text) = name else { return None };
        let (label, index) = text.rsplit_once('-')?;
        let index = index.parse().ok().filter(|index| *index < classes)?;
        Some((self.labelled(label).ok()?, Some(index)))
    }

    fn index(&self, name: &ClassName, classes: usize) -> Result<usize, ExplainError> {
        match name {
            ClassName::Index(index) if *index < classes => Ok(*index),
            ClassName::Index(index) => Err(ExplainError::ClassRange { index: *index, classes }),
            ClassName::Label(label) => self.labelled(label),
        }
    }

    /// Whether exactly one class has this label.
    pub fn knows(&self, label: &str) -> bool {
        self.labelled(label).is_ok()
    }

    /// The class with this label, or else with this synonym; case does not matter.
    fn labelled(&self, wanted: &str) -> Result<usize, ExplainError> {
        let same = |label: &str| label.trim().to_lowercase() == wanted.trim().to_lowercase();
        let whole = |label: &str| same(label);
        let synonym = |label: &str| label.split(',').any(same);
        for matches in [&whole as &dyn Fn(&str) -> bool, &synonym] {
            let found: Vec<usize> =
                (0..self.labels.len()).filter(|index| matches(self.labels[*index])).collect();
            match found.as_slice() {
                [] => {}
                [index] => return Ok(*index),
                _ => {
                    let label = wanted.to_string();
                    return Err(ExplainError::AmbiguousLabel { label, indices: found });
                }
            }
        }
        Err(ExplainError::UnknownLabel(wanted.to_string()))
    }
}

/// A function of the logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    /// The class explained.
    pub class: usize,
    /// The class that it is set against.
    pub against: Option<usize>,
    /// Logit or probability.
    pub kind: ScoreKind,
    /// As [`Judge::has_independent_classes`] says.
    pub independent: bool,
}

impl Score {
    /// The classes, to be asked for again.
    pub fn spec(&self) -> ClassSpec {
        let class = ClassName::Index(self.class);
        match self.against {
            Some(against) => ClassSpec::Difference(class, ClassName::Index(against)),
            None => ClassSpec::One(class),
        }
    }

    /// The score itself.
    pub fn value(&self, logits: &[f32]) -> f32 {
        let of = |numbers: &[f32]| {
            numbers[self.class] - self.against.map_or(0.0, |against| numbers[against])
        };
        match self.kind {
            ScoreKind::Logit => of(logits),
            ScoreKind::Probability => of(&self.probabilities(logits)),
        }
    }

    fn probabilities(&self, logits: &[f32]) -> Vec<f32> {
        if self.independent {
            logits.iter().map(|&logit| sigmoid(logit)).collect()
        } else {
            softmax(logits)
        }
    }

    /// Its derivative by each logit: for a probability `p_c (1[i = c] - p_i)`, for independent
    /// classes `p_c (1 - p_c)` at its own logit.
    pub fn gradient(&self, logits: &[f32]) -> Vec<f32> {
        let mut gradient = vec![0.0; logits.len()];
        let probabilities = match self.kind {
            ScoreKind::Logit => None,
            ScoreKind::Probability => Some(self.probabilities(logits)),
        };
        let signed = std::iter::once((self.class, 1.0)).chain(self.against.map(|b| (b, -1.0)));
        for (class, sign) in signed {
            let Some(probabilities) = &probabilities else {
                gradient[class] += sign;
                continue;
            };
            let p = probabilities[class];
            if self.independent {
                gradient[class] += sign * p * (1.0 - p);
                continue;
            }
            for (g, q) in gradient.iter_mut().zip(probabilities) {
                *g -= sign * p * q;
            }
            gradient[class] += sign * p;
        }
        gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: [&str; 4] = ["tabby, tabby cat", "crane", "Crane", "tiger cat"];

    #[test]
    fn labels_are_found_whole_or_by_synonym_and_doubles_are_refused() {
        let judge = Judge { head: None, labels: &LABELS };
        assert_eq!(judge.labelled("tabby cat").unwrap(), 0);
        assert_eq!(judge.labelled("Tabby, tabby cat").unwrap(), 0);
        assert_eq!(judge.labelled("tiger cat").unwrap(), 3);
        assert!(matches!(judge.labelled("dog"), Err(ExplainError::UnknownLabel(_))));
        let Err(ExplainError::AmbiguousLabel { indices, .. }) = judge.labelled("crane") else {
            panic!("two classes are cranes");
        };
        assert_eq!(indices, [1, 2]);
    }

    #[test]
    fn a_label_with_a_number_behind_it_is_itself_or_else_a_difference() {
        let labels = ["7-up", "7", "tusker", "mig-29"];
        let judge = Judge { head: None, labels: &labels };
        let resolved = |text: &str| judge.resolve(&text.parse().unwrap(), &[0.0; 4]);
        assert_eq!(resolved("label:mig-29").unwrap(), (3, None));
        assert_eq!(resolved("label:tusker-1").unwrap(), (2, Some(1)));
        assert!(matches!(resolved("label:tusker-4"), Err(ExplainError::UnknownLabel(_))));
        assert!(matches!(resolved("label:lion-1"), Err(ExplainError::UnknownLabel(_))));
    }

    #[test]
    fn a_gradient_agrees_with_central_differences() {
        let logits = [0.3_f32, -1.0, 2.0, 0.7];
        for kind in [ScoreKind::Logit, ScoreKind::Probability] {
            for (against, independent) in [(None, false), (Some(1), false), (Some(1), true)] {
                let score = Score { class: 2, against, kind, independent };
                for (index, slope) in score.gradient(&logits).iter().enumerate() {
                    let shifted = |h: f32| {
                        let mut moved = logits;
                        moved[index] += h;
                        score.value(&moved)
                    };
                    let difference = (shifted(0.01) - shifted(-0.01)) / 0.02;
                    assert!((difference - slope).abs() < 1e-4, "{kind:?} {against:?} {index}");
                }
            }
        }
    }

    #[test]
    fn a_class_out_of_range_and_a_logit_that_is_nan_are_errors() {
        let judge = Judge { head: None, labels: &[] };
        let spec = ClassSpec::One(ClassName::Index(4));
        let result = judge.resolve(&spec, &[0.0; 4]);
        assert!(matches!(result, Err(ExplainError::ClassRange { index: 4, classes: 4 })));
        let result = judge.resolve(&ClassSpec::Top, &[0.0, f32::NAN]);
        assert!(matches!(result, Err(ExplainError::NotFinite(_))));
        let result = judge.resolve(&ClassSpec::Top, &[]);
        assert!(matches!(result, Err(ExplainError::NoClassifier)));
    }
}
