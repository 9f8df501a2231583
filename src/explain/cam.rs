//! Class activation maps from activations A and gradients G at a layer (both channels x pixels).
//!
//! All follow pytorch-grad-cam 1.5 to the digit, epsilons included; `docs/gradients.md` has the
//! formulas side by side.

use super::eigen;
use super::{FeatureMap, Method};

/// Keeps the weights of Grad-CAM++ finite (pytorch-grad-cam's value).
const PLUS_PLUS_EPSILON: f32 = 1e-6;
/// Keeps the weights of XGrad-CAM finite (pytorch-grad-cam's value).
const XGRAD_EPSILON: f32 = 1e-7;

/// The raw map of a gradient method: one signed number a pixel.
///
/// With `eigen_smoothing` the weighted activations are projected on their first principal
/// component instead of summed over the channels; its sign is that of the sum. Methods without a
/// layer gradient give Eigen-CAM.
pub fn gradient_map(
    method: Method,
    activations: &FeatureMap<'_>,
    gradients: &FeatureMap<'_>,
    eigen_smoothing: bool,
) -> Vec<f32> {
    let channels = activations.planes().zip(gradients.planes());
    match method {
        Method::HiResCam => {
            let products = channels.map(|(a, g)| elementwise(a, g, |a, g| a * g));
            combine(products, activations, eigen_smoothing)
        }
        Method::LayerCam => {
            let products = channels.map(|(a, g)| elementwise(a, g, |a, g| a * g.max(0.0)));
            combine(products, activations, eigen_smoothing)
        }
        Method::GradCamPlusPlus => {
            let weights: Vec<f32> = channels.map(|(a, g)| plus_plus_weight(a, g)).collect();
            weighted_map(activations, &weights, eigen_smoothing)
        }
        Method::XGradCam => {
            let weights: Vec<f32> = channels.map(|(a, g)| xgrad_weight(a, g)).collect();
            weighted_map(activations, &weights, eigen_smoothing)
        }
        Method::GradCam => {
            let weights: Vec<f32> = gradients.planes().map(mean).collect();
            weighted_map(activations, &weights, eigen_smoothing)
        }
        Method::EigenCam
        | Method::ScoreCam
        | Method::AblationCam
        | Method::InputGradient
        | Method::SmoothGrad => eigen_cam(activations),
    }
}

/// Eigen-CAM: the activations projected on their first principal component.
pub fn eigen_cam(activations: &FeatureMap<'_>) -> Vec<f32> {
    eigen::first_component(&activations.values, activations.channels, activations.area())
}

/// The sum over the channels of weight times activation.
pub fn weighted_map(
    activations: &FeatureMap<'_>,
    weights: &[f32],
    eigen_smoothing: bool,
) -> Vec<f32> {
    if eigen_smoothing {
        let scaled = activations
            .planes()
            .zip(weights)
            .map(|(plane, weight)| plane.iter().map(|a| a * weight).collect());
        return combine(scaled, activations, true);
    }
    let mut map = vec![0.0; activations.area()];
    for (plane, weight) in activations.planes().zip(weights) {
        map.iter_mut().zip(plane).for_each(|(m, a)| *m += weight * a);
    }
    map
}

fn combine(
    planes: impl Iterator<Item = Vec<f32>>,
    of: &FeatureMap<'_>,
    eigen_smoothing: bool,
) -> Vec<f32> {
    let mut sum = vec![0.0; of.area()];
    let mut values = Vec::new();
    for plane in planes {
        sum.iter_mut().zip(&plane).for_each(|(s, p)| *s += p);
        if eigen_smoothing {
            values.extend(plane);
        }
    }
    if !eigen_smoothing {
        return sum;
    }
    turned_like(&sum, eigen::first_component(&values, of.channels, of.area()))
}

/// The principal component has no sign of its own: turned so that it shows the evidence that the
/// plain sum over the channels shows, and not its opposite.
fn turned_like(sum: &[f32], mut component: Vec<f32>) -> Vec<f32> {
    let along: f64 = sum.iter().zip(&component).map(|(s, c)| f64::from(*s) * f64::from(*c)).sum();
    if along < 0.0 {
        component.iter_mut().for_each(|value| *value = -*value);
    }
    component
}

fn elementwise(a: &[f32], g: &[f32], product: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    a.iter().zip(g).map(|(a, g)| product(*a, *g)).collect()
}

fn mean(plane: &[f32]) -> f32 {
    plane.iter().sum::<f32>() / plane.len() as f32
}

/// Sum of `relu(g) g^2 / (2 g^2 + sum(a) g^3 + epsilon)` (equation 19 of the paper).
fn plus_plus_weight(a: &[f32], g: &[f32]) -> f32 {
    let total: f32 = a.iter().sum();
    let term = |g: &f32| {
        let square = g * g;
        let alpha = square / (2.0 * square + total * square * g + PLUS_PLUS_EPSILON);
        // With negative activations the denominator can vanish; such a pixel says nothing.
        if *g > 0.0 && alpha.is_finite() { g * alpha } else { 0.0 }
    };
    g.iter().map(term).sum()
}

/// Sum of `g a / (sum(a) + epsilon)`.
fn xgrad_weight(a: &[f32], g: &[f32]) -> f32 {
    let total = a.iter().sum::<f32>() + XGRAD_EPSILON;
    if total == 0.0 {
        return 0.0;
    }
    g.iter().zip(a).map(|(g, a)| g * a / total).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(values: &[f32]) -> FeatureMap<'_> {
        FeatureMap { channels: values.len() / 4, height: 2, width: 2, values: values.into() }
    }

    const ACTIVATIONS: [f32; 8] = [1.0, 2.0, 0.0, 4.0, 3.0, 0.0, 1.0, 1.0];
    const GRADIENTS: [f32; 8] = [0.5, -1.0, 0.0, 2.5, -0.5, 0.5, 0.0, -2.0];

    fn assert_close(map: &[f32], expected: &[f32]) {
        for (a, b) in map.iter().zip(expected) {
            assert!((a - b).abs() < 1e-5, "{map:?} {expected:?}");
        }
    }

    #[test]
    fn each_method_gives_what_its_formula_gives_by_hand() {
        let (a, g) = (map(&ACTIVATIONS), map(&GRADIENTS));
        let of = |method| gradient_map(method, &a, &g, false);
        // Means of the gradients: 0.5 and -0.5.
        assert_close(&of(Method::GradCam), &[-1.0, 1.0, -0.5, 1.5]);
        assert_close(&of(Method::HiResCam), &[-1.0, -2.0, 0.0, 8.0]);
        assert_close(&of(Method::LayerCam), &[0.5, 0.0, 0.0, 10.0]);
        // Weights (0.5 - 2 + 10) / 7 and (-1.5 - 2) / 5.
        assert_close(&of(Method::XGradCam), &[-0.885_714, 2.428_571, -0.7, 4.157_143]);
        // Weights 0.5/(2 + 3.5) + 2.5/(2 + 17.5) and 0.5/(2 + 2.5).
        let (first, second) = (0.219_114, 0.111_111);
        let expected = [first + 3.0 * second, 2.0 * first, second, 4.0 * first + second];
        assert_close(&of(Method::GradCamPlusPlus), &expected);
    }

    #[test]
    fn eigen_smoothing_shows_the_evidence_of_the_sum_and_not_its_opposite() {
        // The first channel varies most and speaks against the class where it is high, but a large
        // even second channel decides where the mean pixel lies.
        let a = map(&[0.0, 0.0, 0.0, 8.0, 9.0, 9.0, 9.0, 8.0]);
        for weights in [[-1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]] {
            let plain = weighted_map(&a, &weights, false);
            let smooth = weighted_map(&a, &weights, true);
            let along: f32 = plain.iter().zip(&smooth).map(|(p, s)| p * s).sum();
            assert!(along > 0.0, "{weights:?}: {plain:?} {smooth:?}");
        }
        let (a, g) = (map(&ACTIVATIONS), map(&GRADIENTS));
        let opposite = GRADIENTS.map(|g| -g);
        let (for_it, against) = (
            gradient_map(Method::HiResCam, &a, &g, true),
            gradient_map(Method::HiResCam, &a, &map(&opposite), true),
        );
        assert_close(&for_it, &against.iter().map(|v| -v).collect::<Vec<_>>());
    }

    #[test]
    fn dead_channels_and_zero_gradients_never_give_nan() {
        let (a, g) = (map(&[0.0; 8]), map(&[0.0; 8]));
        for method in Method::ALL {
            for eigen in [false, true] {
                assert!(gradient_map(method, &a, &g, eigen).iter().all(|v| *v == 0.0), "{method}");
            }
        }
    }
}
