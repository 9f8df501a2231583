//! What cannot be explained says why, and what nobody waits for any more stops.

use std::time::{Duration, Instant};

use graftd::base::cancel::Cancel;
use graftd::explain::{
    Demand, Evidence, ExplainError, Explainer, Explanation, Method, Request, SmoothGrad, explain,
};
use graftd::graph::{GraphError, Network};

use crate::{OWN, common, named, small};

fn prepare(network: &Network, layer: &str, method: Method) -> Result<Explainer, ExplainError> {
    let layers: Vec<String> =
        [layer].iter().filter(|l| !l.is_empty()).map(|l| (*l).into()).collect();
    Explainer::new(network, &layers, Demand::of(method), false)
}

/// Explains a picture of one colour at the default layer.
fn attempt(network: &Network, request: &Request) -> Result<Explanation, ExplainError> {
    let explainer = prepare(network, "", request.method)?;
    let input = vec![0.5; network.plan().input_len()];
    explain(&explainer, network, &input, None, &OWN, request, &Cancel::default())
}

#[test]
fn an_unknown_layer_and_one_that_is_not_spatial_are_named() {
    let network = small("tiny/logits.onnx");
    let unknown = prepare(&network, "nowhere", Method::GradCam).unwrap_err();
    assert!(matches!(unknown, ExplainError::Graph(GraphError::UnknownTensor(_))), "{unknown:?}");
    assert!(unknown.to_string().contains("nowhere"), "{unknown}");
    let flat = prepare(&network, "features", Method::GradCam).unwrap_err();
    assert!(matches!(flat, ExplainError::NotSpatial { .. }));
    assert!(flat.to_string().contains("features") && flat.to_string().contains("12"), "{flat}");
}

#[test]
fn a_feature_map_of_one_pixel_is_no_layer_to_explain() {
    let network = small("awkward/one-pixel.onnx");
    let refused = prepare(&network, "relu2", Method::GradCam).unwrap_err();
    assert!(matches!(refused, ExplainError::NotSpatial { .. }));
    // The last layer that has a place to point at stands in for it.
    let found = attempt(&network, &Request::default()).unwrap();
    assert_eq!((found.layers[0].as_str(), found.map.height, found.map.width), ("relu1", 4, 4));
    let network = small("awkward/only-one-pixel.onnx");
    let refused = attempt(&network, &Request::default()).unwrap_err();
    assert!(matches!(refused, ExplainError::NoSpatialLayer), "{refused:?}");
    let by_input = Request { method: Method::InputGradient, ..Request::default() };
    assert_eq!(attempt(&network, &by_input).unwrap().map.values.len(), 16 * 16);
}

#[test]
fn a_network_that_answers_nan_is_refused_and_never_drawn() {
    let network = small("awkward/not-a-number.onnx");
    for method in Method::ALL {
        let refused = attempt(&network, &Request { method, ..Request::default() }).unwrap_err();
        assert!(matches!(refused, ExplainError::NotFinite(_)), "{method}: {refused:?}");
    }
}

#[test]
fn a_class_out_of_range_and_an_unknown_label_are_refused() {
    let network = small("tiny/logits.onnx");
    let with = |class: &str| {
        attempt(&network, &Request { class: class.parse().unwrap(), ..Request::default() })
    };
    let range = with("4").unwrap_err();
    assert!(matches!(range, ExplainError::ClassRange { index: 4, classes: 4 }), "{range:?}");
    assert!(matches!(with("0-4").unwrap_err(), ExplainError::ClassRange { .. }));
    let range = with("99999999999999999999999").unwrap_err();
    assert!(range.to_string().contains("out of range"), "{range}");
    assert!(matches!(with("label:tabby").unwrap_err(), ExplainError::UnknownLabel(_)));
}

#[test]
fn methods_that_explain_at_the_input_take_no_layer_and_know_no_evidence_against() {
    let network = small("tiny/logits.onnx");
    for method in [Method::InputGradient, Method::SmoothGrad] {
        for layer in ["relu2", "nowhere"] {
            let refused = prepare(&network, layer, method).unwrap_err();
            assert!(matches!(refused, ExplainError::Unsuitable { field: "layers", .. }));
        }
        for evidence in [Evidence::Against, Evidence::Signed] {
            let request = Request { method, evidence, ..Request::default() };
            let refused = attempt(&network, &request).unwrap_err();
            assert!(matches!(refused, ExplainError::Unsuitable { field: "evidence", .. }));
            assert!(refused.to_string().contains("sign"), "{refused}");
        }
    }
}

#[test]
fn a_backbone_without_a_classifier_needs_a_head() {
    let network = small("tiny/features.onnx");
    let refused = attempt(&network, &Request::default()).unwrap_err();
    assert!(matches!(refused, ExplainError::NoClassifier), "{refused:?}");
    assert!(refused.to_string().contains("head"), "{refused}");
}

#[test]
fn absurd_counts_are_refused_before_any_work() {
    let network = small("tiny/logits.onnx");
    for samples in [0, 1001, u32::MAX] {
        let smooth_grad = SmoothGrad { samples, ..SmoothGrad::default() };
        let request = Request { method: Method::SmoothGrad, smooth_grad, ..Request::default() };
        let refused = attempt(&network, &request).unwrap_err();
        assert!(matches!(refused, ExplainError::Range { .. }), "{samples}: {refused:?}");
    }
}

#[test]
fn score_cam_stops_within_a_run_and_100_ms_when_the_caller_leaves() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "mobilenet-v2");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let explainer = prepare(&network, "", Method::ScoreCam).unwrap();
    let forward = || {
        let began = Instant::now();
        explainer.forward(&network, &input).unwrap();
        began.elapsed()
    };
    let cancel = Cancel::default();
    let (result, waited, run) = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let request = Request { method: Method::ScoreCam, ..Request::default() };
            explain(&explainer, &network, &input, None, &OWN, &request, &cancel)
        });
        // Beside Score-CAM, so that it is as slow as its runs are on a busy machine.
        let run = (0..4).map(|_| forward()).max().unwrap();
        cancel.cancel();
        let left = Instant::now();
        (work.join().unwrap(), left.elapsed(), run)
    });
    assert!(matches!(result, Err(ExplainError::Cancelled(_))));
    // Twice the run: other tests share the machine. All of Score-CAM would be 1280 runs.
    let allowed = Duration::from_millis(100) + 2 * run;
    assert!(waited <= allowed, "{waited:?} after the caller left, a run takes {run:?}");
}
