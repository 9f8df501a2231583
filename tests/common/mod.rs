//! What the integration tests share: the assets, which lie outside the repository.

#![allow(dead_code)] // each test uses a part

pub mod daemon;
pub mod json;
pub mod onnx;

use std::path::PathBuf;

/// The folder of real networks and photographs: `$GRAFTD_ASSETS`, else `../shared/assets`.
pub fn assets() -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/assets");
    let folder = std::env::var_os("GRAFTD_ASSETS").map_or_else(beside, PathBuf::from);
    if folder.join("models.toml").is_file() {
        Some(folder)
    } else {
        println!("skipped: no assets at {} (set GRAFTD_ASSETS)", folder.display());
        None
    }
}

/// One network of `models.toml`.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct AssetModel {
    pub id: String,
    pub file: String,
    pub input_size: u32,
    pub channels: String,
    pub scale: String,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub feature_map: Option<String>,
    pub embedding_width: Option<usize>,
}

#[derive(serde::Deserialize)]
struct AssetModels {
    model: Vec<AssetModel>,
}

/// All networks of `models.toml` that are meant to run (the int8 one is there for its error).
pub fn models(assets: &std::path::Path) -> Vec<AssetModel> {
    let text = std::fs::read_to_string(assets.join("models.toml")).unwrap();
    let all: AssetModels = toml::from_str(&text).unwrap();
    all.model.into_iter().filter(|model| model.feature_map.is_some()).collect()
}

/// Reads a NumPy file of little-endian values: its shape and raw bytes.
pub fn read_npy(path: &std::path::Path) -> (Vec<usize>, Vec<u8>) {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..6], b"\x93NUMPY");
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..header_end]).into_owned();
    let shape = header.split("'shape': (").nth(1).unwrap().split(')').next().unwrap();
    let shape = shape.split(',').filter_map(|extent| extent.trim().parse().ok()).collect();
    (shape, bytes[header_end..].to_vec())
}

/// The same for 32-bit floats.
pub fn read_npy_f32(path: &std::path::Path) -> (Vec<usize>, Vec<f32>) {
    let (shape, bytes) = read_npy(path);
    let values = bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect();
    (shape, values)
}

/// The input tensors of the three reference photographs, in channels-first order.
pub fn reference_inputs(assets: &std::path::Path, model: &AssetModel) -> Vec<Vec<f32>> {
    let size = model.input_size as usize;
    let (shape, pixels) = read_npy(&assets.join(format!("reference/rgb_u8_{size}.npy")));
    assert_eq!(shape[1..], [size, size, 3]);
    let mut parts = model.scale.split('/');
    let mut next = || parts.next().map_or(1.0, |part| part.trim().parse::<f32>().unwrap());
    let scale = next() / next();
    let source = |channel: usize| if model.channels == "bgr" { 2 - channel } else { channel };
    pixels
        .chunks(size * size * 3)
        .map(|image| {
            let plane = |channel: usize| {
                let (mean, std) = (model.mean[channel], model.std[channel]);
                let values = image.iter().skip(source(channel)).step_by(3);
                values.map(move |&pixel| (f32::from(pixel) * scale - mean) / std)
            };
            (0..3).flat_map(plane).collect()
        })
        .collect()
}
