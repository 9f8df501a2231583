//! How much memory the constants of graphs take.

use std::collections::HashSet;
use std::sync::Arc;

use tract_onnx::prelude::{Tensor, TypedModel};
use tract_onnx::tract_core::internal::DimLike as _;
use tract_onnx::tract_core::ops::konst::Const;
use tract_onnx::tract_core::ops::matmul::optimized::{MatMulOperand, OptMatMul, ProtoFusedSpec};
use tract_onnx::tract_core::tract_linalg::mmm::EagerPackedInput;

/// The constants of several graphs that are alive at the same time; one that they share counts once.
#[derive(Debug, Default)]
pub struct Constants {
    /// By their addresses.
    seen: HashSet<usize>,
    bytes: usize,
}

impl Constants {
    /// Counts a constant.
    pub fn add(&mut self, tensor: &Arc<Tensor>) {
        if self.seen.insert(Arc::as_ptr(tensor).addr()) {
            self.bytes += bytes_of(tensor);
        }
    }

    /// Counts the constants of a graph, also those that tract has packed for its kernels.
    pub fn add_graph(&mut self, model: &TypedModel) {
        for node in model.nodes() {
            if let Some(constant) = node.op_as::<Const>() {
                self.add(constant.val());
            }
            if let Some(product) = node.op_as::<OptMatMul>() {
                product.micro_ops.iter().for_each(|step| self.add_operands(step));
            }
            node.outputs.iter().filter_map(|output| output.fact.konst.as_ref()).for_each(|known| {
                self.add(known);
            });
        }
    }

    /// Counts the weights that tract has packed into a matrix product.
    fn add_operands(&mut self, step: &ProtoFusedSpec) {
        let ProtoFusedSpec::AddMatMul { a, b, .. } = step else { return };
        for operand in [a, b] {
            let MatMulOperand::Const(value) = operand else { continue };
            let shared = value.downcast_ref::<EagerPackedInput>();
            let shared = shared.map(|input| Arc::as_ptr(&input.packed).addr());
            if shared.is_none_or(|address| self.seen.insert(address)) {
                self.bytes += value.exotic_fact().mem_size().to_usize().unwrap_or_default();
            }
        }
    }

    /// Bytes of all that was counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A packed matrix is a tensor of one element, which holds it: only its fact knows the size.
fn bytes_of(tensor: &Tensor) -> usize {
    let packed =
        tensor.exotic_fact().ok().flatten().and_then(|fact| fact.mem_size().to_usize().ok());
    packed.unwrap_or_else(|| tensor.len() * tensor.datum_type().size_of())
}
