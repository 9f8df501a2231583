//! Layers, forward runs that are shared, sanity.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use graftd::base::cancel::Cancel;
use graftd::explain::{
    Demand, Evidence, ExplainError, Explainer, Judge, Map, Method, Request, ScoreKind, explain,
    quality, sanity,
};
use graftd::vision::HeatMap;

use crate::common::onnx::{load, model, node, weights};
use crate::{OWN, common, head, named, run, small};

/// A picture for the tiny networks.
fn picture() -> Vec<f32> {
    (0..3 * 16 * 16).map(|i| (i as f32 * 0.37).sin()).collect()
}

#[test]
fn flip_smoothing_gives_a_picture_and_its_mirror_image_mirrored_maps() {
    let network = small("tiny/logits.onnx");
    let straight = picture();
    let mirrored: Vec<f32> =
        straight.chunks(16).flat_map(|row| row.iter().rev().copied()).collect();
    for method in [Method::GradCam, Method::LayerCam, Method::InputGradient] {
        let class = "2".parse().unwrap();
        let request = Request { method, class, flip_smoothing: true, ..Request::default() };
        let map = run(&network, &straight, &[], &request).map;
        let other = run(&network, &mirrored, &[], &request).map;
        let back = other.raw.chunks(other.width).flat_map(|row| row.iter().rev());
        for (a, b) in map.raw.iter().zip(back) {
            assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{method}: {a} {b}");
        }
        let request = Request { flip_smoothing: false, ..request };
        assert_ne!(run(&network, &straight, &[], &request).map.raw, map.raw, "{method}");
    }
}

#[test]
fn several_layers_give_the_mean_of_their_maps_each_over_its_largest_magnitude() {
    let network = small("tiny/logits.onnx");
    let class = "2".parse().unwrap();
    let request = Request { class, ..Request::default() };
    let of = |layers: &[&str]| {
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        run(&network, &picture(), &layers, &request).map
    };
    let (first, second) = (of(&["relu1"]), of(&["relu2"]));
    let both = of(&["relu1", "relu2"]);
    assert_eq!((both.height, both.width), (first.height, first.width), "that of the larger");
    let share = |map: &Map| {
        let most = map.raw.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let scaled: Vec<f32> = map.raw.iter().map(|value| value / most).collect();
        HeatMap::new(map.height, map.width, &scaled).unwrap().resize(first.height, first.width)
    };
    for ((mean, a), b) in both.raw.iter().zip(share(&first)).zip(share(&second)) {
        assert!((mean - f32::midpoint(a, b)).abs() < 1e-5, "{mean} of {a} and {b}");
    }
    assert_ne!(first.raw, both.raw);
    assert_eq!(of(&["relu1", "relu1"]).raw, first.raw, "a layer counts once");
}

#[test]
fn the_map_of_a_difference_is_the_difference_of_the_maps() {
    let network = small("tiny/softmax.onnx");
    let of = |class: &str, evidence| {
        let request = Request { class: class.parse().unwrap(), evidence, ..Request::default() };
        run(&network, &picture(), &[], &request).map
    };
    let (a, b) = (of("1", Evidence::For), of("3", Evidence::For));
    let difference = of("1-3", Evidence::For);
    for (index, raw) in difference.raw.iter().enumerate() {
        assert!((raw - (a.raw[index] - b.raw[index])).abs() < 1e-5);
    }
    // What speaks for one of two speaks against the other.
    let swapped = of("3-1", Evidence::Against);
    for (x, y) in difference.values.iter().zip(&swapped.values) {
        assert!((x - y).abs() < 1e-5);
    }
    let signed = of("1-3", Evidence::Signed);
    assert!(signed.values.iter().any(|value| *value < 0.0));
}

#[test]
fn the_probability_of_a_network_that_ends_in_a_sigmoid_depends_on_its_own_logit_alone() {
    let network = small("tiny/sigmoid.onnx");
    let of = |kind| {
        let class = "1".parse().unwrap();
        let request = Request { class, score_kind: kind, ..Request::default() };
        run(&network, &picture(), &[], &request)
    };
    let (logit, probability) = (of(ScoreKind::Logit), of(ScoreKind::Probability));
    let p = 1.0 / (1.0 + (-logit.logits[1]).exp());
    for (by_logit, by_probability) in logit.map.raw.iter().zip(&probability.map.raw) {
        let expected = by_logit * p * (1.0 - p);
        assert!((by_probability - expected).abs() < 1e-6, "{by_probability} {expected}");
    }
}

#[test]
fn every_method_answers_with_finite_numbers_even_for_a_picture_of_one_colour() {
    let Some(assets) = common::assets() else { return };
    let (_, network) = named(&assets, "resnet20-cifar10");
    let each = [(0.0, Evidence::For), (1.0, Evidence::Against), (-2.0, Evidence::Signed)];
    for (value, evidence) in each {
        let input = vec![value; network.plan().input_len()];
        for method in Method::ALL {
            let evidence = if method.is_saliency() { Evidence::For } else { evidence };
            let request = Request { method, evidence, flip_smoothing: true, ..Request::default() };
            let found = run(&network, &input, &[], &request);
            assert!(found.map.values.iter().all(|v| v.abs() <= 1.0), "{method} {value}");
        }
    }
}

#[test]
fn layers_half_way_down_and_several_together_are_explained_through_skip_connections() {
    let Some(assets) = common::assets() else { return };
    for id in ["mobilenet-v2", "shufflenet-v2", "squeezenet-1.1", "mobilenet-v3-small"] {
        let (model, network) = named(&assets, id);
        let input = common::reference_inputs(&assets, &model).remove(0);
        let spatial: Vec<String> =
            network.layers().iter().filter(|l| l.spatial).map(|l| l.name.clone()).collect();
        let middle = spatial[spatial.len() / 2].clone();
        let last = spatial[spatial.len() - 1].clone();
        for method in [Method::GradCam, Method::AblationCam] {
            let request = Request { method, channels: Some(4), ..Request::default() };
            let found = run(&network, &input, std::slice::from_ref(&middle), &request);
            assert_eq!(found.layers, std::slice::from_ref(&middle));
            let both = run(&network, &input, &[middle.clone(), last.clone()], &request);
            assert_eq!((both.map.height, both.map.width), (found.map.height, found.map.width));
        }
    }
}

#[test]
fn a_map_changes_when_the_network_forgets_and_its_quality_is_measured() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "resnet20-cifar10");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let request = Request::default();
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let cancel = Cancel::default();
    let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    let cascade = |most| {
        let found = sanity::cascade(&network, &input, &OWN, &found, &request, most, &cancel);
        found.unwrap()
    };
    let whole = cascade(None);
    for stage in whole.stages() {
        println!("{:<40} {:.3}", stage.node, stage.correlation);
    }
    assert!(whole.stages().len() >= 20, "one stage a layer of twenty");
    assert_eq!(whole.changed(), Some(true));
    assert!(whole.at_the_end().unwrap().abs() <= sanity::THRESHOLD);
    let few = cascade(Some(4));
    assert_eq!(few.stages().len(), 4);
    assert_eq!(few.stages()[0], whole.stages()[0], "the classifier alone comes first");
    assert_eq!(few.stages()[3].node, whole.stages().last().unwrap().node, "down to the picture");
    let measured =
        quality::measure(&explainer, &network, &input, &OWN, &found, &cancel).unwrap().unwrap();
    println!("{} {} {}", measured.insertion, measured.deletion, measured.average_drop);
    assert!(measured.insertion > measured.deletion);
    assert!((0.0..=1.0).contains(&measured.average_drop));
}

#[test]
fn the_first_stage_of_the_cascade_shuffles_the_head_or_the_classifier_alone() {
    let network = small("tiny/logits.onnx");
    let head = head(network.embedding().width);
    let layers = ["conv2", "conv1"];
    for judge in [OWN, Judge { head: Some(&head), labels: &[] }] {
        let by_head = judge.head.is_some();
        let first = if by_head { "the head" } else { "classifier" };
        let cancel = Cancel::default();
        let of = |method| {
            let request = Request { method, ..Request::default() };
            let demand = Demand::of(method);
            let explainer = Explainer::new(&network, &[], demand, by_head).unwrap();
            let found =
                explain(&explainer, &network, &picture(), None, &judge, &request, &cancel).unwrap();
            sanity::cascade(&network, &picture(), &judge, &found, &request, None, &cancel).unwrap()
        };
        let cascade = of(Method::GradCam);
        let nodes: Vec<&str> = cascade.stages().iter().map(|stage| stage.node.as_str()).collect();
        assert_eq!(nodes.len(), 3, "{nodes:?}");
        for (node, expected) in nodes.iter().zip([first].iter().chain(&layers)) {
            assert!(node.starts_with(expected), "{nodes:?}");
        }
        assert!(cascade.stages()[0].correlation < 0.999, "what judges has forgotten");
        // Eigen-CAM looks at no class: only the layers below can change it.
        let cascade = of(Method::EigenCam);
        assert!(cascade.stages()[0].correlation > 0.999);
        assert!(cascade.stages()[2].correlation < 0.999);
    }
}

#[test]
fn a_map_of_one_height_gets_no_verdict_of_sanity() {
    let network = small("tiny/logits.onnx");
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let of = |class: &str| {
        let request = Request { class: class.parse().unwrap(), ..Request::default() };
        let cancel = Cancel::default();
        let input = picture();
        let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
        sanity::cascade(&network, &input, &OWN, &found, &request, None, &cancel).unwrap()
    };
    let cascade = of("1-1");
    assert_eq!(cascade, sanity::Cascade::Flat);
    assert_eq!((cascade.at_the_end(), cascade.changed()), (None, None));
    assert!(of("1").changed().is_some());
}

#[test]
fn work_gives_way_between_the_forward_run_and_the_derivatives() {
    let network = small("tiny/logits.onnx");
    for method in [Method::GradCam, Method::InputGradient] {
        let explainer = Explainer::new(&network, &[], Demand::of(method), false).unwrap();
        let before = network.plan().runs();
        let (flag, places) = (Cancel::default(), Arc::new(AtomicUsize::new(0)));
        let (raised, counted) = (flag.clone(), Arc::clone(&places));
        let cancel = flag.giving_way(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            raised.cancel();
            true
        });
        let request = Request { method, ..Request::default() };
        let found = explain(&explainer, &network, &picture(), None, &OWN, &request, &cancel);
        assert!(matches!(found, Err(ExplainError::Cancelled(_))), "{method}: {found:?}");
        assert_eq!(places.load(Ordering::Relaxed), 1, "{method}");
        let runs = network.plan().runs() - before;
        assert_eq!(runs, u64::from(explainer.shares_network_plan()), "{method}: it had begun");
    }
}

#[test]
fn layers_are_explained_in_the_order_of_the_computation_however_they_are_named() {
    let network = small("tiny/logits.onnx");
    let of = |layers: &[&str]| {
        let layers: Vec<String> = layers.iter().map(ToString::to_string).collect();
        Explainer::chosen_layers(&network, &layers, Demand::LayerGradient, false).unwrap()
    };
    assert_eq!(of(&["relu2", "relu1", "relu2"]), ["relu1", "relu2"]);
    assert_eq!(of(&[]), of(&["relu2"]), "the default is the last one");
}

#[test]
fn an_explainer_is_charged_for_the_packed_weights_of_its_plans_and_for_those_of_its_sweep() {
    // A kernel of 64 x 64 numbers, which tract packs, behind the layer and one before it.
    let nodes = vec![
        node("Conv", &["image", "first"], "early"),
        node("Relu", &["early"], "layer"),
        node("Conv", &["layer", "second"], "late"),
        node("Relu", &["late"], "map"),
        node("GlobalAveragePool", &["map"], "pooled"),
        node("Flatten", &["pooled"], "flat"),
        node("Gemm", &["flat", "matrix"], "logits"),
    ];
    let kernels = vec![
        weights("first", &[64, 3, 4, 4]),
        weights("second", &[64, 64, 1, 1]),
        weights("matrix", &[64, 100]),
    ];
    let bytes_of = |name: &str| {
        let found = kernels.iter().find(|kernel| kernel.name == name).unwrap();
        found.float_data.len() * size_of::<f32>()
    };
    let [first, second, matrix] = ["first", "second", "matrix"].map(bytes_of);
    let network = load(&model(&[1, 3, 16, 16], nodes, kernels.clone())).unwrap();
    let charged = |layer: &str, demand| {
        let explainer = Explainer::new(&network, &[layer.into()], demand, false).unwrap();
        explainer.constant_bytes()
    };
    let holds = |charged: usize, held: usize| {
        assert!((held..2 * held).contains(&charged), "{charged} bytes charged, {held} held");
    };
    holds(charged("layer", Demand::Values), first + second + matrix);
    // The sweep reads what lies behind the layer once more, as it is.
    holds(charged("layer", Demand::LayerGradient), first + 2 * (second + matrix));
    holds(charged("layer", Demand::Tail), first + 2 * (second + matrix));
    // The network's own plan and the closed form: from the logits to the mean only.
    holds(charged("map", Demand::LayerGradient), matrix);
    assert_eq!(charged("map", Demand::Values), 0);
}

#[test]
fn a_prediction_can_be_explained_without_a_second_forward_run() {
    let Some(assets) = common::assets() else { return };
    let (model, network) = named(&assets, "mobilenet-v2");
    let input = common::reference_inputs(&assets, &model).remove(0);
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let request = Request::default();
    let cancel = Cancel::default();
    let before = network.plan().runs();
    let forward = Some(explainer.forward(&network, &input).unwrap());
    let short = explain(&explainer, &network, &input, forward, &OWN, &request, &cancel).unwrap();
    assert_eq!(network.plan().runs() - before, 1);
    let whole = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    assert_eq!(short.map, whole.map);

    // Printed, not asserted: times on a shared machine.
    let middle = network.layers().iter().filter(|layer| layer.spatial).count() / 2;
    let middle = network.layers().iter().filter(|layer| layer.spatial).nth(middle).unwrap();
    let layers = [middle.name.clone()];
    let half = Explainer::new(&network, &layers, Demand::LayerGradient, false).unwrap();
    let median = |work: &dyn Fn()| {
        let mut times: Vec<f64> = (0..15)
            .map(|_| {
                let began = Instant::now();
                work();
                began.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let run = |explainer: &Explainer| {
        explain(explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
    };
    let predict = median(&|| drop(network.plan().run(&input).unwrap()));
    println!(
        "mobilenet-v2: predict {predict:.1} ms, explain x{:.2}, at {} x{:.2}",
        median(&|| run(&explainer)) / predict,
        middle.name,
        median(&|| run(&half)) / predict
    );
}
