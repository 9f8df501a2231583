//! Do maps lie where the objects are?

use std::path::Path;

use graftd::base::cancel::Cancel;
use graftd::explain::{Demand, Explainer, Request, explain, quality};
use graftd::vision::{BoundingBox, Limits, Preprocessing, Preset, decode, preprocess};
use serde_json::Value;

use crate::{OWN, common, floats, named};

/// The elephants with their boxes, ready for mobilenet-v2.
fn elephants(assets: &Path) -> Vec<(String, Vec<BoundingBox>)> {
    let folder = assets.join("images/boxes");
    let text = std::fs::read_to_string(folder.join("boxes.json")).unwrap();
    let entries: Value = serde_json::from_str(&text).unwrap();
    let of = |entry: &Value| {
        let boxes = entry["boxes"].as_array().unwrap().iter().map(floats);
        let boxes = boxes.map(|b| BoundingBox { x0: b[0], y0: b[1], x1: b[2], y1: b[3] });
        let path = folder.join(entry["file"].as_str().unwrap());
        (path.to_string_lossy().into_owned(), boxes.collect())
    };
    entries.as_array().unwrap().iter().map(of).collect()
}

#[test]
fn ten_of_ten_elephants_are_seen_where_they_are() {
    const ELEPHANTS: [usize; 3] = [101, 385, 386];
    let Some(assets) = common::assets() else { return };
    let (_, network) = named(&assets, "mobilenet-v2");
    let preprocessing = Preprocessing::preset(Preset::Imagenet, 224);
    let explainer = Explainer::new(&network, &[], Demand::LayerGradient, false).unwrap();
    let (mut hits, mut elephants_seen, mut energy) = (0, 0, 0.0);
    let images = elephants(&assets);
    for (path, boxes) in &images {
        let picture = decode(&std::fs::read(path).unwrap(), &Limits::default()).unwrap();
        let mut input = vec![0.0; preprocessing.tensor_len()];
        let layout = network.input().layout;
        let placement = preprocess(&picture, &preprocessing, layout, &mut input).unwrap();
        let request = Request::default();
        let cancel = Cancel::default();
        let found = explain(&explainer, &network, &input, None, &OWN, &request, &cancel).unwrap();
        let truth = quality::Truth { boxes, placement: &placement };
        hits += usize::from(truth.is_hit(&found));
        elephants_seen += usize::from(ELEPHANTS.contains(&found.score.class));
        energy += found.map.energy_inside(boxes, &placement).unwrap() / images.len() as f32;
    }
    println!(
        "elephants: top-1 {elephants_seen}/10, peak in a box {hits}/10, energy inside {energy:.3} (enlarged to the input)"
    );
    assert_eq!((elephants_seen, hits), (10, 10));
    assert!(energy >= 0.64, "{energy}");
}
