//! A contact sheet of explanations as one HTML page without other files.

use std::fmt::Write as _;

use super::audit::{ClassAudit, GRID};
use crate::vision::{
    BoundingBox, ColorMap, HeatMap, ImageFormat, Picture, Placement, VisionError, encode, overlay,
};

/// An image on the sheet.
#[derive(Debug, Clone)]
pub struct Tile {
    /// The class under which it stands.
    pub class: String,
    /// Name of the image.
    pub image: String,
    /// A line below it.
    pub caption: String,
    /// JPEG or PNG file of the overlay.
    pub overlay: Vec<u8>,
}

/// The page: for each class its figures, its mean map, and its images, most deviating first.
///
/// # Errors
/// Where a mean map cannot be drawn.
pub fn contact_sheet(
    title: &str,
    classes: &[ClassAudit],
    tiles: &[Tile],
) -> Result<String, VisionError> {
    let mut page = String::new();
    let title = escape(title);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:14px system-ui,sans-serif;margin:2em;color:#222;background:#fafafa}}\
         h2{{margin:1.6em 0 .3em}}.row{{display:flex;flex-wrap:wrap;gap:12px}}\
         figure{{margin:0;width:180px}}img{{width:180px;border-radius:4px}}\
         figcaption{{font-size:12px;overflow-wrap:anywhere}}.mean img{{outline:2px solid #888}}\
         </style><h1>{title}</h1>"
    );
    for class in classes {
        let _ = write!(
            page,
            "<h2>{}</h2><p>{} images, {} without evidence; energy at the border {:.2}",
            escape(&class.class),
            class.images,
            class.without_evidence,
            class.border_energy
        );
        if let Some(outside) = class.outside_energy {
            let _ = write!(page, ", outside the boxes {outside:.2}");
        }
        page.push_str("</p><div class=\"row\">");
        let mean = mean_picture(class)?;
        figure(&mut page, "mean", "mean map", &mean);
        for deviation in &class.deviations {
            let same = |tile: &&Tile| tile.class == class.class && tile.image == deviation.image;
            if let Some(tile) = tiles.iter().find(same) {
                let like = deviation.correlation;
                let caption = format!("{}: {} (like the mean {like:.2})", tile.image, tile.caption);
                figure(&mut page, "", &caption, &tile.overlay);
            }
        }
        page.push_str("</div>");
    }
    page.push_str("</html>\n");
    Ok(page)
}

/// The mean map of a class as a picture.
fn mean_picture(class: &ClassAudit) -> Result<Vec<u8>, VisionError> {
    const SIDE: u32 = 180;
    let grey = Picture::new(SIDE, SIDE, vec![255; (3 * SIDE * SIDE) as usize])?;
    let map = HeatMap::new(GRID, GRID, &class.mean_map)?;
    let whole = overlay(&grey, &map, &Placement::identity(SIDE), ColorMap::Viridis, 1.0)?;
    encode(&whole, ImageFormat::Jpeg { quality: 90 })
}

fn figure(page: &mut String, class: &str, caption: &str, file: &[u8]) {
    let kind = if file.starts_with(b"\x89PNG") { "png" } else { "jpeg" };
    let caption = escape(caption);
    let data = base64(file);
    let _ = write!(
        page,
        "<figure class=\"{class}\"><img alt=\"{caption}\" src=\"data:image/{kind};base64,{data}\">\
         <figcaption>{caption}</figcaption></figure>"
    );
}

/// Draws the sides of a box, for overlays that show the hottest region.
pub fn draw_box(picture: &mut Picture, area: &BoundingBox, color: [u8; 3]) {
    let clamp = |value: f32, limit: u32| (value.max(0.0) as u32).min(limit.saturating_sub(1));
    let (left, right) = (clamp(area.x0, picture.width), clamp(area.x1, picture.width));
    let (top, bottom) = (clamp(area.y0, picture.height), clamp(area.y1, picture.height));
    let width = picture.width;
    let mut dot = |x: u32, y: u32| {
        let at = 3 * (y as usize * width as usize + x as usize);
        if let Some(pixel) = picture.pixels.get_mut(at..at + 3) {
            pixel.copy_from_slice(&color);
        }
    };
    for x in left..=right {
        dot(x, top);
        dot(x, bottom);
    }
    for y in top..=bottom {
        dot(left, y);
        dot(right, y);
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= chunk.len() {
                text.push(char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_gives_the_examples_of_rfc_4648() {
        for (bytes, expected) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn names_cannot_break_out_of_the_page() {
        let class = ClassAudit {
            class: "<script>alert(1)</script>".into(),
            images: 1,
            without_evidence: 0,
            mean_map: vec![0.5; GRID * GRID],
            border_energy: 0.4,
            outside_energy: Some(0.2),
            deviations: Vec::new(),
        };
        let page = contact_sheet("a & b", &[class], &[]).unwrap();
        assert!(!page.contains("<script>") && page.contains("a &amp; b"));
    }
}
