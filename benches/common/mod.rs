//! What the benchmarks share: a picture that needs no assets.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use graftd::vision::Picture;

/// Smooth colour with some grain: about as many bytes a pixel, as a JPEG, as a photograph of a camera.
pub fn photograph(width: u32, height: u32) -> Picture {
    let mut noise = 1_u32;
    let pixels = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .flat_map(|(x, y)| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let grain = (noise >> 28) as u8;
            let wave = |divisor: u32| ((f64::from(x + y) / f64::from(divisor)).sin() * 80.0) as i32;
            [wave(40), wave(90), wave(23)].map(|value| (value + 120) as u8 + grain)
        })
        .collect();
    Picture::new(width, height, pixels).unwrap()
}
