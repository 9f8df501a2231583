//! Whether a JPEG is whole. Its decoder paints what is missing grey, which would be answered with a
//! prediction about a photograph that nobody took.

/// Whether the file has its end-of-image marker (ITU-T T.81, section B.1), found by walking the
/// marker segments, so that the end of an embedded thumbnail does not count. What follows the end
/// (cameras append previews) does not matter.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
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

    proptest::proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: Vec<u8>) {
            is_whole(&bytes);
        }
    }
}
