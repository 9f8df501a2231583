//! The checks that each row passes.

use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use tract_onnx::prelude::{IntoRunnable, IntoTensor, Tensor, TypedFact, TypedModel, tvec};
use tract_onnx::tract_core::model::SpecialOps;

use crate::rows::{Row, rows};
use graftd::grad::{Entry, Needs, Rule, Site, State, Values};

/// A row as a graph of one node with numbers to put in.
struct Bench {
    model: TypedModel,
    node: usize,
    rule: Box<dyn Rule>,
    inputs: Vec<Vec<f64>>,
    rng: Pcg64Mcg,
}

fn tensor(shape: &[usize], values: &[f64]) -> Tensor {
    let narrow: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    Tensor::from_shape(shape, &narrow).expect("as many values as the shape holds")
}

impl Bench {
    fn new(row: &Row, seed: u64) -> Bench {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let mut model = TypedModel::default();
        let mut wires = Vec::new();
        let mut inputs = Vec::new();
        for (index, input) in row.inputs.iter().enumerate() {
            let (low, high) = input.range;
            let draw = |_| {
                // Values that f32 holds exactly, so that both precisions see the same numbers.
                let value = f64::from(rng.random_range(low as f32..high as f32));
                if input.condition { f64::from(value > 0.0) } else { value }
            };
            let values: Vec<f64> = (0..input.shape.iter().product()).map(draw).collect();
            let name = format!("input{index}");
            let mut value = tensor(&input.shape, &values);
            if input.condition {
                value = value.cast_to::<bool>().expect("a condition").into_owned();
            }
            let wire = if input.constant {
                model.add_const(name, value)
            } else {
                let fact = TypedFact::dt_shape(value.datum_type(), value.shape());
                model.add_source(name, fact)
            };
            wires.push(wire.expect("an input"));
            inputs.push(values);
        }
        let out = model.wire_node("op", row.op.clone(), &wires).expect("the row is well formed");
        model.select_output_outlets(&out[..1]).expect("an output");
        let node = out[0].node;
        let entry = Entry::of(model.node(node).op.as_ref()).expect("the operator is in the table");
        let State::Rule(build) = entry.state else { panic!("{} has no rule", entry.operator) };
        let rule = build(&Site::at(&model, node).expect("concrete")).expect("the row is covered");
        Bench { model, node, rule, inputs, rng }
    }

    fn random(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.rng.random_range(-1.0..1.0)).collect()
    }

    fn forward(&self, inputs: &[Vec<f64>]) -> Vec<f64> {
        let inputs: Vec<&[f64]> = inputs.iter().map(Vec::as_slice).collect();
        self.rule.forward(&inputs)
    }

    /// Largest difference to tract's own operator in f32, relative to the largest value.
    fn difference_to_tract(&self, row: &Row) -> f64 {
        let narrow: Vec<Vec<f32>> =
            self.inputs.iter().map(|v| v.iter().map(|x| *x as f32).collect()).collect();
        let slices: Vec<&[f32]> = narrow.iter().map(Vec::as_slice).collect();
        let ours: Vec<f32> = self.rule.forward(&slices);
        let mut feed = tvec!();
        for (input, values) in row.inputs.iter().zip(&self.inputs) {
            let mut value = tensor(&input.shape, values);
            if input.condition {
                value = value.cast_to::<bool>().expect("a condition").into_owned();
            }
            if !input.constant {
                feed.push(value.into());
            }
        }
        let plan = self.model.clone().into_runnable().expect("a plan");
        let theirs = plan.run(feed).expect("tract runs the row").remove(0).into_tensor();
        let theirs =
            theirs.try_as_plain_ram().expect("plain").as_slice::<f32>().expect("f32").to_vec();
        assert_eq!(ours.len(), theirs.len(), "{}", row.what);
        let scale = theirs.iter().fold(1e-30_f32, |m, x| m.max(x.abs()));
        let worst = ours.iter().zip(&theirs).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
        f64::from(worst / scale)
    }

    /// | <t, J s> - <J' t, s> | relative, with s along the wanted inputs and only those forward
    /// values at hand that the rule asked for.
    fn adjoint_error(&mut self, wanted: &[bool]) -> f64 {
        let tangents: Vec<Option<Vec<f64>>> = (0..wanted.len())
            .map(|i| wanted[i].then(|| self.random(self.inputs[i].len())))
            .collect();
        let output = self.forward(&self.inputs);
        let cotangent = self.random(output.len());
        let slices: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let along: Vec<Option<&[f64]>> = tangents.iter().map(Option::as_deref).collect();
        let moved = self.rule.jvp(&slices, &along);
        let Needs { inputs, output: needs_output } = self.rule.needs(wanted);
        let values = Values {
            inputs: inputs.iter().zip(&slices).map(|(needed, v)| needed.then_some(*v)).collect(),
            output: needs_output.then_some(output.as_slice()),
        };
        let grads = self.rule.vjp(&values, cotangent.clone(), wanted);
        let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let size = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum::<f64>();
        let left = inner(&moved, &cotangent);
        let mut right = 0.0;
        let mut scale = size(&moved, &cotangent).max(1e-12);
        for (index, wanted) in wanted.iter().enumerate() {
            if *wanted {
                let grad = grads[index].as_ref().expect("a wanted cotangent is given");
                let tangent = tangents[index].as_ref().expect("drawn above");
                assert_eq!(grad.len(), tangent.len());
                right += inner(grad, tangent);
                scale = scale.max(size(grad, tangent));
            }
        }
        (left - right).abs() / scale
    }

    /// | (f(x + h s) - f(x - h s)) / 2h - J s | relative to the largest of J s.
    fn difference_error(&mut self, row: &Row) -> f64 {
        let tangents: Vec<Vec<f64>> = (0..self.inputs.len())
            .map(|i| {
                let fixed = row.inputs[i].condition;
                let drawn = self.random(self.inputs[i].len());
                drawn.into_iter().map(|t| if fixed { 0.0 } else { t }).collect()
            })
            .collect();
        let shifted = |h: f64| -> Vec<Vec<f64>> {
            let pairs = self.inputs.iter().zip(&tangents);
            pairs.map(|(x, t)| x.iter().zip(t).map(|(x, t)| x + h * t).collect()).collect()
        };
        let h = 1e-6;
        let (above, below) = (self.forward(&shifted(h)), self.forward(&shifted(-h)));
        let slices: Vec<&[f64]> = self.inputs.iter().map(Vec::as_slice).collect();
        let along: Vec<Option<&[f64]>> = tangents.iter().map(|t| Some(t.as_slice())).collect();
        let moved = self.rule.jvp(&slices, &along);
        let scale = moved.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
        let worst = moved
            .iter()
            .zip(above.iter().zip(&below))
            .fold(0.0_f64, |m, (j, (a, b))| m.max(((a - b) / (2.0 * h) - j).abs()));
        worst / scale
    }
}

/// All inputs at once, then each alone.
fn selections(row: &Row) -> Vec<Vec<bool>> {
    let movable: Vec<bool> = row.inputs.iter().map(|input| !input.condition).collect();
    let alone = (0..movable.len())
        .filter(|i| movable[*i])
        .map(|i| (0..movable.len()).map(|j| i == j).collect());
    std::iter::once(movable.clone()).chain(alone).collect()
}

#[test]
fn every_rule_is_the_adjoint_of_its_directional_derivative() {
    let mut worst = 0.0_f64;
    for (index, row) in rows().iter().enumerate() {
        for wanted in selections(row) {
            let mut bench = Bench::new(row, index as u64);
            let error = bench.adjoint_error(&wanted);
            assert!(error <= 1e-8, "{}: wanted {wanted:?}: {error:.1e}", row.what);
            worst = worst.max(error);
        }
    }
    println!("{} rows, largest relative |<t, J s> - <J' t, s>| {worst:.1e}", rows().len());
}

#[test]
fn every_directional_derivative_agrees_with_central_differences() {
    for (index, row) in rows().iter().enumerate() {
        let error = Bench::new(row, index as u64).difference_error(row);
        assert!(error <= 1e-6, "{}: {error:.1e}", row.what);
    }
}

#[test]
fn every_forward_kernel_agrees_with_tracts_own_operator() {
    for (index, row) in rows().iter().enumerate() {
        let error = Bench::new(row, index as u64).difference_to_tract(row);
        assert!(error <= row.f32_tolerance, "{}: {error:.1e}", row.what);
    }
}

#[test]
fn a_rule_reads_no_activation_that_its_needs_do_not_name() {
    // Max beside a constant is proved above from its output alone; here: that it asks for no more.
    let clip =
        rows().into_iter().find(|row| row.what == "Max [3, 4, 5] [1, 1, 1] constant Some(1)");
    let bench = Bench::new(&clip.expect("the row is there"), 0);
    let expected = Needs { inputs: vec![false, true], output: true };
    assert_eq!(bench.rule.needs(&[true, false]), expected);
    assert_eq!(bench.model.node(bench.node).outputs.len(), 1);
}
