//! A head as a file: safetensors, with everything that is not a tensor as JSON in its metadata.
//!
//! The metadata has one key, `graftd`, whose value is a [`Description`] as JSON text (one key,
//! because safetensors writes several in no particular order and equal heads must be equal bytes).
//! Tensors: `classifier.*`, `transform.<step>.*`, `novelty.*`. Whatever is read is checked as if a
//! stranger had sent it: sizes against each other, every number for being finite, nothing left over.

use std::borrow::Cow;
use std::collections::HashMap;

use half::f16;
use safetensors::tensor::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use super::labels::MAX_CLASSES;
use super::{
    Classifier, Head, HeadError, Kernel, Kind, Linear, Mahalanobis, Matrix, Neighbours, Novelty,
    NoveltyScore, Perceptron, Provenance, Step, Transform,
};

const METADATA_KEY: &str = "graftd";
const FORMAT: u32 = 1;
/// Largest file that is read, in bytes.
const MAX_BYTES: usize = 1 << 30;
/// Longest description, in bytes of JSON.
const MAX_DESCRIPTION_BYTES: usize = 8 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    kind: Kind,
    classes: Vec<String>,
    transform: Vec<StepName>,
    classifier: ClassifierDescription,
    temperature: f32,
    novelty: Option<NoveltyDescription>,
    provenance: Provenance,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum StepName {
    UnitLength,
    Standardise,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case", deny_unknown_fields)]
enum ClassifierDescription {
    Linear,
    Neighbours { neighbours: usize, bandwidth: f32 },
    Kernel { bandwidth: f32 },
    Perceptron,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoveltyDescription {
    score: ScoreDescription,
    threshold: f32,
    false_alarm_rate: f32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ScoreDescription {
    Mahalanobis { transform: Vec<StepName> },
    Energy,
}

/// A tensor on its way out.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

fn halves(shape: &[usize], values: &[f16]) -> Tensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Tensor { dtype: Dtype::F16, shape: shape.to_vec(), bytes }
}

impl Head {
    /// The head as a safetensors file. Equal heads give equal bytes.
    ///
    /// # Errors
    /// [`HeadError::Format`] if the provenance cannot be written as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HeadError> {
        let mut tensors: Vec<(String, Tensor)> = Vec::new();
        let transform = write_transform("transform", &self.transform, &mut tensors);
        let classifier = match &self.classifier {
            Classifier::Linear(linear) => {
                write_linear("classifier", linear, &mut tensors);
                ClassifierDescription::Linear
            }
            Classifier::Perceptron(perceptron) => {
                write_linear("classifier.hidden", perceptron.hidden(), &mut tensors);
                write_linear("classifier.output", perceptron.output(), &mut tensors);
                ClassifierDescription::Perceptron
            }
            Classifier::Kernel(kernel) => {
                write_linear("classifier.output", kernel.output(), &mut tensors);
                let shape = [kernel.output().weights().columns(), kernel.width()];
                tensors.push(("classifier.landmarks".into(), halves(&shape, kernel.landmarks())));
                ClassifierDescription::Kernel { bandwidth: kernel.bandwidth() }
            }
            Classifier::Neighbours(neighbours) => {
                let shape = [neighbours.labels().len(), neighbours.width()];
                tensors.push(("classifier.rows".into(), halves(&shape, neighbours.rows())));
                let bytes = neighbours.labels().iter().flat_map(|v| v.to_le_bytes()).collect();
                let labels = Tensor { dtype: Dtype::U32, shape: vec![shape[0]], bytes };
                tensors.push(("classifier.labels".into(), labels));
                ClassifierDescription::Neighbours {
                    neighbours: neighbours.neighbours(),
                    bandwidth: neighbours.bandwidth(),
                }
            }
        };
        let novelty = self.novelty.as_ref().map(|novelty| NoveltyDescription {
            score: match &novelty.score {
                NoveltyScore::Energy => ScoreDescription::Energy,
                NoveltyScore::Mahalanobis(model) => {
                    let shape = [model.means().rows(), model.means().columns()];
                    tensors.push(("novelty.means".into(), floats(&shape, model.means().values())));
                    let packed = [model.whitening().len()];
                    tensors.push(("novelty.whitening".into(), halves(&packed, model.whitening())));
                    ScoreDescription::Mahalanobis {
                        transform: write_transform(
                            "novelty.transform",
                            model.transform(),
                            &mut tensors,
                        ),
                    }
                }
            },
            threshold: novelty.threshold,
            false_alarm_rate: novelty.false_alarm_rate,
        });
        let description = Description {
            format: FORMAT,
            kind: self.kind,
            classes: self.classes.clone(),
            transform,
            classifier,
            temperature: self.temperature,
            novelty,
            provenance: self.provenance.clone(),
        };
        let json = serde_json::to_string(&description).map_err(|e| bad(e.to_string()))?;
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize(tensors, Some(metadata)).map_err(|e| bad(e.to_string()))
    }

    /// Reads what [`Head::to_bytes`] wrote; `bytes` may come from anyone.
    ///
    /// # Errors
    /// [`HeadError`] for anything but a whole, consistent head of finite numbers.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, HeadError> {
        if bytes.len() > MAX_BYTES {
            return Err(bad(format!("{} bytes; at most {MAX_BYTES} are read", bytes.len())));
        }
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| bad(e.to_string()))?;
        let json = metadata
            .metadata()
            .as_ref()
            .and_then(|map| map.get(METADATA_KEY))
            .ok_or_else(|| bad(format!("it has no metadata {METADATA_KEY:?}")))?;
        if json.len() > MAX_DESCRIPTION_BYTES {
            return Err(bad("its description is too long"));
        }
        let description: Description =
            serde_json::from_str(json).map_err(|e| bad(format!("its description: {e}")))?;
        if description.format != FORMAT {
            return Err(bad(format!(
                "format {}; this version of graftd reads format {FORMAT}",
                description.format
            )));
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
        let mut reader = Reader { tensors: &tensors, taken: 0 };
        read_head(description, &mut reader)
    }
}

fn read_head(description: Description, reader: &mut Reader<'_>) -> Result<Head, HeadError> {
    if description.classes.len() > MAX_CLASSES {
        return Err(bad(format!("{} classes", description.classes.len())));
    }
    let classes = description.classes.len();
    let transform = reader.transform("transform", &description.transform)?;
    let classifier = match description.classifier {
        ClassifierDescription::Linear => Classifier::Linear(reader.linear("classifier")?),
        ClassifierDescription::Perceptron => Classifier::Perceptron(Perceptron::new(
            reader.linear("classifier.hidden")?,
            reader.linear("classifier.output")?,
        )?),
        ClassifierDescription::Kernel { bandwidth } => {
            let output = reader.linear("classifier.output")?;
            let (shape, landmarks) = reader.halves("classifier.landmarks")?;
            let &[_, width] = shape.as_slice() else {
                return Err(bad("classifier.landmarks is not a matrix"));
            };
            Classifier::Kernel(Kernel::new(landmarks, width, bandwidth, output)?)
        }
        ClassifierDescription::Neighbours { neighbours, bandwidth } => {
            let (shape, rows) = reader.halves("classifier.rows")?;
            let labels = reader.labels("classifier.labels")?;
            let &[_, width] = shape.as_slice() else {
                return Err(bad("classifier.rows is not a matrix"));
            };
            Classifier::Neighbours(Neighbours::from_unit_rows(
                rows, width, labels, classes, neighbours, bandwidth,
            )?)
        }
    };
    let mut head = Head::new(description.kind, description.classes, transform, classifier)?
        .with_temperature(description.temperature)?
        .with_provenance(description.provenance);
    if let Some(novelty) = description.novelty {
        let score = match novelty.score {
            ScoreDescription::Energy => NoveltyScore::Energy,
            ScoreDescription::Mahalanobis { transform } => {
                let transform = reader.transform("novelty.transform", &transform)?;
                let means = reader.matrix("novelty.means")?;
                let (_, whitening) = reader.halves("novelty.whitening")?;
                NoveltyScore::Mahalanobis(Mahalanobis::new(transform, means, whitening)?)
            }
        };
        let rate = novelty.false_alarm_rate;
        if !(0.0..=1.0).contains(&rate) {
            return Err(bad(format!("a false-alarm rate of {rate}")));
        }
        head = head.with_novelty(Novelty {
            score,
            threshold: novelty.threshold,
            false_alarm_rate: rate,
        })?;
    }
    if reader.taken != reader.tensors.len() {
        return Err(bad("it holds tensors that no part of a head uses"));
    }
    Ok(head)
}

fn bad(reason: impl Into<String>) -> HeadError {
    HeadError::Format(reason.into())
}

fn write_linear(prefix: &str, linear: &Linear, out: &mut Vec<(String, Tensor)>) {
    let weights = linear.weights();
    let shape = [weights.rows(), weights.columns()];
    out.push((format!("{prefix}.weights"), floats(&shape, weights.values())));
    out.push((format!("{prefix}.bias"), floats(&[linear.bias().len()], linear.bias())));
}

fn write_transform(
    prefix: &str,
    transform: &Transform,
    out: &mut Vec<(String, Tensor)>,
) -> Vec<StepName> {
    let mut names = Vec::new();
    for (index, step) in transform.steps().iter().enumerate() {
        names.push(match step {
            Step::UnitLength => StepName::UnitLength,
            Step::Standardise { mean, scale } => {
                out.push((format!("{prefix}.{index}.mean"), floats(&[mean.len()], mean)));
                out.push((format!("{prefix}.{index}.scale"), floats(&[scale.len()], scale)));
                StepName::Standardise
            }
        });
    }
    names
}

/// Takes tensors by name and counts them, so that left-over ones are noticed.
struct Reader<'a> {
    tensors: &'a SafeTensors<'a>,
    taken: usize,
}

impl Reader<'_> {
    fn take(&mut self, name: &str, dtype: Dtype) -> Result<(Vec<usize>, Vec<u8>), HeadError> {
        let view = self.tensors.tensor(name).map_err(|e| bad(e.to_string()))?;
        if view.dtype() != dtype {
            return Err(bad(format!("{name} is {} and not {dtype}", view.dtype())));
        }
        self.taken += 1;
        Ok((view.shape().to_vec(), view.data().to_vec()))
    }

    fn floats(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f32>), HeadError> {
        let (shape, bytes) = self.take(name, Dtype::F32)?;
        let (words, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        if values.iter().any(|v| !v.is_finite()) {
            return Err(bad(format!("{name} holds a number that is not finite")));
        }
        Ok((shape, values))
    }

    fn halves(&mut self, name: &str) -> Result<(Vec<usize>, Vec<f16>), HeadError> {
        let (shape, bytes) = self.take(name, Dtype::F16)?;
        let (words, _) = bytes.as_chunks::<2>();
        Ok((shape, words.iter().map(|word| f16::from_le_bytes(*word)).collect()))
    }

    fn labels(&mut self, name: &str) -> Result<Vec<u32>, HeadError> {
        let (_, bytes) = self.take(name, Dtype::U32)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, HeadError> {
        let (shape, values) = self.floats(name)?;
        let &[rows, columns] = shape.as_slice() else {
            return Err(bad(format!("{name} is not a matrix")));
        };
        Matrix::new(rows, columns, values)
    }

    fn linear(&mut self, prefix: &str) -> Result<Linear, HeadError> {
        let weights = self.matrix(&format!("{prefix}.weights"))?;
        let (_, bias) = self.floats(&format!("{prefix}.bias"))?;
        Linear::new(weights, bias)
    }

    fn transform(&mut self, prefix: &str, steps: &[StepName]) -> Result<Transform, HeadError> {
        if steps.len() > Transform::MAX_STEPS {
            return Err(bad(format!("{} transform steps", steps.len())));
        }
        let mut read = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            read.push(match step {
                StepName::UnitLength => Step::UnitLength,
                StepName::Standardise => Step::Standardise {
                    mean: self.floats(&format!("{prefix}.{index}.mean"))?.1,
                    scale: self.floats(&format!("{prefix}.{index}.scale"))?.1,
                },
            });
        }
        Transform::new(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(form: usize) -> Head {
        let matrix = |rows, columns| {
            Matrix::new(rows, columns, (0..rows * columns).map(|i| i as f32 * 0.1 - 0.3).collect())
                .unwrap()
        };
        let linear = |rows, columns| Linear::new(matrix(rows, columns), vec![0.5; rows]).unwrap();
        let (kind, classifier) = match form {
            0 => (Kind::Lda, Classifier::Linear(linear(2, 3))),
            1 => {
                let rows = Neighbours::new(&matrix(4, 3), vec![0, 1, 1, 0], 2, 3, 0.1).unwrap();
                (Kind::Knn, Classifier::Neighbours(rows))
            }
            2 => {
                let rows = [0.6, 0.8, 0.0, 0.0, 0.0, 1.0].map(f16::from_f32).to_vec();
                let kernel = Kernel::new(rows, 3, 0.5, linear(2, 2)).unwrap();
                (Kind::Softmax, Classifier::Kernel(kernel))
            }
            _ => {
                let perceptron = Perceptron::new(linear(5, 3), linear(2, 5)).unwrap();
                (Kind::Mlp, Classifier::Perceptron(perceptron))
            }
        };
        let standardise = Step::Standardise { mean: vec![0.1, 0.2, 0.3], scale: vec![1.0; 3] };
        let transform = Transform::new(vec![Step::UnitLength, standardise]).unwrap();
        let whitening = (1..=6).map(|i| f16::from_f32(i as f32)).collect();
        let model = Mahalanobis::new(transform.clone(), matrix(2, 3), whitening).unwrap();
        let provenance = Provenance {
            backbone: "mobilenet-v2".into(),
            options: serde_json::json!({"kind": "auto"}),
            ..Provenance::default()
        };
        Head::new(kind, vec!["ant".into(), "bee".into()], transform, classifier)
            .unwrap()
            .with_temperature(1.25)
            .unwrap()
            .with_novelty(Novelty {
                score: NoveltyScore::Mahalanobis(model),
                threshold: 3.5,
                false_alarm_rate: 0.05,
            })
            .unwrap()
            .with_provenance(provenance)
    }

    #[test]
    fn every_form_of_head_comes_back_as_it_was_saved() {
        for form in 0..4 {
            let head = sample(form);
            let bytes = head.to_bytes().unwrap();
            assert_eq!(Head::from_bytes(&bytes).unwrap(), head);
            assert_eq!(sample(form).to_bytes().unwrap(), bytes, "equal heads, equal bytes");
        }
    }

    #[test]
    fn a_head_cut_short_anywhere_is_refused() {
        let bytes = sample(0).to_bytes().unwrap();
        for end in 0..bytes.len() {
            assert!(Head::from_bytes(&bytes[..end]).is_err(), "{end} bytes passed");
        }
    }

    #[test]
    fn a_nan_weight_is_refused() {
        let mut bytes = sample(0).to_bytes().unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let first_float = 8 + header;
        bytes[first_float..first_float + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        assert!(Head::from_bytes(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic_and_what_is_read_can_be_used(
            form in 0_usize..4,
            damage in prop::collection::vec((0_usize..4096, any::<u8>()), 1..6),
        ) {
            let mut bytes = sample(form).to_bytes().unwrap();
            for (position, value) in damage {
                let position = position % bytes.len();
                bytes[position] = value;
            }
            if let Ok(head) = Head::from_bytes(&bytes) {
                let embedding = vec![0.5; head.width()];
                let prediction = head.predict(&embedding).unwrap();
                prop_assert_eq!(prediction.probabilities.len(), head.classes().len());
            }
        }
    }
}
