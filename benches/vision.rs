//! What a photograph costs before the network sees it: `cargo bench --bench vision`.
//!
//! The pictures are made here, so that the figures need no assets: smooth colour with some noise,
//! about as many bytes a pixel as a photograph of a camera.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod common;

use common::photograph;
use criterion::{Criterion, criterion_group, criterion_main};
use graftd::vision::{
    ImageFormat, Limits, Preprocessing, Preprocessor, Preset, TensorLayout, decode, encode,
};

fn decoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(20);
    for (width, height) in [(640, 480), (1920, 1080), (4000, 3000)] {
        let jpeg = encode(&photograph(width, height), ImageFormat::Jpeg { quality: 90 }).unwrap();
        group.bench_function(format!("{width}x{height}"), |bencher| {
            bencher.iter(|| decode(&jpeg, &Limits::default()).unwrap());
        });
    }
    group.finish();
}

fn preprocessing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("preprocess");
    let preprocessing = Preprocessing::preset(Preset::Imagenet, 224);
    let mut tensor = vec![0.0; preprocessing.tensor_len()];
    let mut preprocessor = Preprocessor::new();
    for (width, height) in [(640, 480), (1920, 1080), (4000, 3000)] {
        let picture = photograph(width, height);
        group.bench_function(format!("{width}x{height}"), |bencher| {
            bencher.iter(|| {
                let layout = TensorLayout::Nchw;
                preprocessor.run(&picture, &preprocessing, layout, &mut tensor).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoding, preprocessing);
criterion_main!(benches);
