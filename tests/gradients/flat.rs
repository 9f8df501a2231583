//! Operators without a derivative by nature: nothing flows through them, and they are no obstacle.

use std::collections::BTreeSet;

use graftd::grad::{Reverse, State, TABLE, operator_of};
use tract_onnx::prelude::{
    Datum, DatumType, IntoRunnable, Tensor, TypedFact, TypedModel, TypedOp, tensor1, tvec,
};
use tract_onnx::tract_core::internal::ElementWiseMiniOp;
use tract_onnx::tract_core::model::SpecialOps;
use tract_onnx::tract_core::ops::binary::{BinMiniOp, TypedBinOp};
use tract_onnx::tract_core::ops::cast::cast;
use tract_onnx::tract_core::ops::element_wise::ElementWiseOp;
use tract_onnx::tract_core::ops::logic::{CompEq, CompGT, CompGTE, CompLT, CompLTE, CompNE};
use tract_onnx::tract_core::ops::math;

/// On neither side of a jump, and some equal to [`OTHER`].
const INPUT: [f32; 6] = [-2.7, -1.0, -0.3, 0.4, 1.0, 2.6];
const OTHER: [f32; 6] = [-2.7, 1.0, 0.3, 0.4, -1.0, 2.0];

/// All operators of the table that numbers flow into and that have no derivative.
fn operators() -> Vec<Box<dyn TypedOp>> {
    let functions: Vec<Box<dyn ElementWiseMiniOp>> = vec![
        Box::new(math::Floor {}),
        Box::new(math::Ceil {}),
        Box::new(math::Round {}),
        Box::new(math::RoundHalfToEven {}),
        Box::new(math::Sign {}),
        Box::new(math::IsInf { detect_positive: true, detect_negative: true }),
        Box::new(math::IsNan {}),
    ];
    let comparisons: Vec<Box<dyn BinMiniOp>> = vec![
        Box::new(CompEq),
        Box::new(CompNE),
        Box::new(CompLT),
        Box::new(CompLTE),
        Box::new(CompGT),
        Box::new(CompGTE),
    ];
    let function = |function| Box::new(ElementWiseOp(function, None)) as Box<dyn TypedOp>;
    let comparison = |function| Box::new(TypedBinOp(function, None)) as Box<dyn TypedOp>;
    let functions = functions.into_iter().map(function);
    functions.chain(comparisons.into_iter().map(comparison)).collect()
}

/// Of the input `x`: the operator's value as a number (`jump`), and `x` times that (`product`).
fn graph(op: Box<dyn TypedOp>) -> TypedModel {
    let mut model = TypedModel::default();
    let x = model.add_source("x", TypedFact::dt_shape(f32::datum_type(), [6])).unwrap();
    let mut inputs = tvec!(x);
    if op.is::<TypedBinOp>() {
        inputs.push(model.add_const("other", tensor1(&OTHER)).unwrap());
    }
    let mut jump = model.wire_node("operator", op, &inputs).unwrap()[0];
    if model.outlet_fact(jump).unwrap().datum_type != f32::datum_type() {
        jump = model.wire_node("number", cast(DatumType::F32), &[jump]).unwrap()[0];
    }
    let times = TypedBinOp(Box::new(math::Mul), None);
    let product = model.wire_node("product", times, &[x, jump]).unwrap()[0];
    model.select_output_outlets(&[jump, product]).unwrap();
    model
}

#[test]
fn every_operator_of_the_table_that_is_flat_by_nature_is_tried() {
    let tried: BTreeSet<String> = operators().iter().map(|op| operator_of(op.as_ref())).collect();
    // No gradient comes near these: the first two take no input, the others take conditions.
    let out_of_reach = ["Source", "Const", "Not", "And", "Or", "Xor"];
    let flat = TABLE.iter().filter(|entry| matches!(entry.state, State::Flat));
    let within = flat.map(|entry| entry.operator).filter(|name| !out_of_reach.contains(name));
    assert_eq!(tried, within.map(String::from).collect());
}

#[test]
fn a_gradient_comes_only_along_the_branch_without_the_jump() {
    for op in operators() {
        let name = operator_of(op.as_ref());
        let model = graph(op);
        let x = model.input_outlets().unwrap()[0];
        let ends = model.output_outlets().unwrap().to_vec();
        let run = |outputs: &[_]| -> Vec<Vec<f32>> {
            let plan = model.clone().with_output_outlets(outputs);
            let plan = plan.and_then(IntoRunnable::into_runnable).unwrap();
            let values = plan.run(tvec!(Tensor::from_shape(&[6], &INPUT).unwrap().into())).unwrap();
            let plain = values.iter().map(|value| value.try_as_plain_ram().unwrap());
            plain.map(|value| value.as_slice::<f32>().unwrap().to_vec()).collect()
        };
        let seed: Vec<f32> = (1..=6).map(|at| at as f32).collect();

        let alone = Reverse::new(&model, ends[0], &[x]).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(alone.needed().is_empty(), "{name}: no value is read for a gradient of zero");
        assert_eq!(alone.run(&[], seed.clone()).unwrap(), [[0.0; 6]], "{name}");

        let both = Reverse::new(&model, ends[1], &[x]).unwrap_or_else(|e| panic!("{name}: {e}"));
        let needed = run(both.needed());
        let needed: Vec<&[f32]> = needed.iter().map(Vec::as_slice).collect();
        let jump = run(&ends[..1]).remove(0);
        let expected: Vec<f32> = seed.iter().zip(&jump).map(|(t, jump)| t * jump).collect();
        assert_eq!(both.run(&needed, seed).unwrap(), [expected], "{name}");
    }
}
