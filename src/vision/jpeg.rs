//! JPEG files. libjpeg-turbo-rs decodes them to the very pixels of libjpeg-turbo and so of Pillow,
//! which networks are trained and judged with. It matters: a decoder that rounds the chroma in
//! another way changed what a small network answered on 13 of 501 photographs.

use image::metadata::Orientation;
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use super::error::shorten;
use super::{Limits, Picture, VisionError};

const FORMAT: &str = "JPEG";

/// Most scans of a file. Encoders write about ten; each costs a pass over all blocks however few
/// bytes it has.
const SCANS: usize = 100;

/// What the decoder calls the memory that it expects to take.
const MEMORY: &str = "estimated decode memory";

/// The picture as it lies in the file, and how to turn it upright.
pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<(Picture, Orientation), VisionError> {
    let mut decoder = open(bytes, limits)?;
    let frame = decoder.header();
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    if frame.precision != 8 || frame.is_lossless || decoder.is_arithmetic() {
        return Err(unsupported("it is 12-bit, lossless or arithmetic-coded"));
    }
    let format = match frame.components.len() {
        1 | 3 => PixelFormat::Rgb,
        4 => PixelFormat::Cmyk,
        _ => return Err(unsupported("it has neither one, three nor four channels")),
    };
    decoder.set_output_format(format);
    // As libjpeg does unless told otherwise. It concerns progressive files without their last scans.
    decoder.set_block_smoothing(true);
    let orientation = orientation(&decoder);

    let decoded = decoder.decode_image().map_err(describe)?.into_vec();
    let pixels = if format == PixelFormat::Cmyk { multiplied(&decoded) } else { decoded };
    let picture = Picture::new(width, height, pixels)?;
    Ok((picture, orientation))
}

/// Columns and rows as they lie in the file, and how to turn them upright; no pixel is decoded.
pub(super) fn size(bytes: &[u8], limits: &Limits) -> Result<(u32, u32, Orientation), VisionError> {
    let decoder = open(bytes, limits)?;
    let frame = decoder.header();
    Ok((u32::from(frame.width), u32::from(frame.height), orientation(&decoder)))
}

/// Reads the header and holds it against the limits.
fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<Decoder<'a>, VisionError> {
    if !is_whole(bytes) {
        return Err(VisionError::Truncated { format: FORMAT });
    }
    let longest = usize::from(u16::MAX);
    let limit = DecodeLimits {
        max_width: longest,
        max_height: longest,
        max_pixels: limits.pixels,
        max_scans: SCANS,
        max_memory: Some(limits.decoding_bytes()),
    };
    let decoder = Decoder::new_with_limits(bytes, limit).map_err(describe)?;
    let frame = decoder.header();
    limits.check_size(u32::from(frame.width), u32::from(frame.height))?;
    Ok(decoder)
}

/// Damaged metadata says nothing about the pixels.
fn orientation(decoder: &Decoder<'_>) -> Orientation {
    let exif = decoder.exif_data().and_then(Orientation::from_exif_chunk);
    exif.unwrap_or(Orientation::NoTransforms)
}

/// RGB of cyan, magenta, yellow and black, each multiplied by black, as Pillow's `convert("RGB")`
/// does. Samples are taken as inverted (255 is no ink), as Adobe writes them and everyone after it,
/// whether or not the file says so.
fn multiplied(inks: &[u8]) -> Vec<u8> {
    let (inks, _) = inks.as_chunks::<4>();
    let mut pixels = Vec::with_capacity(3 * inks.len());
    for [cyan, magenta, yellow, black] in inks {
        let black = u32::from(*black);
        pixels.extend(
            [cyan, magenta, yellow].map(|ink| ((u32::from(*ink) * black + 127) / 255) as u8),
        );
    }
    pixels
}

fn describe(error: JpegError) -> VisionError {
    let reason = shorten(&error.to_string());
    // Its list of errors is open: what it adds later is most likely about damage, too.
    #[allow(clippy::wildcard_enum_match_arm)]
    match error {
        JpegError::LimitExceeded { what: MEMORY, actual: needed, limit } => {
            VisionError::TooMuchMemory { format: FORMAT, needed, limit }
        }
        JpegError::Unsupported(_)
        | JpegError::LimitExceeded { .. }
        | JpegError::AllocationFailed { .. } => VisionError::Unsupported { format: FORMAT, reason },
        _ => VisionError::Malformed { format: FORMAT, reason },
    }
}

fn unsupported(reason: &str) -> VisionError {
    VisionError::Unsupported { format: FORMAT, reason: reason.into() }
}

/// Whether the file has its end-of-image marker (ITU-T T.81, section B.1), found by walking the
/// marker segments, so that the end of an embedded thumbnail does not count. What follows the end
/// (cameras append previews) does not matter. The decoder itself does without the marker, and would
/// take a progressive file that lost its last scans for a whole one.
fn is_whole(bytes: &[u8]) -> bool {
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;

    let mut at = 0;
    loop {
        let Some((marker, next)) = next_marker(bytes, at) else { return false };
        at = next;
        match marker {
            END_OF_IMAGE => return true,
            START_OF_IMAGE => {}
            _ => {
                let Some(&[high, low]) = bytes.get(at..at + 2) else { return false };
                // The length counts its own two bytes; after a scan's header come its data, which
                // `next_marker` skips like anything that is not a marker.
                at += usize::from(u16::from_be_bytes([high, low])).max(2);
                if marker != START_OF_SCAN && at > bytes.len() {
                    return false;
                }
            }
        }
    }
}

/// The first marker at or after `at`, and the position behind it. Stuffed zeros, restart markers
/// and TEM stand alone and are part of the data.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        let rest = bytes.get(at..)?;
        let found = rest.iter().position(|byte| *byte == 0xFF)?;
        match rest.get(found + 1)? {
            // A fill byte: the marker may begin at the next one.
            0xFF => at += found + 1,
            0x00 | 0x01 | 0xD0..=0xD7 => at += found + 2,
            marker => return Some((*marker, at + found + 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{ImageFormat, encode};

    #[test]
    fn the_end_of_a_thumbnail_inside_a_segment_is_not_the_end_of_the_image() {
        let thumbnail = [0xFF, 0xE1, 0x00, 0x06, 0xFF, 0xD8, 0xFF, 0xD9];
        let scan = [0xFF, 0xDA, 0x00, 0x02, 0x12, 0xFF, 0x00, 0xFF, 0xD3, 0x34];
        let mut file = [&[0xFF, 0xD8], &thumbnail[..], &scan[..]].concat();
        assert!(!is_whole(&file));
        file.extend([0xFF, 0xD9]);
        assert!(is_whole(&file));
        file.extend([0xFF, 0xD8, 0x00]); // an appended preview
        assert!(is_whole(&file));
    }

    /// A JPEG of one block after `frame` has changed it from its frame header on.
    fn with_frame(frame: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let picture = Picture::new(8, 8, vec![77; 192]).unwrap();
        let mut file = encode(&picture, ImageFormat::Jpeg { quality: 90 }).unwrap();
        let at = file.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
        frame(&mut file[at..]);
        file
    }

    fn two_channels(frame: &mut [u8]) {
        let scan = frame.windows(2).position(|marker| marker == [0xFF, 0xDA]).unwrap();
        frame[9] = 2;
        frame[scan + 4] = 2;
    }

    #[test]
    fn kinds_that_are_not_read_say_so() {
        let kinds: [(&str, Vec<u8>); 4] = [
            ("12-bit", with_frame(|frame| frame[4] = 12)),
            ("lossless", with_frame(|frame| frame[1] = 0xC3)),
            ("arithmetic-coded", with_frame(|frame| frame[1] = 0xC9)),
            ("two channels", with_frame(two_channels)),
        ];
        for (kind, file) in kinds {
            let error = decode(&file, &Limits::default()).unwrap_err();
            assert!(matches!(error, VisionError::Unsupported { .. }), "{kind}: {error}");
        }
    }

    #[test]
    fn a_progressive_file_is_refused_at_half_the_pixels_of_a_baseline_one() {
        let file = |name: &str| {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/pixels/");
            std::fs::read(format!("{folder}{name}.jpg")).unwrap()
        };
        let (baseline, progressive) = (file("baseline"), file("progressive"));
        let (picture, _) = decode(&baseline, &Limits::default()).unwrap();
        let pixels = u64::from(picture.width) * u64::from(picture.height);
        let limits = |pixels| Limits { pixels, ..Limits::default() };
        decode(&baseline, &limits(pixels)).unwrap();
        let error = decode(&progressive, &limits(pixels * 3 / 2)).unwrap_err();
        assert!(matches!(error, VisionError::TooMuchMemory { .. }), "{error}");
        assert!(error.to_string().contains("engine.max_megapixels"));
        decode(&progressive, &limits(pixels * 5 / 2)).unwrap();
    }

    #[test]
    fn more_scans_than_any_encoder_writes_are_refused_before_the_first_is_decoded() {
        let progressive = with_frame(|frame| frame[1] = 0xC2);
        let scan = progressive.windows(2).position(|marker| marker == [0xFF, 0xDA]).unwrap();
        let scans = progressive[scan..progressive.len() - 2].repeat(SCANS + 1);
        let file = [&progressive[..scan], &scans, &[0xFF, 0xD9]].concat();
        let error = decode(&file, &Limits::default()).unwrap_err();
        let VisionError::Unsupported { reason, .. } = error else { panic!("{error}") };
        assert!(reason.contains("scan count"), "{reason}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            is_whole(&bytes);
        }
    }
}
