//! Numbers of a network so simple that they can be worked out by hand.

use graftd::base::cancel::Cancel;
use graftd::explain::{Demand, Explainer, Method, Request, SmoothGrad, explain, quality};

use crate::common::onnx::{brightness, load};
use crate::{OWN, run};

/// Of the first class's logit over the mean of the pixels.
const SLOPE: f32 = 4.0;

#[test]
fn input_gradients_and_their_mean_over_noise_are_the_slope_of_a_network_that_is_linear() {
    let network = load(&brightness(SLOPE, 10)).unwrap();
    // Far from the rectifier's kink, also with noise.
    let input: Vec<f32> = (0..300).map(|at| 0.5 + (at % 7) as f32 / 14.0).collect();
    let smooth_grad = SmoothGrad { samples: 8, noise: 0.02 };
    for method in [Method::InputGradient, Method::SmoothGrad] {
        let class = "0".parse().unwrap();
        let request = Request { method, class, smooth_grad, ..Request::default() };
        let map = run(&network, &input, &[], &request).map;
        assert_eq!((map.height, map.width), (10, 10));
        for slope in &map.raw {
            assert!((slope - SLOPE / 100.0).abs() < 1e-6, "{method}: {slope} a pixel");
        }
    }
}

#[test]
fn curves_and_drop_are_those_of_a_network_that_can_be_worked_out_by_hand() {
    let network = load(&brightness(SLOPE, 10)).unwrap();
    // Red has the numbers 1 to 100 in a mixed order; the others do not matter.
    let red: Vec<f32> = (0..100).map(|at| ((at * 37) % 100 + 1) as f32 / 100.0).collect();
    let input: Vec<f32> = red.iter().copied().chain([0.5; 200]).collect();
    let request = Request { class: "0".parse().unwrap(), ..Request::default() };
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let cancel = Cancel::default();
    let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    let measured =
        quality::measure(&explainer, &network, &input, &OWN, &found, &cancel).unwrap().unwrap();
    let probability = |mean: f32| 1.0 / (1.0 + (-SLOPE * mean).exp());
    // The map is the red channel over its maximum, so the brightest pixels come first: two a step.
    let mean = red.iter().sum::<f32>() / 100.0;
    for (step, point) in measured.deletion_curve.iter().enumerate() {
        let gone = 2 * step;
        let brightest: f32 = (0..gone).map(|rank| (100 - rank) as f32 / 100.0).sum();
        let left = (100.0 * mean - brightest + gone as f32 * mean) / 100.0;
        assert!((point - probability(left)).abs() < 1e-5, "{gone} pixels gone: {point}");
    }
    let last = measured.insertion_curve.last().unwrap();
    assert!((last - probability(mean)).abs() < 1e-5, "all pixels are in");
    assert!(measured.insertion > measured.deletion);
    let weighted = red.iter().map(|value| value * value).sum::<f32>() / 100.0;
    let drop = 1.0 - probability(weighted) / probability(mean);
    assert!((measured.average_drop - drop).abs() < 1e-5, "{}", measured.average_drop);
}

#[test]
fn a_map_without_anything_hot_gets_no_areas_that_the_order_of_equal_pixels_would_make_up() {
    let network = load(&brightness(SLOPE, 10)).unwrap();
    let input: Vec<f32> = (0..300).map(|at| (at % 7) as f32 / 7.0).collect();
    // Nothing speaks for the second class, whose logit is always 0.
    let request = Request { class: "1".parse().unwrap(), ..Request::default() };
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let cancel = Cancel::default();
    let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    assert!(found.map.is_zero() && !found.map.has_positive_evidence());
    let measured = quality::measure(&explainer, &network, &input, &OWN, &found, &cancel).unwrap();
    assert_eq!(measured, None);
}
