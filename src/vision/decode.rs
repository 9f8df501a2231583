//! From the bytes of a file to an upright picture.

use std::io::Cursor;

use image::error::ImageError;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::error::shorten;
use super::orient::{is_quarter_turn, upright};
use super::{Limits, Picture, VisionError, guard, jpeg};

/// Decodes a JPEG (baseline, progressive, grey, CMYK, YCCK), PNG (any depth, palette, alpha), WebP,
/// BMP or GIF (its first frame) into an upright RGB picture.
///
/// The format is told from the bytes, never from a name. EXIF orientation is applied. Alpha is
/// dropped, not blended, as Pillow's `convert("RGB")` does and so every reference pipeline; what the
/// first frame of a GIF leaves free is black; 16-bit channels are rounded to 8. Colour profiles are ignored, as there. The pixels of a JPEG are those
/// of Pillow, every one.
///
/// Limits are checked on the size in the header before any pixel is allocated, and a decoder's
/// panic is caught. What decoding takes beside is told at [`Limits::pixels`]. A file that is cut off is
/// an error, never a picture with invented pixels.
///
/// # Errors
/// See [`VisionError`]; all are the sender's to mend.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, VisionError> {
    limits.check_bytes(bytes.len())?;
    let format = image::guess_format(bytes).map_err(|_| VisionError::UnknownFormat)?;
    let name = name(format).ok_or(VisionError::UnknownFormat)?;
    let upright_picture = || {
        let (picture, orientation) = if format == ImageFormat::Jpeg {
            jpeg::decode(bytes, limits)?
        } else {
            decode_as(format, name, bytes, limits)?
        };
        Ok(upright(picture, orientation))
    };
    match guard::catch(upright_picture) {
        Ok(decoded) => decoded,
        Err(guard::Panicked) => Err(VisionError::DecoderPanicked { format: name }),
    }
}

/// Columns and rows of the upright picture, from the header alone.
///
/// # Errors
/// As [`decode`], for what the header can show.
pub fn size(bytes: &[u8], limits: &Limits) -> Result<(u32, u32), VisionError> {
    limits.check_bytes(bytes.len())?;
    let format = image::guess_format(bytes).map_err(|_| VisionError::UnknownFormat)?;
    let name = name(format).ok_or(VisionError::UnknownFormat)?;
    let read = || {
        if format == ImageFormat::Jpeg {
            return jpeg::size(bytes, limits);
        }
        let mut decoder = open(format, name, bytes, limits)?;
        let (width, height) = decoder.dimensions();
        Ok((width, height, decoder.orientation().unwrap_or(Orientation::NoTransforms)))
    };
    let (width, height, orientation) =
        guard::catch(read).map_err(|_| VisionError::DecoderPanicked { format: name })??;
    Ok(if is_quarter_turn(orientation) { (height, width) } else { (width, height) })
}

/// Decodes what the `image` crate decodes: everything but JPEG. The picture is as it lies in the
/// file.
fn decode_as(
    format: ImageFormat,
    name: &'static str,
    bytes: &[u8],
    limits: &Limits,
) -> Result<(Picture, Orientation), VisionError> {
    let fault = |error| describe(name, error);
    let mut decoder = open(format, name, bytes, limits)?;
    let (width, height) = decoder.dimensions();
    // Damaged metadata says nothing about the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let pixels = if decoder.color_type() == ColorType::Rgb8 {
        let mut pixels = vec![0; decoder.total_bytes() as usize];
        decoder.read_image(&mut pixels).map_err(fault)?;
        pixels
    } else {
        DynamicImage::from_decoder(decoder).map_err(fault)?.into_rgb8().into_raw()
    };
    Ok((Picture::new(width, height, pixels)?, orientation))
}

/// Reads the header and holds it against the limits.
fn open<'a>(
    format: ImageFormat,
    name: &'static str,
    bytes: &'a [u8],
    limits: &Limits,
) -> Result<impl ImageDecoder + 'a, VisionError> {
    if format == ImageFormat::WebP && !is_whole_riff(bytes) {
        return Err(VisionError::Truncated { format: name });
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allocation = image::Limits::no_limits();
    // Room for the largest picture with four channels, or half of it with 16 bits each; a GIF's frame
    // has the same beside it. What is made of either, three channels of 8 bits, comes on top.
    allocation.max_alloc = Some(limits.pixels.saturating_mul(4).saturating_add(1 << 20));
    reader.limits(allocation);
    let decoder = reader.into_decoder().map_err(|error| describe(name, error))?;

    let (width, height) = decoder.dimensions();
    limits.check_size(width, height)?;
    if decoder.total_bytes() > limits.pixels.saturating_mul(4) {
        return Err(VisionError::TooManyPixels { width, height, limit: limits.pixels / 2 });
    }
    Ok(decoder)
}

/// Whether a WebP file has all the bytes that its RIFF header announces. Its orientation stands behind
/// its pixels, so that the decoder alone would take a file without it for a whole one.
fn is_whole_riff(bytes: &[u8]) -> bool {
    let size = bytes.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
    size.is_some_and(|size| u64::from(size) + 8 <= bytes.len() as u64)
}

/// The name of a format that is read, none for others that the crate would recognise.
fn name(format: ImageFormat) -> Option<&'static str> {
    // A list of what is read; formats that the crate adds later are not.
    #[allow(clippy::wildcard_enum_match_arm)]
    match format {
        ImageFormat::Jpeg => Some("JPEG"),
        ImageFormat::Png => Some("PNG"),
        ImageFormat::WebP => Some("WebP"),
        ImageFormat::Bmp => Some("BMP"),
        ImageFormat::Gif => Some("GIF"),
        _ => None,
    }
}

fn describe(format: &'static str, error: ImageError) -> VisionError {
    match error {
        ImageError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            VisionError::Truncated { format }
        }
        ImageError::Unsupported(error) => {
            VisionError::Unsupported { format, reason: shorten(&error.to_string()) }
        }
        error @ (ImageError::Decoding(_)
        | ImageError::Encoding(_)
        | ImageError::Parameter(_)
        | ImageError::Limits(_)
        | ImageError::IoError(_)) => {
            VisionError::Malformed { format, reason: shorten(&error.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vision::{self, encode};

    fn refused(bytes: &[u8]) -> VisionError {
        decode(bytes, &Limits::default()).unwrap_err()
    }

    #[test]
    fn nothing_and_nonsense_are_told_apart() {
        assert!(matches!(refused(b""), VisionError::Empty));
        for bytes in [&b"hello"[..], b"%PDF-1.7", b"II*\0\x08\0\0\0", b"\0\0\x01\0\x01\0", b"\xFF"]
        {
            assert!(matches!(refused(bytes), VisionError::UnknownFormat), "{bytes:?}");
        }
    }

    #[test]
    fn more_bytes_than_the_limit_are_refused_unread() {
        let limits = Limits { bytes: 10, ..Limits::default() };
        let error = decode(&[0; 11], &limits).unwrap_err();
        assert!(matches!(error, VisionError::TooManyBytes { bytes: 11, limit: 10 }));
    }

    /// The first bytes of files that declare 65,535 x 65,535 pixels (WebP: 16,383 x 16,383, near all it
    /// can express) and hold none.
    fn giants() -> [Vec<u8>; 5] {
        let side = 65_535_u32;
        let jpeg = [
            &[0xFF, 0xD8, 0xFF, 0xC0, 0, 17, 8, 0xFF, 0xFF, 0xFF, 0xFF, 3][..],
            &[1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0],
            &[0xFF, 0xDA, 0, 12, 3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0, 0xFF, 0xD9],
        ]
        .concat();
        let mut png = encode(&tiny(), vision::ImageFormat::Png).unwrap();
        png[16..20].copy_from_slice(&side.to_be_bytes());
        png[20..24].copy_from_slice(&side.to_be_bytes());
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        let mut bmp = [b"BM".as_slice(), &[0; 12], &40_u32.to_le_bytes()].concat();
        bmp[10] = 54;
        bmp.extend([side.to_le_bytes(), side.to_le_bytes()].concat());
        bmp.extend([1, 0, 24, 0]);
        bmp.resize(60, 0);
        let gif = [
            b"GIF89a\xFF\xFF\xFF\xFF\x80\0\0".as_slice(),
            &[0; 6],
            b",\0\0\0\0",
            &[0xFF; 4],
            &[0, 2, 1],
        ]
        .concat();
        // VP8L: signature, then 14 bits of width - 1 and 14 of height - 1.
        let webp = b"RIFF\x12\0\0\0WEBPVP8L\x06\0\0\0\x2F\xFE\xBF\xFF\x0F\0".to_vec();
        [jpeg, png, bmp, gif, webp]
    }

    fn tiny() -> Picture {
        Picture::new(1, 1, vec![9; 3]).unwrap()
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                crc >> 1 ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
            })
        })
    }

    #[test]
    fn a_giant_header_over_a_tiny_body_is_refused_by_its_size() {
        for (index, bytes) in giants().into_iter().enumerate() {
            let error = refused(&bytes);
            assert!(matches!(error, VisionError::TooManyPixels { .. }), "file {index}: {error}");
        }
    }

    #[test]
    fn the_thinnest_pictures_decode() {
        for (width, height) in [(1, 1), (1, 65_535), (65_535, 1)] {
            let picture =
                Picture::new(width, height, vec![200; 3 * (width * height) as usize]).unwrap();
            for format in [vision::ImageFormat::Png, vision::ImageFormat::Jpeg { quality: 90 }] {
                let bytes = encode(&picture, format).unwrap();
                let back = decode(&bytes, &Limits::default()).unwrap();
                assert_eq!((back.width, back.height), (width, height));
                assert!(back.pixels.iter().all(|value| value.abs_diff(200) <= 1));
            }
        }
    }

    #[test]
    fn the_pixel_limit_is_exact() {
        let picture = Picture::new(30, 20, vec![0; 1800]).unwrap();
        let png = encode(&picture, vision::ImageFormat::Png).unwrap();
        assert!(decode(&png, &Limits { pixels: 600, ..Limits::default() }).is_ok());
        let error = decode(&png, &Limits { pixels: 599, ..Limits::default() }).unwrap_err();
        assert!(matches!(error, VisionError::TooManyPixels { width: 30, height: 20, limit: 599 }));
    }

    proptest::proptest! {
        #[test]
        fn bytes_behind_a_true_signature_never_panic(
            signature in proptest::sample::select(vec![
                &b"\xFF\xD8\xFF"[..], b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"BM", b"GIF89a",
            ]),
            body: Vec<u8>,
        ) {
            let _ = decode(&[signature, &body].concat(), &Limits::default());
        }
    }

    #[test]
    fn the_header_tells_the_size_of_the_upright_picture() {
        let picture = Picture::new(5, 3, vec![7; 45]).unwrap();
        for format in [vision::ImageFormat::Png, vision::ImageFormat::Jpeg { quality: 90 }] {
            let bytes = encode(&picture, format).unwrap();
            assert_eq!(size(&bytes, &Limits::default()).unwrap(), (5, 3));
        }
        let few = Limits { pixels: 14, ..Limits::default() };
        let bytes = encode(&picture, vision::ImageFormat::Png).unwrap();
        assert!(matches!(size(&bytes, &few), Err(VisionError::TooManyPixels { .. })));
        let refused = size(b"no picture", &Limits::default());
        assert!(matches!(refused, Err(VisionError::UnknownFormat)));
    }
}
