//! Decoding and resizing against Pillow; `tests/reference/pixels.py` made the fixtures.

use std::path::PathBuf;

use serde::Deserialize;

use super::resize::{Geometry, Resampler};
use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/pixels")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn farthest(ours: &[u8], theirs: &[u8]) -> u8 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[derive(Deserialize)]
struct Decoded {
    width: u32,
    height: u32,
    pixels: String,
}

fn decoded() -> std::collections::BTreeMap<String, Decoded> {
    serde_json::from_slice(&fixture("decoded.json")).unwrap()
}

#[test]
fn every_format_decodes_to_what_pillow_sees() {
    let fixtures = decoded();
    assert!(fixtures.len() >= 53);
    for (name, expected) in fixtures {
        let picture = decode(&fixture(&name), &Limits::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((picture.width, picture.height), (expected.width, expected.height), "{name}");
        // Lossy WebP leaves the inverse transform's rounding and the chroma filter open. So does
        // JPEG, where our decoder does as Pillow's.
        let tolerance = if name == "lossy.webp" { 3 } else { 0 };
        let farthest = farthest(&picture.pixels, &from_hex(&expected.pixels));
        assert!(farthest <= tolerance, "{name}: {farthest} levels from Pillow");
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_has_all_its_pixels() {
    for name in decoded().into_keys() {
        let bytes = fixture(&name);
        let whole = decode(&bytes, &Limits::default()).unwrap();
        for length in 0..bytes.len() {
            if let Ok(picture) = decode(&bytes[..length], &Limits::default()) {
                assert!(picture == whole, "{name} cut at {length} gave other pixels");
                assert!(!name.ends_with("jpg"), "{name} cut at {length} was accepted");
            }
        }
    }
}

#[test]
fn a_file_with_any_byte_changed_escapes_neither_the_guard_nor_the_limits() {
    let limits = Limits { bytes: 1 << 20, pixels: 10_000 };
    for name in decoded().into_keys() {
        let mut bytes = fixture(&name);
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xFF] {
                bytes[at] ^= change;
                if let Ok(picture) = decode(&bytes, &limits) {
                    picture.check().unwrap();
                    assert!(picture.pixels.len() <= 30_000);
                }
                bytes[at] ^= change;
            }
        }
    }
}

#[derive(Deserialize)]
struct Resized {
    width: u32,
    height: u32,
    policy: ResizePolicy,
    size: u32,
    left: u32,
    top: u32,
    inner_width: u32,
    inner_height: u32,
    pixels: String,
}

fn pattern(width: u32, height: u32) -> Picture {
    let pixels = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            let base = x * x * 7 + y * y * 3 + x * y * 5 + (x ^ y) * 37;
            [base as u8, (base + 85) as u8, (base + 170) as u8]
        })
        .collect();
    Picture::new(width, height, pixels).unwrap()
}

#[test]
fn resizing_is_within_one_level_of_pillow_under_every_policy() {
    let cases: Vec<Resized> = serde_json::from_slice(&fixture("resized.json")).unwrap();
    for case in cases {
        let Resized { width, height, policy, size, .. } = case;
        let picture = pattern(width, height);
        let geometry = Geometry::new(policy, width, height, size);
        let target = geometry.target;
        assert_eq!(
            (target.x, target.y, target.width, target.height),
            (case.left, case.top, case.inner_width, case.inner_height),
        );
        let mut resampler = Resampler::default();
        let ours = resampler.resample(&picture, &geometry).unwrap();
        let theirs = from_hex(&case.pixels);
        let farthest = farthest(ours, &theirs);
        assert!(farthest <= 1, "{width} x {height} {policy}: {farthest} levels from Pillow");
        // With the axes in the other order a fifth of them would differ. Where one axis shrinks much
        // more than the other, as squash may ask, Pillow turns the order round itself.
        let differing = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        let alike = policy != ResizePolicy::Squash;
        assert!(
            !alike || differing * 20 <= theirs.len(),
            "{width} x {height} {policy}: {differing}"
        );
    }
}
