//! An optimised graph that runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::{
    IntoTValue as _, OutletId, TValue, Tensor as TractTensor, TypedModel, TypedSimplePlan,
    TypedSimpleState, tvec,
};

use super::{Constants, GraphError, kernels};

/// An optimised graph with one input and several outputs, shared by all threads.
#[derive(Debug)]
pub struct Plan {
    inner: Arc<TypedSimplePlan>,
    /// Running states that nobody uses now: as many as there were ever runs at the same time. They
    /// keep their scratch memory, so a run allocates little.
    idle: Mutex<Vec<TypedSimpleState>>,
    input_shape: Vec<usize>,
    runs: AtomicU64,
}

/// A value that a plan computed: one image's, so without the batch axis where tract dropped it.
#[derive(Clone, Debug)]
pub struct Tensor(TValue);

impl Plan {
    /// Optimises a copy of the decluttered `model` with `outlets` as its outputs, in their order.
    ///
    /// # Errors
    /// When tract cannot optimise the model.
    pub fn build(model: &TypedModel, outlets: &[OutletId]) -> Result<Self, GraphError> {
        let stage = "optimising the network";
        let mut model = model.clone();
        model.select_output_outlets(outlets).map_err(GraphError::engine(stage))?;
        let mut model = model.into_compact().map_err(GraphError::engine(stage))?;
        kernels::install(&mut model).map_err(GraphError::engine(stage))?;
        model.optimize().map_err(GraphError::engine(stage))?;
        let input = model.input_fact(0).map_err(GraphError::engine(stage))?;
        let input_shape = input.shape.as_concrete().map(<[_]>::to_vec).ok_or_else(|| {
            GraphError::Engine { stage, message: "the input's shape is not concrete".into() }
        })?;
        let inner =
            TypedSimplePlan::new(model).map_err(GraphError::engine("planning the network"))?;
        Ok(Self { inner, idle: Mutex::default(), input_shape, runs: AtomicU64::new(0) })
    }

    /// Runs one image; `input` is its tensor, row-major in the network's own layout. The outputs
    /// come in the order in which the plan declared them.
    ///
    /// # Errors
    /// An input of another length, or a failure inside tract.
    pub fn run(&self, input: &[f32]) -> Result<Vec<Tensor>, GraphError> {
        let expected = self.input_len();
        if input.len() != expected {
            return Err(GraphError::InputLength { expected, actual: input.len() });
        }
        self.runs.fetch_add(1, Ordering::Relaxed);
        let input = TractTensor::from_shape(&self.input_shape, input)
            .map_err(GraphError::engine("feeding the input"))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = match idle {
            Some(state) => state,
            None => self.inner.spawn().map_err(GraphError::engine("starting a session"))?,
        };
        let outputs = state
            .run(tvec!(input.into_tvalue()))
            .map_err(GraphError::engine("running the network"))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        outputs.into_iter().map(Tensor::checked).collect()
    }

    /// Number of values that the input takes.
    pub fn input_len(&self) -> usize {
        self.input_shape.iter().product()
    }

    /// Images that were run so far, those that run now included.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Counts the constants that this plan holds.
    pub fn count_constants(&self, constants: &mut Constants) {
        constants.add_graph(self.inner.model());
    }
}

impl Tensor {
    fn checked(value: TValue) -> Result<Self, GraphError> {
        let value = if value.datum_type() == f32_type() {
            value
        } else {
            let cast = value.cast_to::<f32>().map_err(GraphError::engine("reading an output"))?;
            cast.into_owned().into_tvalue()
        };
        Ok(Self(value))
    }

    /// Extents of the axes.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// The values, row-major.
    pub fn values(&self) -> &[f32] {
        // `checked` has made sure of the type.
        self.0.as_plain_ram().and_then(|plain| plain.as_slice::<f32>().ok()).unwrap_or_default()
    }

    /// tract's own tensor, for those who differentiate.
    pub fn as_tract(&self) -> &TractTensor {
        &self.0
    }
}

fn f32_type() -> tract_onnx::prelude::DatumType {
    use tract_onnx::prelude::Datum as _;
    f32::datum_type()
}
