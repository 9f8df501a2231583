//! Puts the kernels into a decluttered graph in place of tract's operators.

use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_core::ops::binary::TypedBinOp;
use tract_onnx::tract_core::ops::cnn::{Conv, MaxPool, PoolSpec};
use tract_onnx::tract_core::ops::math::{Max, Min};
use tract_onnx_opl::lrn::Lrn;

use super::convolution::Clamp;
use super::lrn::Normalisation;
use super::operators;
use super::window::Window;

/// Up to so many numbers under an output, a convolution is computed directly: a depthwise one, or the
/// first of a network, over red, green and blue. Beyond, tract's matrix products are faster.
const FEW: usize = 32;

/// Replaces what a kernel computes faster; what no kernel fits stays as it is. The graph's outputs
/// keep their order, shapes and, up to rounding, their values.
///
/// # Errors
/// When tract cannot rewire the graph.
pub fn install(model: &mut TypedModel) -> TractResult<()> {
    Rewriter::<()>::default()
        .with_rule_for("convolution", |&(), model, node, name, op| {
            convolution(model, node, name, op)
        })
        .with_rule_for("clamp", |&(), model, node, name, op| clamp(model, node, name, op))
        .with_rule_for("max-pool", |&(), model, node, _, op| max_pool(model, node, op))
        .with_rule_for("lrn", |&(), model, node, _, op| lrn(model, node, op))
        .rewrite(&(), model)
}

/// A depthwise convolution, or one over few channels.
fn convolution(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &Conv,
) -> TractResult<Option<TypedModelPatch>> {
    let (groups, channels) = (op.group, op.output_channels());
    let depth = op.input_channels() / groups;
    let &[image, kernel, bias] = node.inputs.as_slice() else { return Ok(None) };
    if op.q_params.is_some() {
        return Ok(None);
    }
    let Some(window) = window(model.outlet_fact(image)?, &op.pool_spec)? else { return Ok(None) };
    if depth > 1 && depth * window.taps() > FEW {
        return Ok(None);
    }
    let kernel_fact = model.outlet_fact(kernel)?;
    if kernel_fact.konst.is_none() || !kernel_fact.is_plain() || !is_f32(kernel_fact) {
        return Ok(None);
    }
    let Some(bias) = per_channel(model.outlet_fact(bias)?, channels)? else { return Ok(None) };

    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &[image, kernel])?;
    let kernel = op.wire_kernel_as_g_o_ihw(&mut patch, name, inputs[1])?[0];
    let bias = patch.add_const(format!("{name}.bias_by_channel"), bias)?;
    let replacement =
        operators::Convolution { window, depth, groups, channels, clamp: Clamp::NONE };
    let output = patch.wire_node(name, replacement, &[inputs[0], kernel, bias])?;
    patch.shunt_outside(model, node.id.into(), output[0])?;
    Ok(Some(patch))
}

/// A maximum or minimum with a constant behind a convolution of ours, where nobody else wants to
/// see the values before it.
fn clamp(
    model: &TypedModel,
    node: &TypedNode,
    name: &str,
    op: &operators::Convolution,
) -> TractResult<Option<TypedModelPatch>> {
    let [successor] = node.outputs[0].successors.as_slice() else { return Ok(None) };
    if model.output_outlets()?.contains(&node.id.into()) {
        return Ok(None);
    }
    let next = model.node(successor.node);
    let Some(TypedBinOp(function, _)) = next.op_as::<TypedBinOp>() else { return Ok(None) };
    let other = next.inputs[1 - successor.slot];
    let Some(bound) = model.outlet_fact(other)?.konst.as_ref().filter(|bound| bound.len() == 1)
    else {
        return Ok(None);
    };
    let bound = *bound.try_as_plain_ram()?.as_slice::<f32>()?.first().context("one value")?;
    let Clamp { low, high } = op.clamp;
    let clamp = if function.is::<Max>() {
        Clamp { low: low.max(bound), high }
    } else if function.is::<Min>() {
        Clamp { low, high: high.min(bound) }
    } else {
        return Ok(None);
    };
    // With the bounds crossed the order of the two would matter; NaN is no bound.
    if bound.is_nan() || clamp.low > clamp.high {
        return Ok(None);
    }
    if next.outputs[0].fact.shape != node.outputs[0].fact.shape {
        return Ok(None);
    }
    let mut patch = TypedModelPatch::default();
    let inputs = patch.taps(model, &node.inputs)?;
    let output = patch.wire_node(name, operators::Convolution { clamp, ..op.clone() }, &inputs)?;
    patch.shunt_outside(model, next.id.into(), output[0])?;
    Ok(Some(patch))
}

fn max_pool(
    model: &TypedModel,
    node: &TypedNode,
    op: &MaxPool,
) -> TractResult<Option<TypedModelPatch>> {
    if op.with_index_outputs.is_some() {
        return Ok(None);
    }
    let Some(window) = window(model.outlet_fact(node.inputs[0])?, &op.pool_spec)? else {
        return Ok(None);
    };
    let replacement = operators::MaxPool { window };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, replacement).map(Some)
}

fn lrn(model: &TypedModel, node: &TypedNode, op: &Lrn) -> TractResult<Option<TypedModelPatch>> {
    let fact = model.outlet_fact(node.inputs[0])?;
    if !is_f32(fact) || fact.rank() != 4 || fact.shape.as_concrete().is_none() || op.size == 0 {
        return Ok(None);
    }
    let &Lrn { alpha, beta, bias, size } = op;
    let replacement = operators::Lrn { normalisation: Normalisation { alpha, beta, bias, size } };
    TypedModelPatch::replace_single_op(model, node, &node.inputs, replacement).map(Some)
}

/// How `pool` slides over an input, if that is f32, channels first, and of known size.
fn window(input: &TypedFact, pool: &PoolSpec) -> TractResult<Option<Window>> {
    let Some(shape) = input.shape.as_concrete() else { return Ok(None) };
    if !is_f32(input) || pool.rank() != 2 || pool.data_format.c_is_last() {
        return Ok(None);
    }
    let shape = pool.data_format.shape(shape)?;
    let &[height, width] = shape.hw_dims() else { return Ok(None) };
    let padding = pool.computed_padding(&[height, width]);
    let pair = |of: &dyn Fn(usize) -> usize| [of(0), of(1)];
    let window = Window {
        input: [height, width],
        output: pair(&|axis| padding[axis].convoluted),
        size: pair(&|axis| pool.kernel_shape[axis]),
        stride: pair(&|axis| pool.stride(axis)),
        dilation: pair(&|axis| pool.dilation(axis)),
        before: pair(&|axis| padding[axis].pad_before),
    };
    let extents = [window.input, window.output, window.size, window.stride, window.dilation];
    Ok(extents.as_flattened().iter().all(|extent| *extent > 0).then_some(window))
}

/// A constant bias as one value a channel; tract keeps a bias that is the same for all as a scalar.
fn per_channel(bias: &TypedFact, channels: usize) -> TractResult<Option<Tensor>> {
    let Some(bias) = bias.konst.as_ref().filter(|_| is_f32(bias)) else { return Ok(None) };
    let values = match bias.try_as_plain_ram()?.as_slice::<f32>()? {
        &[value] => vec![value; channels],
        values if values.len() == channels => values.to_vec(),
        _ => return Ok(None),
    };
    Ok(Some(tensor1(&values)))
}

fn is_f32(fact: &TypedFact) -> bool {
    fact.datum_type == f32::datum_type()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tract_onnx::tract_core::ops::cnn::{KernelFormat, PaddingSpec};
    use tract_onnx::tract_core::ops::math::{max, min};
    use tract_onnx::tract_core::ops::nn::DataFormat;

    use super::*;

    const CHANNELS: usize = 3;

    fn numbers(shape: &[usize], seed: usize) -> Tensor {
        let len = shape.iter().product();
        let values: Vec<f32> =
            (0..len).map(|index| ((index * 7919 + seed) % 255) as f32 / 64.0 - 2.0).collect();
        Tensor::from_shape(shape, &values).unwrap()
    }

    fn spec(size: [usize; 2], stride: [usize; 2], padding: PaddingSpec) -> PoolSpec {
        PoolSpec {
            data_format: DataFormat::NCHW,
            kernel_shape: size.as_slice().into(),
            padding,
            dilations: None,
            strides: Some(stride.as_slice().into()),
            input_channels: CHANNELS,
            output_channels: CHANNELS,
        }
    }

    /// Image -> depthwise convolution -> relu6; the outlets of both.
    fn relu6_network(
        spec: PoolSpec,
        side: [usize; 2],
        group: usize,
    ) -> (TypedModel, [OutletId; 2]) {
        let mut model = TypedModel::default();
        let image = f32::fact([1, CHANNELS, side[0], side[1]]);
        let image = model.add_source("image", image).unwrap();
        let inputs = CHANNELS / group;
        let weights = numbers(&[CHANNELS, inputs, spec.kernel_shape[0], spec.kernel_shape[1]], 1);
        let weights = model.add_const("weights", weights).unwrap();
        let bias = model.add_const("bias", tensor1(&[0.5f32, 0.0, -1.0])).unwrap();
        let conv = Conv { pool_spec: spec, kernel_fmt: KernelFormat::OIHW, group, q_params: None };
        let conv = model.wire_node("conv", conv, &[image, weights, bias]).unwrap()[0];
        let zero = model.add_const("zero", tensor4(&[[[[0f32]]]])).unwrap();
        let six = model.add_const("six", tensor4(&[[[[6f32]]]])).unwrap();
        let relu = model.wire_node("relu", max(), &[conv, zero]).unwrap()[0];
        let relu6 = model.wire_node("relu6", min(), &[relu, six]).unwrap()[0];
        (model, [conv, relu6])
    }

    fn operators(model: &TypedModel) -> Vec<String> {
        model.nodes().iter().map(|node| node.op.name().into_owned()).collect()
    }

    /// The graph's outputs without and with the kernels; the operators that it then has.
    fn both(model: &TypedModel) -> (Vec<Tensor>, Vec<Tensor>, Vec<String>) {
        let model = model.clone().into_decluttered().unwrap();
        let shape = model.input_fact(0).unwrap().shape.as_concrete().unwrap().to_vec();
        let run = |model: TypedModel| -> Vec<Tensor> {
            let plan = model.into_optimized().unwrap().into_runnable().unwrap();
            let outputs = plan.run(tvec!(numbers(&shape, 7).into_tvalue())).unwrap();
            outputs.into_iter().map(TValue::into_tensor).collect()
        };
        let mut installed = model.clone();
        install(&mut installed).unwrap();
        let operators = operators(&installed);
        (run(model), run(installed), operators)
    }

    fn assert_equal(left: &[Tensor], right: &[Tensor]) {
        assert_eq!(left.len(), right.len());
        for (left, right) in left.iter().zip(right) {
            left.close_enough(right, Approximation::Approximate).unwrap();
        }
    }

    #[test]
    fn a_depthwise_convolution_and_its_rectifier_become_one_kernel() {
        let (mut model, [_, relu6]) =
            relu6_network(spec([3, 3], [2, 2], PaddingSpec::SameUpper), [9, 8], CHANNELS);
        model.select_output_outlets(&[relu6]).unwrap();
        let (expected, found, operators) = both(&model);
        assert_equal(&expected, &found);
        assert!(operators.contains(&"ConvolutionKernel".to_owned()), "{operators:?}");
        for gone in ["Conv", "Max", "Min"] {
            assert!(!operators.contains(&gone.to_owned()), "{operators:?}");
        }
    }

    #[test]
    fn values_before_the_rectifier_stay_visible_where_they_are_an_output() {
        let (mut model, [conv, relu6]) =
            relu6_network(spec([3, 3], [1, 1], PaddingSpec::Valid), [9, 8], CHANNELS);
        model.select_output_outlets(&[relu6, conv]).unwrap();
        let (expected, found, operators) = both(&model);
        assert_equal(&expected, &found);
        let unclamped = found[1].try_as_plain_ram().unwrap().as_slice::<f32>().unwrap();
        assert!(unclamped.iter().any(|value| *value < 0.0), "the output before the rectifier");
        assert!(operators.contains(&"ConvolutionKernel".to_owned()), "{operators:?}");
    }

    #[test]
    fn a_convolution_over_many_numbers_is_left_to_tract() {
        let (mut model, [_, relu6]) =
            relu6_network(spec([4, 4], [1, 1], PaddingSpec::Valid), [9, 8], 1);
        model.select_output_outlets(&[relu6]).unwrap();
        let (expected, found, operators) = both(&model);
        assert_equal(&expected, &found);
        assert!(!operators.contains(&"ConvolutionKernel".to_owned()), "{operators:?}");
    }

    #[test]
    fn local_response_normalisation_becomes_a_kernel() {
        let mut model = TypedModel::default();
        let image = model.add_source("image", f32::fact([1, 7, 4, 3])).unwrap();
        let lrn = Lrn { alpha: 0.1, beta: 0.75, bias: 1.0, size: 5 };
        let output = model.wire_node("lrn", lrn, &[image]).unwrap();
        model.select_output_outlets(&output).unwrap();
        let (expected, found, operators) = both(&model);
        assert_equal(&expected, &found);
        assert!(operators.contains(&"LrnKernel".to_owned()), "{operators:?}");
    }

    fn any_padding() -> impl Strategy<Value = PaddingSpec> {
        let pair = || (0usize..3, 0usize..3).prop_map(|(y, x)| [y, x].as_slice().into());
        prop_oneof![
            Just(PaddingSpec::Valid),
            Just(PaddingSpec::SameUpper),
            Just(PaddingSpec::SameLower),
            (pair(), pair()).prop_map(|(before, after)| PaddingSpec::Explicit(before, after)),
            (pair(), pair(), any::<bool>()).prop_map(|(before, after, ceil)| {
                PaddingSpec::ExplicitOnnxPool(before, after, ceil)
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn any_geometry_gives_what_tract_gives(
            size in [1usize..=4, 1usize..=4],
            stride in [1usize..=3, 1usize..=3],
            group in prop::sample::select(vec![1, CHANNELS]),
            side in [5usize..=20, 5usize..=60],
            padding in any_padding(),
        ) {
            // Rounding up is for pools alone.
            #[allow(clippy::wildcard_enum_match_arm)]
            let of_convolution = match padding.clone() {
                PaddingSpec::ExplicitOnnxPool(before, after, _) => {
                    PaddingSpec::Explicit(before, after)
                }
                other => other,
            };
            let convolution = spec(size, stride, of_convolution);
            let (mut model, [_, relu6]) = relu6_network(convolution, side, group);
            let pool = spec(size, stride, padding);
            let pool = MaxPool { pool_spec: pool, with_index_outputs: None };
            let image = model.input_outlets().unwrap()[0];
            let pooled = model.wire_node("pool", pool, &[image]).unwrap()[0];
            model.select_output_outlets(&[pooled, relu6]).unwrap();
            let (expected, found, operators) = both(&model);
            assert_equal(&expected, &found);
            prop_assert!(operators.contains(&"MaxPoolKernel".to_owned()), "{:?}", operators);
        }
    }
}
