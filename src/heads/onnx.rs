//! A head as ONNX operators, to be appended to its backbone. Only operators whose meaning has not
//! changed from operator set 7 on are used, so that the head fits whatever file the backbone is.

use super::{Classifier, Head, HeadError, Kind, Linear, Step};
use crate::graph::{EMBEDDING, Extension, GraphError, Network};

/// As in `Transform`: keeps an all-zero embedding from becoming NaN.
const TINY: f32 = 1e-12;

/// Why a head cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The head was trained on another network.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The network cannot be read or written.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The operators do not exist in the backbone's operator set.
    #[error(
        "a {kind} head needs operator set {needed} and the backbone's file has {found}; convert \
         the backbone with onnx.version_converter, or train another kind"
    )]
    OperatorSet {
        /// Kind of the head.
        kind: Kind,
        /// Least operator set.
        needed: i64,
        /// The file's.
        found: i64,
    },
}

impl Head {
    /// The backbone's ONNX file with this head in the place of its classifier: outputs `logits` and
    /// `probabilities`, both `[batch, classes]`, labels as JSON in the metadata `labels`.
    ///
    /// # Errors
    /// [`ExportError`]; the head must fit the network, and if it knows the digest of its backbone it
    /// must be this one.
    pub fn to_onnx(&self, network: &Network) -> Result<Vec<u8>, ExportError> {
        let width = network.embedding().width;
        if self.width() != width {
            return Err(HeadError::Width { expected: self.width(), found: width }.into());
        }
        self.check_backbone(&network.digest().to_string())?;
        let (needed, found) = (self.operator_set(), network.opset());
        if found < needed {
            return Err(ExportError::OperatorSet { kind: self.kind, needed, found });
        }
        Ok(network.export(&self.extension())?)
    }

    /// Refuses a backbone with another file than the one that the head was trained on. A head
    /// without a recorded digest fits any.
    ///
    /// # Errors
    /// [`HeadError::Inconsistent`] with both digests.
    pub fn check_backbone(&self, sha256: &str) -> Result<(), HeadError> {
        let own = &self.provenance.backbone_sha256;
        if own.is_empty() || own == sha256 {
            return Ok(());
        }
        Err(HeadError::Inconsistent(format!(
            "it was trained on a backbone with SHA-256 {own}, this one has {sha256}"
        )))
    }

    fn operator_set(&self) -> i64 {
        match self.classifier {
            // Broadcasting came with set 7, the form of TopK that is used with set 10.
            Classifier::Neighbours(_) => 10,
            Classifier::Linear(_) | Classifier::Kernel(_) | Classifier::Perceptron(_) => 7,
        }
    }

    fn extension(&self) -> Extension {
        let mut onnx = Extension::default();
        let mut x = EMBEDDING.to_owned();
        for (index, step) in self.transform.steps().iter().enumerate() {
            let name = |part: &str| format!("transform/{index}/{part}");
            x = match step {
                Step::UnitLength => unit_length(&mut onnx, &x, self.width(), &name("")),
                Step::Standardise { mean, scale } => {
                    let mean = onnx.floats(&name("mean"), &[mean.len()], mean);
                    let scale = onnx.floats(&name("scale"), &[scale.len()], scale);
                    let centred = onnx.node("Sub", &[&x, &mean], &name("centred"));
                    onnx.node("Mul", &[&centred, &scale], &name("standardised"))
                }
            };
        }
        let scores = self.scores(&mut onnx, &x);
        let temperature = onnx.floats("temperature", &[1], &[self.temperature]);
        let logits = onnx.node("Div", &[&scores, &temperature], "logits");
        if self.kind == Kind::MultiLabel {
            onnx.node("Sigmoid", &[&logits], "probabilities");
        } else {
            onnx.node_with("Softmax", &[&logits], &["probabilities"], &[("axis", 1)]);
        }
        onnx.output("logits", self.classes.len());
        onnx.output("probabilities", self.classes.len());
        onnx.metadata("labels", serde_json::json!(self.classes).to_string());
        onnx
    }

    fn scores(&self, onnx: &mut Extension, x: &str) -> String {
        match &self.classifier {
            Classifier::Linear(linear) => layer(onnx, x, linear, "linear"),
            Classifier::Perceptron(perceptron) => {
                let hidden = layer(onnx, x, perceptron.hidden(), "hidden");
                let active = onnx.node("Relu", &[&hidden], "active");
                layer(onnx, &active, perceptron.output(), "output")
            }
            Classifier::Kernel(kernel) => {
                let count = kernel.output().weights().columns();
                let landmarks = kernel.landmarks();
                let weights = similarity(
                    onnx,
                    x,
                    &Rows { values: landmarks, count, width: kernel.width() },
                    kernel.bandwidth(),
                );
                layer(onnx, &weights, kernel.output(), "output")
            }
            Classifier::Neighbours(neighbours) => {
                let count = neighbours.labels().len();
                let rows = Rows { values: neighbours.rows(), count, width: neighbours.width() };
                let weights = similarity(onnx, x, &rows, neighbours.bandwidth());
                let k = neighbours.neighbours() as i64;
                let number = onnx.integers("k", &[k]);
                let nearest = onnx.node_with(
                    "TopK",
                    &[&weights, &number],
                    &["nearest", "indices"],
                    &[("axis", 1)],
                );
                let classes = self.classes.len();
                let mut one_hot = vec![0.0_f32; count * classes];
                for (row, &label) in neighbours.labels().iter().enumerate() {
                    one_hot[row * classes + label as usize] = 1.0;
                }
                let one_hot = onnx.floats("votes of rows", &[count, classes], &one_hot);
                let ballots = onnx.node("Gather", &[&one_hot, "indices"], "ballots");
                let as_rows = onnx.integers("as rows", &[-1, 1, k]);
                let nearest = onnx.node("Reshape", &[&nearest, &as_rows], "nearest as rows");
                let sums = onnx.node("MatMul", &[&nearest, &ballots], "sums");
                let flat = onnx.integers("flat", &[-1, classes as i64]);
                let sums = onnx.node("Reshape", &[&sums, &flat], "votes");
                let floor = onnx.floats("floor", &[1], &[super::neighbours::VOTE_FLOOR]);
                let votes = onnx.node("Add", &[&sums, &floor], "votes with floor");
                onnx.node("Log", &[&votes], "scores")
            }
        }
    }
}

/// `x / (|x| + tiny)`, from operators that every operator set has.
fn unit_length(onnx: &mut Extension, x: &str, width: usize, name: &str) -> String {
    let ones = onnx.floats(&format!("{name}ones"), &[width, 1], &vec![1.0; width]);
    let tiny = onnx.floats(&format!("{name}tiny"), &[1], &[TINY]);
    let squares = onnx.node("Mul", &[x, x], &format!("{name}squares"));
    let sum = onnx.node("MatMul", &[&squares, &ones], &format!("{name}sum"));
    let length = onnx.node("Sqrt", &[&sum], &format!("{name}length"));
    let length = onnx.node("Add", &[&length, &tiny], &format!("{name}positive length"));
    onnx.node("Div", &[x, &length], &format!("{name}unit"))
}

/// `weights x + bias` of every row of `x`.
fn layer(onnx: &mut Extension, x: &str, linear: &Linear, name: &str) -> String {
    let weights = linear.weights();
    let mut transposed = vec![0.0_f32; weights.values().len()];
    for (row, values) in weights.iter_rows().enumerate() {
        for (column, &value) in values.iter().enumerate() {
            transposed[column * weights.rows() + row] = value;
        }
    }
    let shape = [weights.columns(), weights.rows()];
    let matrix = onnx.floats(&format!("{name}/weights"), &shape, &transposed);
    let bias = onnx.floats(&format!("{name}/bias"), &[linear.bias().len()], linear.bias());
    let product = onnx.node("MatMul", &[x, &matrix], &format!("{name}/product"));
    onnx.node("Add", &[&product, &bias], &format!("{name}/sum"))
}

struct Rows<'a> {
    values: &'a [half::f16],
    count: usize,
    width: usize,
}

/// `exp((cos(x, row) - 1) / bandwidth)` for every row.
fn similarity(onnx: &mut Extension, x: &str, rows: &Rows<'_>, bandwidth: f32) -> String {
    let unit = unit_length(onnx, x, rows.width, "similarity/");
    let mut transposed = vec![0.0_f32; rows.count * rows.width];
    for (row, values) in rows.values.chunks_exact(rows.width).enumerate() {
        for (column, value) in values.iter().enumerate() {
            transposed[column * rows.count + row] = value.to_f32();
        }
    }
    let matrix = onnx.floats("similarity/rows", &[rows.width, rows.count], &transposed);
    let cosines = onnx.node("MatMul", &[&unit, &matrix], "similarity/cosines");
    let one = onnx.floats("similarity/one", &[1], &[1.0]);
    let bandwidth = onnx.floats("similarity/bandwidth", &[1], &[bandwidth]);
    let below = onnx.node("Sub", &[&cosines, &one], "similarity/below one");
    let scaled = onnx.node("Div", &[&below, &bandwidth], "similarity/scaled");
    onnx.node("Exp", &[&scaled], "similarity/weights")
}
