//! What is drawn of an explanation, on the worker that made it: a large photograph takes longer to draw
//! than to classify.

use bytes::Bytes;

use super::EngineError;
use crate::base::cancel::Cancel;
use crate::explain::{Evidence, Map};
use crate::vision::{ColorMap, HeatMap, ImageFormat, Picture, Placement, encode, overlay};

/// What is drawn of an explanation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drawing {
    /// The photograph with the map over it.
    pub overlay: Option<Overlay>,
    /// The map at the photograph's own size.
    pub photograph_map: bool,
}

/// How a map is laid over its photograph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overlay {
    /// The file's format.
    pub format: ImageFormat,
    /// The map's colours.
    pub colors: ColorMap,
    /// The map's share of the colour, 0 to 1.
    pub strength: f32,
    /// Pixels of the longer side at most; `None` for the photograph's own size, or the longest side
    /// that the format can have.
    pub longest_side: Option<u32>,
}

/// What was drawn of an explanation.
#[derive(Clone, Debug, Default)]
pub struct Drawn {
    /// A whole JPEG or PNG file; `None` where none was asked for, or the input came as a tensor.
    pub overlay: Option<Bytes>,
    /// The map at the photograph's own size, where it was asked for.
    pub photograph_map: Option<PhotographMap>,
}

/// A map at the size of its photograph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhotographMap {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Row by row from the top, 0 to 255; of a signed map 128 is zero.
    pub values: Bytes,
}

impl Drawing {
    /// Whether nothing is drawn.
    pub fn is_empty(&self) -> bool {
        self.overlay.is_none() && !self.photograph_map
    }

    /// Draws, giving way to predictions between pieces of a few milliseconds; the writing of the file
    /// is one piece, as the reading of the photograph was.
    pub(super) fn draw(
        &self,
        picture: Option<&Picture>,
        map: &Map,
        placement: &Placement,
        cancel: &Cancel,
    ) -> Result<Drawn, EngineError> {
        let overlay = self.overlay.zip(picture);
        let overlay = overlay.map(|(how, picture)| how.draw(picture, map, placement, cancel));
        let photograph_map = self.photograph_map.then(|| enlarge(map, placement, cancel));
        Ok(Drawn { overlay: overlay.transpose()?, photograph_map: photograph_map.transpose()? })
    }
}

impl Overlay {
    fn draw(
        &self,
        picture: &Picture,
        map: &Map,
        placement: &Placement,
        cancel: &Cancel,
    ) -> Result<Bytes, EngineError> {
        cancel.checkpoint()?;
        let most = self.longest_side.unwrap_or(u32::MAX).min(self.format.longest_side());
        let picture = picture.at_most(most)?;
        let placement = placement.resampled(picture.width, picture.height);
        let values = map.drawn();
        let heat = HeatMap::new(map.height, map.width, &values)?;
        let between = || Ok::<_, EngineError>(cancel.checkpoint()?);
        let drawn = overlay(&picture, &heat, &placement, self.colors, self.strength, between)?;
        cancel.checkpoint()?;
        Ok(encode(&drawn, self.format)?.into())
    }
}

fn enlarge(
    map: &Map,
    placement: &Placement,
    cancel: &Cancel,
) -> Result<PhotographMap, EngineError> {
    let signed = map.evidence == Evidence::Signed;
    let byte = |value: f32| {
        let share = if signed { f32::midpoint(value, 1.0) } else { value };
        (share.clamp(0.0, 1.0) * 255.0).round() as u8
    };
    let heat = HeatMap::new(map.height, map.width, &map.values)?;
    let values = placement.map_to_picture(&heat, byte, || cancel.checkpoint())?;
    let (width, height) = placement.picture_size();
    Ok(PhotographMap { width, height, values: values.into() })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::explain::Scaling;
    use crate::vision::{
        DEFAULT_STRENGTH, Limits, Preprocessing, Preset, TensorLayout, decode, preprocess,
    };

    const JPEG: Overlay = Overlay {
        format: ImageFormat::Jpeg { quality: 90 },
        colors: ColorMap::Jet,
        strength: DEFAULT_STRENGTH,
        longest_side: None,
    };

    fn picture(width: u32, height: u32) -> Picture {
        let count = 3 * width as usize * height as usize;
        Picture::new(width, height, (0..count).map(|at| (at % 253) as u8).collect()).unwrap()
    }

    #[test]
    fn a_photograph_longer_than_a_jpeg_can_be_is_drawn_as_long_as_one_can() {
        let picture = picture(70_000, 8);
        let preprocessing = Preprocessing::preset(Preset::Unit, 16);
        let mut input = vec![0.0; preprocessing.tensor_len()];
        let placement =
            preprocess(&picture, &preprocessing, TensorLayout::Nchw, &mut input).unwrap();
        let map = Map::new((1, 1), vec![1.0], Evidence::For, Scaling::Maximum).unwrap();
        let png = Overlay { format: ImageFormat::Png, ..JPEG };
        for (how, expected) in [(JPEG, (65_535, 7)), (png, (70_000, 8))] {
            let file = how.draw(&picture, &map, &placement, &Cancel::default()).unwrap();
            let drawn = decode(&file, &Limits::default()).unwrap();
            assert_eq!((drawn.width, drawn.height), expected);
        }
    }

    #[test]
    fn drawing_gives_way_between_its_pieces_and_ends_when_it_is_not_wanted_any_more() {
        let picture = picture(1024, 2048);
        let preprocessing = Preprocessing::preset(Preset::Unit, 16);
        let mut input = vec![0.0; preprocessing.tensor_len()];
        let placement =
            preprocess(&picture, &preprocessing, TensorLayout::Nchw, &mut input).unwrap();
        let map = Map::new((2, 2), vec![0.0, 1.0, 2.0, 3.0], Evidence::For, Scaling::Maximum);
        let map = map.unwrap();
        for drawing in [
            Drawing { overlay: Some(JPEG), photograph_map: false },
            Drawing { overlay: None, photograph_map: true },
        ] {
            let draw = |stop_at: usize| {
                let (flag, visits) = (Cancel::default(), Arc::new(AtomicUsize::new(0)));
                let (raised, counted) = (flag.clone(), Arc::clone(&visits));
                let cancel = flag.giving_way(move || {
                    if counted.fetch_add(1, Ordering::Relaxed) + 1 == stop_at {
                        raised.cancel();
                        return true;
                    }
                    false
                });
                let drawn = drawing.draw(Some(&picture), &map, &placement, &cancel);
                (drawn, visits.load(Ordering::Relaxed))
            };
            let (drawn, visits) = draw(usize::MAX);
            assert!(drawn.is_ok() && visits >= 8, "{visits} visits");
            let (drawn, visits) = draw(3);
            assert!(matches!(drawn, Err(EngineError::Cancelled)));
            assert_eq!(visits, 3);
        }
    }
}
