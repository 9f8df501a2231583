//! Smooth random functions of the plane, for textures.

use super::geometry::{Point, mix};

/// A random number from 0 to 1 for a point of the lattice: a multiplicative hash with the finaliser
/// of `MurmurHash3`.
fn lattice(x: i32, y: i32, seed: u32) -> f32 {
    let mut hash = (x as u32).wrapping_mul(0x9E37_79B1)
        ^ (y as u32).wrapping_mul(0x85EB_CA77)
        ^ seed.wrapping_mul(0xC2B2_AE3D);
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85EB_CA6B);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xC2B2_AE35);
    (hash ^ (hash >> 16)) as f32 / u32::MAX as f32
}

/// Value noise: random at the lattice of whole numbers and smooth in between, 0 to 1.
pub(super) fn smooth([x, y]: Point, seed: u32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let fade = |t: f32| t * t * (3.0 - 2.0 * t);
    let (across, down) = (fade(x - left), fade(y - top));
    let (column, row) = (left as i32, top as i32);
    let line = |row: i32| mix(lattice(column, row, seed), lattice(column + 1, row, seed), across);
    mix(line(row), line(row + 1), down)
}

/// Three octaves of value noise, 0 to 1.
pub(super) fn rough([x, y]: Point, seed: u32) -> f32 {
    let octave = |scale: f32, seed| smooth([x * scale, y * scale], seed);
    (4.0 * octave(1.0, seed) + 2.0 * octave(2.1, seed ^ 0x51) + octave(4.3, seed ^ 0xA7)) / 7.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_continuous_stays_in_its_range_and_depends_on_the_seed() {
        let mut differs = false;
        for i in 0..2000_i16 {
            let p = [f32::from(i) * 0.037 - 31.0, f32::from(i) * 0.019 - 7.0];
            let here = rough(p, 1);
            assert!((0.0..=1.0).contains(&here));
            assert!((rough([p[0] + 1e-3, p[1]], 1) - here).abs() < 0.02);
            differs |= (rough(p, 2) - here).abs() > 0.1;
        }
        assert!(differs);
    }
}
