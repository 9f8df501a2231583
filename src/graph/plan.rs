//! An optimised graph that runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tract_onnx::prelude::{
    DatumType, IntoTValue as _, OutletId, TValue, TVec, Tensor as TractTensor, TractResult,
    TypedModel, TypedSimplePlan, TypedSimpleState,
};
use tract_onnx::tract_core::internal::bail;

use super::{Constants, GraphError, kernels};

/// An optimised graph, shared by all threads: of a network with the image as its input, or of a part of
/// one with whatever flows into that.
#[derive(Debug)]
pub struct Plan {
    inner: Arc<TypedSimplePlan>,
    /// Running states that nobody uses now: as many as there were ever runs at the same time. They
    /// keep their scratch memory, so a run allocates little.
    idle: Mutex<Vec<TypedSimpleState>>,
    inputs: Vec<Source>,
    runs: AtomicU64,
}

/// An input: its shape and the numbers that it takes, f32 or f16.
#[derive(Debug)]
struct Source {
    shape: Vec<usize>,
    kind: DatumType,
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
        let inputs = model.inputs.iter().map(|outlet| Source::new(&model, *outlet));
        let inputs = inputs.collect::<TractResult<_>>().map_err(GraphError::engine(stage))?;
        let inner =
            TypedSimplePlan::new(model).map_err(GraphError::engine("planning the network"))?;
        Ok(Self { inner, idle: Mutex::default(), inputs, runs: AtomicU64::new(0) })
    }

    /// Runs one image; `input` is its tensor, row-major in the network's own layout. The outputs
    /// come in the order in which the plan declared them.
    ///
    /// # Errors
    /// An input of another length, or a failure inside tract.
    pub fn run(&self, input: &[f32]) -> Result<Vec<Tensor>, GraphError> {
        self.run_with(&[input])
    }

    /// Runs with several inputs, in the graph's order.
    ///
    /// # Errors
    /// As [`Plan::run`]; another number of inputs.
    pub fn run_with(&self, inputs: &[&[f32]]) -> Result<Vec<Tensor>, GraphError> {
        let (expected, actual) = (self.inputs.len(), inputs.len());
        if expected != actual {
            let message = format!("{actual} inputs where there are {expected}");
            return Err(GraphError::Engine { stage: "feeding the inputs", message });
        }
        let fed = self.inputs.iter().zip(inputs).map(|(source, values)| source.feed(values));
        let fed = fed.collect::<Result<TVec<TValue>, GraphError>>()?;
        self.runs.fetch_add(1, Ordering::Relaxed);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = match idle {
            Some(state) => state,
            None => self.inner.spawn().map_err(GraphError::engine("starting a session"))?,
        };
        let outputs = state.run(fed).map_err(GraphError::engine("running the network"))?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        outputs.into_iter().map(Tensor::checked).collect()
    }

    /// Number of values that the first input takes, of a network the image.
    pub fn input_len(&self) -> usize {
        self.inputs.first().map_or(0, Source::len)
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

impl Source {
    fn new(model: &TypedModel, outlet: OutletId) -> TractResult<Self> {
        let fact = model.outlet_fact(outlet)?;
        let Some(shape) = fact.shape.as_concrete() else {
            bail!("the shape of an input is not concrete");
        };
        Ok(Self { shape: shape.to_vec(), kind: fact.datum_type })
    }

    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn feed(&self, values: &[f32]) -> Result<TValue, GraphError> {
        let (expected, actual) = (self.len(), values.len());
        if expected != actual {
            return Err(GraphError::InputLength { expected, actual });
        }
        let tensor = TractTensor::from_shape(&self.shape, values);
        let tensor = if self.kind == f32_type() {
            tensor
        } else {
            tensor.and_then(|tensor| Ok(tensor.cast_to_dt(self.kind)?.into_owned()))
        };
        Ok(tensor.map_err(GraphError::engine("feeding an input"))?.into_tvalue())
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
