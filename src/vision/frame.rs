//! Raw frames as cameras deliver them.

use super::preprocessing::named;
use super::{Limits, Picture, VisionError};

/// How the bytes of a raw frame become colours.
///
/// The YUV formats are read as ITU-R BT.601 with limited range (luma 16 to 235, chroma 16 to 240),
/// what V4L2 cameras deliver unless they say otherwise; chroma is repeated, not interpolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PixelFormat {
    /// 3 bytes a pixel: red, green, blue.
    Rgb8,
    /// 3 bytes a pixel: blue, green, red (OpenCV).
    Bgr8,
    /// 1 byte a pixel: brightness.
    Gray8,
    /// A plane of Y, then a plane of interleaved U and V at half the size; both with the stride.
    Nv12,
    /// A plane of Y with the stride, then one of U and one of V at half the size with half the
    /// stride, rounded up.
    I420,
    /// 4 bytes for two pixels: Y0 U Y1 V (also called YUY2).
    Yuyv,
}

named!(PixelFormat {
    Rgb8 = "rgb8",
    Bgr8 = "bgr8",
    Gray8 = "gray8",
    Nv12 = "nv12",
    I420 = "i420",
    Yuyv = "yuyv",
});

/// One uncompressed frame.
#[derive(Clone, Copy)]
pub struct RawFrame<'a> {
    /// Meaning of the bytes.
    pub format: PixelFormat,
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Bytes from one row of the first plane to the next; 0 means rows without padding.
    pub stride: u32,
    /// The planes one after the other, exactly as long as the fields above say.
    pub data: &'a [u8],
}

impl RawFrame<'_> {
    /// Converts the frame to RGB.
    ///
    /// # Errors
    /// If the frame is over the limits, a side is zero, the stride is too short for a row, or
    /// `data` has not exactly the length that format, size and stride imply.
    pub fn to_picture(&self, limits: &Limits) -> Result<Picture, VisionError> {
        limits.check_size(self.width, self.height)?;
        let stride = self.checked_stride()?;
        limits.check_bytes(self.data.len())?;
        let (width, height) = (self.width as usize, self.height as usize);
        let mut pixels = Vec::with_capacity(3 * width * height);
        let plane_rows = self.data.chunks_exact(stride).take(height);
        match self.format {
            PixelFormat::Rgb8 => {
                plane_rows.for_each(|row| pixels.extend_from_slice(&row[..3 * width]));
            }
            PixelFormat::Bgr8 => {
                for pixel in plane_rows.flat_map(|row| row[..3 * width].chunks_exact(3)) {
                    pixels.extend([pixel[2], pixel[1], pixel[0]]);
                }
            }
            PixelFormat::Gray8 => {
                for &gray in plane_rows.flat_map(|row| &row[..width]) {
                    pixels.extend([gray; 3]);
                }
            }
            PixelFormat::Yuyv => {
                for row in plane_rows {
                    for x in 0..width {
                        let pair = &row[x / 2 * 4..][..4];
                        pixels.extend(yuv_to_rgb(pair[x % 2 * 2], pair[1], pair[3]));
                    }
                }
            }
            PixelFormat::Nv12 => {
                let chroma = &self.data[stride * height..];
                for (y, row) in plane_rows.enumerate() {
                    let chroma = &chroma[y / 2 * stride..][..stride];
                    for x in 0..width {
                        let pair = &chroma[x / 2 * 2..][..2];
                        pixels.extend(yuv_to_rgb(row[x], pair[0], pair[1]));
                    }
                }
            }
            PixelFormat::I420 => {
                let half = stride.div_ceil(2);
                let (u, v) = self.data[stride * height..].split_at(half * height.div_ceil(2));
                for (y, row) in plane_rows.enumerate() {
                    let (u, v) = (&u[y / 2 * half..][..half], &v[y / 2 * half..][..half]);
                    for x in 0..width {
                        pixels.extend(yuv_to_rgb(row[x], u[x / 2], v[x / 2]));
                    }
                }
            }
        }
        Picture::new(self.width, self.height, pixels)
    }

    /// The stride in bytes, once it and the length of the data are known to fit. All arithmetic is
    /// in u64, where a stride and a height of 32 bits cannot overflow.
    fn checked_stride(&self) -> Result<usize, VisionError> {
        let (width, height) = (u64::from(self.width), u64::from(self.height));
        let needed = match self.format {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 => 3 * width,
            PixelFormat::Gray8 | PixelFormat::I420 => width,
            PixelFormat::Nv12 => 2 * width.div_ceil(2),
            PixelFormat::Yuyv => 4 * width.div_ceil(2),
        };
        let stride = if self.stride == 0 { needed } else { u64::from(self.stride) };
        if stride < needed {
            return Err(VisionError::FrameStride { stride, width: self.width, needed });
        }
        let chroma = match self.format {
            PixelFormat::Rgb8 | PixelFormat::Bgr8 | PixelFormat::Gray8 | PixelFormat::Yuyv => 0,
            PixelFormat::Nv12 => stride * height.div_ceil(2),
            PixelFormat::I420 => 2 * stride.div_ceil(2) * height.div_ceil(2),
        };
        let expected = stride * height + chroma;
        let actual = self.data.len() as u64;
        if actual != expected {
            return Err(VisionError::FrameSize {
                format: self.format.name(),
                width: self.width,
                height: self.height,
                stride,
                expected,
                actual,
            });
        }
        Ok(stride as usize)
    }
}

impl std::fmt::Debug for RawFrame<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { format, width, height, stride, data } = self;
        let bytes = data.len();
        write!(formatter, "RawFrame({format} {width} x {height}, stride {stride}, {bytes} bytes)")
    }
}

/// ITU-R BT.601, limited range, in 16-bit fixed point: the factors are 255/219, and 255/224 times
/// 1.402, 0.344136, 0.714136 and 1.772.
fn yuv_to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let luma = 76_309 * (i32::from(y) - 16) + 0x8000;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    let channel = |sum: i32| (sum >> 16).clamp(0, 255) as u8;
    [
        channel(luma + 104_597 * v),
        channel(luma - 25_675 * u - 53_279 * v),
        channel(luma + 132_201 * u),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(
        format: PixelFormat,
        size: (u32, u32),
        stride: u32,
        data: &[u8],
    ) -> Result<Picture, VisionError> {
        RawFrame { format, width: size.0, height: size.1, stride, data }
            .to_picture(&Limits::default())
    }

    #[test]
    fn fixed_point_yuv_is_within_one_level_of_the_real_matrix() {
        for y in (0..=255).step_by(5) {
            for u in (0..=255).step_by(5) {
                for v in (0..=255).step_by(5) {
                    let luma = (f64::from(y) - 16.0) * 255.0 / 219.0;
                    let [cb, cr] = [u, v].map(|c: u8| (f64::from(c) - 128.0) * 255.0 / 224.0);
                    let exact = [
                        luma + 1.402 * cr,
                        luma - 0.344_136 * cb - 0.714_136 * cr,
                        luma + 1.772 * cb,
                    ];
                    for (ours, exact) in yuv_to_rgb(y, u, v).into_iter().zip(exact) {
                        assert!((f64::from(ours) - exact.clamp(0.0, 255.0)).abs() <= 1.0);
                    }
                }
            }
        }
    }

    #[test]
    fn limited_range_black_and_white_are_full_black_and_white() {
        assert_eq!(yuv_to_rgb(16, 128, 128), [0; 3]);
        assert_eq!(yuv_to_rgb(235, 128, 128), [255; 3]);
    }

    #[test]
    fn every_format_reads_its_own_layout_past_the_stride() {
        let rgb = picture(PixelFormat::Rgb8, (1, 2), 4, &[1, 2, 3, 99, 4, 5, 6, 99]).unwrap();
        assert_eq!(rgb.pixels, [1, 2, 3, 4, 5, 6]);
        let bgr = picture(PixelFormat::Bgr8, (1, 2), 4, &[1, 2, 3, 99, 4, 5, 6, 99]).unwrap();
        assert_eq!(bgr.pixels, [3, 2, 1, 6, 5, 4]);
        let gray = picture(PixelFormat::Gray8, (2, 1), 0, &[7, 8]).unwrap();
        assert_eq!(gray.pixels, [7, 7, 7, 8, 8, 8]);
    }

    #[test]
    fn the_yuv_formats_of_one_scene_give_one_picture() {
        // 3 x 3: odd sides, so that the last chroma sample serves a single pixel.
        let y = [[50, 100, 150], [60, 110, 160], [70, 120, 170]];
        let (u, v) = ([[90, 100], [110, 120]], [[140, 150], [160, 170]]);
        let mut expected = Vec::new();
        for row in 0..3 {
            for column in 0..3 {
                let (u, v) = (u[row / 2][column / 2], v[row / 2][column / 2]);
                expected.extend(yuv_to_rgb(y[row][column], u, v));
            }
        }
        let i420 = [y.concat(), u.concat(), v.concat()].concat();
        let read = picture(PixelFormat::I420, (3, 3), 3, &i420).unwrap();
        assert_eq!(read.pixels, expected);

        let mut nv12 = Vec::new();
        for row in &y {
            nv12.extend([row[0], row[1], row[2], 0]);
        }
        for (u, v) in u.iter().zip(&v) {
            nv12.extend([u[0], v[0], u[1], v[1]]);
        }
        let read = picture(PixelFormat::Nv12, (3, 3), 4, &nv12).unwrap();
        assert_eq!(read.pixels, expected);

        let mut yuyv = Vec::new();
        for (row, line) in y.iter().enumerate() {
            let (u, v) = (u[row / 2], v[row / 2]);
            yuyv.extend([line[0], u[0], line[1], v[0], line[2], u[1], 0, v[1]]);
        }
        let read = picture(PixelFormat::Yuyv, (3, 3), 8, &yuyv).unwrap();
        assert_eq!(read.pixels, expected);
    }

    #[test]
    fn a_frame_of_the_wrong_size_says_which_size_is_right() {
        let error = picture(PixelFormat::Nv12, (4, 4), 0, &[0; 23]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the raw frame has 23 bytes, but nv12 of 4 x 4 with a stride of 4 needs 24"
        );
        let error = picture(PixelFormat::Gray8, (2, 1), 0, &[]).unwrap_err();
        assert!(error.to_string().starts_with("the raw frame has 0 bytes"), "{error}");
        let error = picture(PixelFormat::Rgb8, (4, 4), 11, &[0; 44]).unwrap_err();
        assert!(matches!(error, VisionError::FrameStride { needed: 12, .. }));
        assert!(matches!(
            picture(PixelFormat::Gray8, (0, 4), 0, &[0; 1]),
            Err(VisionError::NoPixels { .. })
        ));
        assert!(matches!(
            picture(PixelFormat::Gray8, (u32::MAX, u32::MAX), u32::MAX, &[0; 1]),
            Err(VisionError::TooManyPixels { .. })
        ));
        assert!(matches!(
            picture(PixelFormat::Gray8, (1, (1 << 20) + 1), 0, &[0; 1]),
            Err(VisionError::TooLong { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_frame_panics(
            format in proptest::sample::select(PixelFormat::ALL),
            width in 0_u32..40, height in 0_u32..40, stride in 0_u32..130,
            length in 0_usize..9000, exact: bool,
        ) {
            let data = vec![200; length];
            let frame = RawFrame { format, width, height, stride, data: &data };
            let result = frame.to_picture(&Limits::default());
            if exact && let Err(VisionError::FrameSize { expected, .. }) = result {
                let data = vec![200; expected as usize];
                let frame = RawFrame { format, width, height, stride, data: &data };
                frame.to_picture(&Limits::default()).unwrap();
            }
        }
    }
}
