//! Pictures.

use super::field::{FieldError, Required, Within};
use crate::engine::Subject;
use crate::proto::graft::{Image, PixelFormat as Format, RawFrame, image::Source};
use crate::vision::PixelFormat;

/// The picture in field `image`.
///
/// # Errors
/// Where it is absent, or a raw frame lacks format, size or data. What the bytes hold is looked at by
/// the worker that decodes them.
pub fn subject(image: Option<Image>) -> Result<Subject, FieldError> {
    Subject::try_from(image.required("image")?).within("image")
}

impl TryFrom<Image> for Subject {
    type Error = FieldError;

    fn try_from(image: Image) -> Result<Self, FieldError> {
        let problem = "must hold either `encoded` or `raw`";
        match image.source.ok_or_else(|| FieldError::new("", problem))? {
            Source::Encoded(bytes) => Ok(Self::Encoded(bytes)),
            Source::Raw(frame) => frame.try_into().within("raw"),
        }
    }
}

impl TryFrom<RawFrame> for Subject {
    type Error = FieldError;

    fn try_from(frame: RawFrame) -> Result<Self, FieldError> {
        let format = match Format::try_from(frame.format) {
            Ok(Format::Rgb8) => PixelFormat::Rgb8,
            Ok(Format::Bgr8) => PixelFormat::Bgr8,
            Ok(Format::Gray8) => PixelFormat::Gray8,
            Ok(Format::Nv12) => PixelFormat::Nv12,
            Ok(Format::I420) => PixelFormat::I420,
            Ok(Format::Yuyv) => PixelFormat::Yuyv,
            Ok(Format::Unspecified) => return Err(FieldError::new("format", "must be set")),
            Err(_) => {
                let problem = format!("{} is not a pixel format", frame.format);
                return Err(FieldError::new("format", problem));
            }
        };
        let RawFrame { width, height, stride, data, .. } = frame;
        for (field, pixels) in [("width", width), ("height", height)] {
            if pixels == 0 {
                return Err(FieldError::new(field, "must be at least 1 pixel"));
            }
        }
        if data.is_empty() {
            return Err(FieldError::new("data", "must hold the pixels of the frame; it is empty"));
        }
        Ok(Self::Frame { format, width, height, stride, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    /// A grey frame of one pixel.
    fn pixel() -> RawFrame {
        let format = Format::Gray8.into();
        RawFrame { format, width: 1, height: 1, stride: 0, data: Bytes::from_static(b"x") }
    }

    #[test]
    fn an_absent_or_empty_image_is_refused_with_its_path() {
        assert_eq!(subject(None).unwrap_err().to_string(), "image: must be set");
        let empty = subject(Some(Image { source: None })).unwrap_err();
        assert_eq!(empty.to_string(), "image: must hold either `encoded` or `raw`");
    }

    #[test]
    fn a_raw_frame_needs_a_format_that_exists() {
        for (format, message) in [
            (0, "image.raw.format: must be set"),
            (99, "image.raw.format: 99 is not a pixel format"),
        ] {
            let frame = RawFrame { format, ..pixel() };
            let image = Image { source: Some(Source::Raw(frame)) };
            assert_eq!(subject(Some(image)).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_raw_frame_needs_a_size_and_data() {
        for (frame, message) in [
            (RawFrame { width: 0, ..pixel() }, "image.raw.width: must be at least 1 pixel"),
            (RawFrame { height: 0, ..pixel() }, "image.raw.height: must be at least 1 pixel"),
            (
                RawFrame { data: Bytes::new(), ..pixel() },
                "image.raw.data: must hold the pixels of the frame; it is empty",
            ),
        ] {
            let image = Image { source: Some(Source::Raw(frame)) };
            assert_eq!(subject(Some(image)).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn every_pixel_format_of_the_wire_has_one_of_vision() {
        for format in (1..).map_while(|number| Format::try_from(number).ok()) {
            let frame = RawFrame { format: format.into(), ..pixel() };
            let Ok(Subject::Frame { format: found, .. }) = Subject::try_from(frame) else {
                panic!("{format:?} is refused")
            };
            let wire = format.as_str_name().trim_start_matches("PIXEL_FORMAT_").to_lowercase();
            assert_eq!(found.to_string(), wire);
        }
    }
}
