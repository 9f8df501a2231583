//! What can be wrong with a photograph.

/// Why pixels could not be had, or could not be turned into a tensor. Each message says what to do
/// next; all of them are the sender's fault except [`VisionError::DecoderPanicked`], which is ours
/// but is treated as a bad photograph because only a bad photograph causes it.
#[derive(Debug, thiserror::Error)]
pub enum VisionError {
    /// No bytes at all.
    #[error("the image is empty: send the bytes of a JPEG, PNG, WebP, BMP or GIF file")]
    Empty,
    /// The first bytes belong to no format that can be read.
    #[error("the bytes are not an image in a known format, which are JPEG, PNG, WebP, BMP and GIF")]
    UnknownFormat,
    /// More bytes than [`Limits::bytes`](super::Limits::bytes).
    #[error("the image has {bytes} bytes, more than the limit of {limit}: send a smaller file")]
    TooManyBytes {
        /// Size of the encoded image or raw frame.
        bytes: u64,
        /// The limit that it exceeds.
        limit: u64,
    },
    /// More pixels than [`Limits::pixels`](super::Limits::pixels).
    #[error(
        "the image is {width} x {height}, more than the limit of {limit} pixels: \
         scale it down before sending, or raise engine.max_megapixels"
    )]
    TooManyPixels {
        /// Width that the header declares.
        width: u32,
        /// Height that the header declares.
        height: u32,
        /// The limit that their product exceeds.
        limit: u64,
    },
    /// So long and thin that what is computed along its longer side would take more than its pixels.
    #[error("the image is {width} x {height}: no side may have more than {limit} pixels")]
    TooLong {
        /// Width that the header declares.
        width: u32,
        /// Height that the header declares.
        height: u32,
        /// The most pixels of a side.
        limit: u32,
    },
    /// A kind that takes more memory a pixel than most, and has too many pixels for that.
    #[error(
        "decoding the {format} image takes {needed} bytes, more than the limit of {limit}: send it as \
         a baseline JPEG, scale it down, or raise engine.max_megapixels"
    )]
    TooMuchMemory {
        /// Name of the format, such as `JPEG`.
        format: &'static str,
        /// Bytes that the decoder expects to take.
        needed: u64,
        /// The limit that they exceed: six bytes a pixel of
        /// [`Limits::pixels`](super::Limits::pixels).
        limit: u64,
    },
    /// Width or height is zero.
    #[error("the image is {width} x {height}: both sides must be at least one pixel")]
    NoPixels {
        /// Declared width.
        width: u32,
        /// Declared height.
        height: u32,
    },
    /// The file ends before its last pixel.
    #[error("the {format} image is cut off: its end is missing, send the whole file")]
    Truncated {
        /// Name of the format, such as `JPEG`.
        format: &'static str,
    },
    /// The decoder found a contradiction.
    #[error("the {format} image is damaged: {reason}")]
    Malformed {
        /// Name of the format, such as `PNG`.
        format: &'static str,
        /// The decoder's own words.
        reason: String,
    },
    /// A valid file of a kind that is not read.
    #[error("the {format} image cannot be read: {reason}; convert it to a baseline JPEG or PNG")]
    Unsupported {
        /// Name of the format.
        format: &'static str,
        /// The decoder's own words.
        reason: String,
    },
    /// The decoder panicked; the panic was caught and nothing else is harmed.
    #[error("the {format} image is damaged: its decoder gave up")]
    DecoderPanicked {
        /// Name of the format.
        format: &'static str,
    },
    /// The rows of a raw frame are shorter than its width needs.
    #[error("the raw frame's stride is {stride} bytes, but a row of {width} pixels needs {needed}")]
    FrameStride {
        /// Given stride in bytes.
        stride: u64,
        /// Width in pixels.
        width: u32,
        /// The least stride in bytes.
        needed: u64,
    },
    /// The data of a raw frame is not as long as its format and size say.
    #[error(
        "the raw frame has {actual} bytes, but {format} of {width} x {height} \
         with a stride of {stride} needs {expected}"
    )]
    FrameSize {
        /// Name of the pixel format.
        format: &'static str,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes a row of the first plane.
        stride: u64,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// A [`Picture`](super::Picture) whose pixel vector does not fit its size.
    #[error("a picture of {width} x {height} needs {expected} bytes of RGB, not {actual}")]
    PictureSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes that it must have.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The output slice does not have the length of the input tensor.
    #[error("the input tensor needs {expected} values, but the slice has {actual}")]
    TensorSize {
        /// Values that the preprocessing produces.
        expected: usize,
        /// Length of the slice.
        actual: usize,
    },
    /// The preprocessing itself makes no sense.
    #[error("preprocessing.{field}: {reason}")]
    Preprocessing {
        /// The field at fault, such as `std`.
        field: &'static str,
        /// What it must be.
        reason: String,
    },
    /// A heat map whose values do not fit its size.
    #[error("a heat map of {height} x {width} needs {expected} values, not {actual}")]
    HeatMapSize {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Values that it must have.
        expected: usize,
        /// Values that it has.
        actual: usize,
    },
    /// The resampler refused; this would be a fault of ours.
    #[error("the image could not be resized: {0}")]
    Resize(String),
    /// The encoder refused, such as a JPEG wider than 65,535 pixels.
    #[error("the picture could not be encoded as {format}: {reason}")]
    Encode {
        /// Name of the format.
        format: &'static str,
        /// The encoder's own words.
        reason: String,
    },
}

/// Decoders may quote the file in their errors: keep it to a line.
pub(super) fn shorten(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    if text.chars().nth(200).is_some() {
        line.push('…');
    }
    line
}
