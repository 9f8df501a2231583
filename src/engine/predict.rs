//! One image through the daemon: decode, preprocess, forward run, head, probabilities.
//!
//! Everything here happens on one worker thread, for one image.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Answerer, EngineError, Forward};
use crate::backbones::Label;
use crate::base::cancel::Cancel;
use crate::graph::{Ending, Network};
use crate::heads::{log_sum_exp, sigmoid, softmax};
use crate::vision::{Limits, Picture, PixelFormat, Placement, Preprocessor, RawFrame, decode};

/// What a request brings.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A JPEG, PNG, WebP, BMP or GIF file.
    Encoded(Bytes),
    /// Pixels as a camera delivers them.
    Frame {
        /// Meaning of the bytes.
        format: PixelFormat,
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// Bytes from one row to the next; 0 for rows without padding.
        stride: u32,
        /// The planes one after the other.
        data: Bytes,
    },
    /// A decoded picture.
    Picture(Arc<Picture>),
    /// The network's input tensor itself, already normalised.
    Tensor(Arc<[f32]>),
}

impl Subject {
    /// The upright picture.
    ///
    /// # Errors
    /// A photograph that cannot be used; a tensor, which is no picture.
    pub fn to_picture(self, limits: &Limits) -> Result<Arc<Picture>, EngineError> {
        match self {
            Self::Tensor(_) => Err(EngineError::Fault("a tensor is no picture".into())),
            Self::Picture(picture) => Ok(picture),
            Self::Encoded(bytes) => Ok(Arc::new(decode(&bytes, limits)?)),
            Self::Frame { format, width, height, stride, data } => {
                let frame = RawFrame { format, width, height, stride, data: &data };
                Ok(Arc::new(frame.to_picture(limits)?))
            }
        }
    }
}

/// How long each stage took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// From bytes to upright pixels.
    pub decode: Duration,
    /// From pixels to the input tensor.
    pub preprocess: Duration,
    /// Waiting for a worker.
    pub queue: Duration,
    /// The network's forward run.
    pub inference: Duration,
    /// The head, temperature, probabilities and novelty.
    pub head: Duration,
}

/// An image on its way: its input tensor and where that lies on the photograph.
#[derive(Debug)]
pub struct Prepared {
    /// The photograph; `None` for an input that came as a tensor.
    pub picture: Option<Arc<Picture>>,
    /// Where the input lies on the photograph; `None` for an input that came as a tensor.
    pub placement: Option<Placement>,
    /// The network's input.
    pub tensor: Arc<[f32]>,
}

/// What a network says of one image.
#[derive(Debug)]
pub struct Answer {
    /// Who answered.
    pub by: Answerer,
    /// One a class, before softmax or sigmoid.
    pub logits: Vec<f32>,
    /// Softmax of the logits; of a multi-label head, and of a network that ends in a sigmoid, the
    /// logistic function of each.
    pub probabilities: Vec<f32>,
    /// How strange the image is, for a head that can tell.
    pub novelty: Option<f32>,
    /// Whether it is stranger than the head's threshold.
    pub unknown: bool,
    /// What the network computed.
    pub forward: Forward,
    /// How long each stage took.
    pub timings: Timings,
}

/// One class of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Position in the classifier's output, from 0.
    pub index: usize,
    /// `WordNet` id, where the labels have one.
    pub id: String,
    /// Name of the class; empty where there is none.
    pub label: String,
    /// 0 to 1.
    pub probability: f32,
    /// Before softmax or sigmoid.
    pub logit: f32,
}

/// Decodes and preprocesses `subject` for `by`, adding the times to `timings`.
///
/// # Errors
/// A photograph that cannot be used, a tensor of another length, a caller that hung up.
pub fn prepare(
    by: &Answerer,
    subject: Subject,
    limits: &Limits,
    cancel: &Cancel,
    timings: &mut Timings,
) -> Result<Prepared, EngineError> {
    thread_local! {
        static PREPROCESSOR: RefCell<Preprocessor> = RefCell::default();
    }
    let began = Instant::now();
    let picture = match subject {
        Subject::Tensor(tensor) => return Ok(Prepared { picture: None, placement: None, tensor }),
        picture @ (Subject::Encoded(_) | Subject::Frame { .. } | Subject::Picture(_)) => {
            picture.to_picture(limits)?
        }
    };
    timings.decode = began.elapsed();
    cancel.check()?;

    let began = Instant::now();
    let backbone = &by.backbone;
    let mut tensor: Arc<[f32]> =
        std::iter::repeat_n(0.0, backbone.preprocessing.tensor_len()).collect();
    let values = Arc::get_mut(&mut tensor).unwrap_or(&mut []);
    let layout = backbone.network.input().layout;
    let placement = PREPROCESSOR.with_borrow_mut(|preprocessor| {
        preprocessor.run(&picture, &backbone.preprocessing, layout, values)
    })?;
    timings.preprocess = began.elapsed();
    cancel.check()?;
    Ok(Prepared { picture: Some(picture), placement: Some(placement), tensor })
}

/// Runs the network of `by` on a prepared image and lets its head, or its own classifier, answer.
///
/// # Errors
/// A backbone without a classifier where no head was named; failures inside network or head.
pub fn classify(by: Answerer, input: &[f32], mut timings: Timings) -> Result<Answer, EngineError> {
    if by.head.is_none() && by.backbone.network.classifier().is_none() {
        return Err(EngineError::NoClassifier(by.backbone.name.to_string()));
    }
    let began = Instant::now();
    let forward = by.backbone.forward(input)?;
    timings.inference = began.elapsed();
    let began = Instant::now();
    let mut answer = judge(by, forward)?;
    timings.head = began.elapsed();
    answer.timings = timings;
    Ok(answer)
}

/// Lets the head of `by`, or the network's own classifier, answer what `forward` computed.
pub(super) fn judge(by: Answerer, forward: Forward) -> Result<Answer, EngineError> {
    let (logits, probabilities, novelty, unknown) = if let Some(head) = &by.head {
        let said = head.head.predict(forward.embedding())?;
        (said.logits, said.probabilities, said.novelty, said.unknown)
    } else {
        let logits = forward.logits().to_vec();
        let probabilities = probabilities(&by.backbone.network, &logits);
        (logits, probabilities, None, false)
    };
    Ok(Answer { by, logits, probabilities, novelty, unknown, forward, timings: Timings::default() })
}

/// Of the network's own classes, whether or not the file computes them itself.
fn probabilities(network: &Network, logits: &[f32]) -> Vec<f32> {
    if network.classifier().is_some_and(|own| own.is_of_independent_classes()) {
        logits.iter().map(|&logit| sigmoid(logit)).collect()
    } else {
        softmax(logits)
    }
}

impl Answer {
    /// The `count` most probable classes, best first; of equals the one with the lower index.
    pub fn top(&self, count: usize) -> Vec<Prediction> {
        let mut order: Vec<usize> = (0..self.logits.len()).collect();
        let better = |a: &usize, b: &usize| {
            self.logits[*b].total_cmp(&self.logits[*a]).then_with(|| a.cmp(b))
        };
        let count = count.min(order.len());
        if count > 0 && count < order.len() {
            order.select_nth_unstable_by(count - 1, better);
            order.truncate(count);
        }
        order.sort_unstable_by(better);
        order.into_iter().take(count).map(|index| self.prediction(index)).collect()
    }

    fn prediction(&self, index: usize) -> Prediction {
        let Label { id, text: label } = match &self.by.head {
            Some(head) => {
                let text = head.head.classes().get(index).cloned().unwrap_or_default();
                Label { id: String::new(), text }
            }
            None => self.by.backbone.labels.get(index),
        };
        let (probability, logit) = (self.probabilities[index], self.logits[index]);
        Prediction { index, id, label, probability, logit }
    }

    /// The values of the ONNX file's own output: logits, or what the file makes of them at its end.
    pub fn file_output(&self) -> Vec<f32> {
        let (network, logits) = (&self.by.backbone.network, self.forward.logits());
        match network.classifier().map(|classifier| classifier.ending) {
            Some(Ending::Softmax | Ending::Sigmoid) => probabilities(network, logits),
            Some(Ending::LogSoftmax) => {
                let total = log_sum_exp(logits);
                logits.iter().map(|logit| logit - total).collect()
            }
            Some(Ending::Logits) | None => logits.to_vec(),
        }
    }
}
