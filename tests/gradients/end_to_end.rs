//! Whole networks: our sweep against central differences in f64.

use tract_onnx::prelude::{
    DatumExt, Framework, InferenceModelExt, IntoRunnable, OutletId, Tensor, TypedModel, tvec,
};

use crate::common;
use graftd::grad::{Reverse, evaluate};

/// A network of the test assets, decluttered at batch 1.
pub struct Network {
    pub id: String,
    pub model: TypedModel,
    pub side: usize,
}

/// All float networks of the assets; none where the assets are absent.
pub fn networks() -> Vec<Network> {
    let Some(folder) = common::assets() else { return Vec::new() };
    let load = |entry: common::AssetModel| {
        let side = entry.input_size as usize;
        let model = tract_onnx::onnx()
            .model_for_path(folder.join(&entry.file))
            .and_then(|model| model.with_input_fact(0, f32::fact([1, 3, side, side]).into()))
            .and_then(InferenceModelExt::into_typed)
            .and_then(TypedModel::into_decluttered)
            .expect("the network loads");
        Network { id: entry.id, model, side }
    };
    common::models(&folder).into_iter().map(load).collect()
}

/// A smooth picture with some noise, as a network's input.
fn picture(side: usize) -> Vec<f64> {
    (0..3 * side * side)
        .map(|i| {
            let noise = (i.wrapping_mul(2_654_435_761) >> 7) % 1000;
            (i as f64 * 0.011).sin() + noise as f64 / 1000.0 - 0.5
        })
        .collect()
}

#[test]
fn input_gradients_of_whole_networks_agree_with_central_differences_in_f64() {
    for network in networks() {
        if network.side > 100 {
            continue;
        }
        let model = &network.model;
        let input = model.input_outlets().expect("inputs")[0];
        let output = model.output_outlets().expect("outputs")[0];
        let reverse = Reverse::new(model, output, &[input]).expect("all operators have rules");
        let x = picture(network.side);
        let needed = evaluate(model, vec![(input, x.clone())], reverse.needed()).expect("runs");
        let needed: Vec<&[f64]> = needed.iter().map(Vec::as_slice).collect();
        let logits =
            |x: Vec<f64>| evaluate(model, vec![(input, x)], &[output]).expect("runs").remove(0);
        let classes = logits(x.clone()).len();
        let mut seed = vec![0.0; classes];
        seed[1] = 1.0;
        let grad = reverse.run(&needed, seed).expect("runs").remove(0);
        let direction: Vec<f64> =
            (0..x.len()).map(|i| ((i * 7919) % 13) as f64 / 6.0 - 1.0).collect();
        let h = 1e-7;
        let shift = |h: f64| x.iter().zip(&direction).map(|(x, d)| x + h * d).collect::<Vec<_>>();
        let slope = (logits(shift(h))[1] - logits(shift(-h))[1]) / (2.0 * h);
        let inner: f64 = grad.iter().zip(&direction).map(|(g, d)| g * d).sum();
        println!(
            "{}: along a direction {inner:.6} by the sweep, {slope:.6} by differences",
            network.id
        );
        assert!((inner - slope).abs() <= 1e-4 * slope.abs().max(1.0), "{}", network.id);
    }
}

#[test]
fn f32_sweeps_on_an_optimised_plan_agree_with_f64_sweeps_by_the_rules() {
    for network in networks() {
        if network.side > 100 {
            continue;
        }
        let model = &network.model;
        let input = model.input_outlets().expect("inputs")[0];
        let output = model.output_outlets().expect("outputs")[0];
        let reverse = Reverse::new(model, output, &[input]).expect("all operators have rules");
        let x = picture(network.side);
        let exact = evaluate(model, vec![(input, x.clone())], reverse.needed()).expect("runs");
        let exact: Vec<&[f64]> = exact.iter().map(Vec::as_slice).collect();
        let classes = model.outlet_fact(output).expect("fact").shape.volume().to_string();
        let classes: usize = classes.parse().expect("concrete");
        let one_hot = |one: f64| (0..classes).map(move |i| if i == 1 { one } else { 0.0 });
        let expected = reverse.run(&exact, one_hot(1.0).collect()).expect("runs").remove(0);
        let outputs: Vec<OutletId> = reverse.needed().to_vec();
        let plan = model
            .clone()
            .with_output_outlets(&outputs)
            .and_then(TypedModel::into_optimized)
            .and_then(IntoRunnable::into_runnable)
            .expect("a plan");
        let narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
        let feed = Tensor::from_shape(&[1, 3, network.side, network.side], &narrow).expect("shape");
        let values = plan.run(tvec!(feed.into())).expect("runs");
        let values: Vec<_> = values.iter().map(|v| v.try_as_plain_ram().expect("plain")).collect();
        let values: Vec<&[f32]> = values.iter().map(|v| v.as_slice().expect("f32")).collect();
        let seed: Vec<f32> = one_hot(1.0).map(|x| x as f32).collect();
        let grad = reverse.run(&values, seed).expect("runs").remove(0);
        let norm = expected.iter().map(|x| x * x).sum::<f64>().sqrt();
        let error: f64 = grad.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
        println!("{}: relative error of the f32 gradient {:.1e}", network.id, error.sqrt() / norm);
        assert!(error.sqrt() <= 1e-4 * norm, "{}", network.id);
    }
}
