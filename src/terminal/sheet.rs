//! A contact sheet of explanations as one HTML page without other files.

use std::fmt::Write as _;

/// Pixels of a tile's longer side that are worth having: twice as many as are shown, for screens of high
/// resolution.
pub const TILE_PIXELS: u32 = 360;

/// One class on the sheet.
#[derive(Debug, Clone)]
pub struct Section {
    /// The class.
    pub class: String,
    /// A sentence of figures.
    pub facts: String,
    /// The mean map, row by row, 0 to 1.
    pub mean_map: Vec<f32>,
    /// Columns of the mean map.
    pub width: usize,
    /// The images, in the order in which they are shown.
    pub tiles: Vec<Tile>,
}

/// An image on the sheet.
#[derive(Debug, Clone)]
pub struct Tile {
    /// A line below it.
    pub caption: String,
    /// JPEG or PNG file of the overlay.
    pub overlay: Vec<u8>,
}

/// The page: for each class its figures, its mean map and its images.
pub fn contact_sheet(title: &str, sections: &[Section]) -> String {
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
    for section in sections {
        let (class, facts) = (escape(&section.class), escape(&section.facts));
        let _ = write!(page, "<h2>{class}</h2><p>{facts}</p><div class=\"row\">");
        let mean = bitmap(&section.mean_map, section.width);
        figure(&mut page, "mean", "mean map", &mean);
        for tile in &section.tiles {
            figure(&mut page, "", &tile.caption, &tile.overlay);
        }
        page.push_str("</div>");
    }
    page.push_str("</html>\n");
    page
}

fn figure(page: &mut String, class: &str, caption: &str, file: &[u8]) {
    let kind = match file {
        [b'B', b'M', ..] => "bmp",
        [0x89, b'P', b'N', b'G', ..] => "png",
        _ => "jpeg",
    };
    let caption = escape(caption);
    let data = base64(file);
    let _ = write!(
        page,
        "<figure class=\"{class}\"><img alt=\"{caption}\" src=\"data:image/{kind};base64,{data}\">\
         <figcaption>{caption}</figcaption></figure>"
    );
}

/// A map as a Windows bitmap of a pixel a cell, which a browser enlarges smoothly: a file header, a
/// `BITMAPINFOHEADER`, and rows of blue, green, red from the bottom up, each padded to four bytes.
fn bitmap(map: &[f32], width: usize) -> Vec<u8> {
    const HEADERS: u32 = 54;
    let width = width.clamp(1, map.len().max(1));
    let height = map.len() / width;
    let row = (3 * width).next_multiple_of(4);
    let size = HEADERS + (row * height) as u32;
    let mut file = b"BM".to_vec();
    let mut put = |numbers: &[u32]| {
        numbers.iter().for_each(|number| file.extend(number.to_le_bytes()));
    };
    put(&[size, 0, HEADERS, 40, width as u32, height as u32]);
    // One plane of 24 bits a pixel, not compressed; the rest may be left at zero.
    put(&[1 | 24 << 16, 0, 0, 0, 0, 0, 0]);
    for cells in map.chunks_exact(width).rev() {
        let pixels = cells.iter().flat_map(|value| {
            let [red, green, blue] = color(*value);
            [blue, green, red]
        });
        let padding = std::iter::repeat_n(0, row - 3 * width);
        file.extend(pixels.chain(padding));
    }
    file
}

/// From 0 to 1: viridis at five of its colours, and between them straight lines.
fn color(value: f32) -> [u8; 3] {
    const STOPS: [[u8; 3]; 5] =
        [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
    let place = value.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let below = (place as usize).min(STOPS.len() - 2);
    let share = place - below as f32;
    std::array::from_fn(|channel| {
        let [a, b] = [below, below + 1].map(|stop| f32::from(STOPS[stop][channel]));
        (a + (b - a) * share).round() as u8
    })
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
        let tile = Tile { caption: "\"><script>".into(), overlay: vec![0xff, 0xd8] };
        let section = Section {
            class: "<script>alert(1)</script>".into(),
            facts: "<b>".into(),
            mean_map: vec![0.5; 4],
            width: 2,
            tiles: vec![tile],
        };
        let page = contact_sheet("a & b", &[section]);
        assert!(!page.contains("<script>") && !page.contains("<b>") && page.contains("a &amp; b"));
        assert!(
            page.contains("data:image/bmp;base64,") && page.contains("data:image/jpeg;base64,")
        );
    }

    #[cfg(feature = "daemon")]
    #[test]
    fn a_decoder_reads_the_mean_map_with_its_rows_and_colours_in_place() {
        let map = [0.0, 0.25, 0.5, 0.75, 1.0, f32::NAN];
        let picture = image::load_from_memory(&bitmap(&map, 3)).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (3, 2));
        let pixels: Vec<[u8; 3]> = picture.pixels().map(|pixel| pixel.0).collect();
        assert_eq!(pixels[..3], [[68, 1, 84], [59, 82, 139], [33, 145, 140]]);
        assert_eq!(pixels[3..5], [[94, 201, 98], [253, 231, 37]]);
    }
}
