//! `read` of a picture.
//!
//! Owns: which formats models take, how large they may be, and telling a whole picture from a damaged one by its
//! structure: a provider refuses a conversation with a damaged one, today and at every later step. Decodes no pixels.

use std::fs::File;
use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::output::size;
use crate::path;

/// Largest picture in bytes. Providers take 5 MiB of base64, which is this much.
pub const MAX_BYTES: u64 = 5 * 1024 * 1024 / 4 * 3;
/// Longest side in pixels that providers take.
pub const MAX_SIDE: u32 = 8_000;
/// A side beyond which they make it smaller themselves; what a smaller copy should have.
const GOOD_SIDE: u32 = 1_568;

/// A picture for the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`.
    pub media_type: &'static str,
    /// The file in base64.
    pub data: String,
}

/// Whether models take this format.
pub(crate) fn is_shown(media_type: &str) -> bool {
    matches!(media_type, "image/png" | "image/jpeg" | "image/gif" | "image/webp")
}

/// One line about the picture, and the picture, unless it cannot be shown: the line then says why and what to do.
pub(crate) fn read(
    file: &File,
    length: u64,
    given: &str,
    media_type: &'static str,
) -> io::Result<(String, Option<Image>)> {
    let what = |bytes| format!("{media_type}, {}", size(bytes));
    let smaller = || {
        let word = path::shell_word(given);
        format!(
            "Make a smaller copy with bash and read that, for instance (if ImageMagick is there): \
             convert {word} -resize {GOOD_SIDE}x{GOOD_SIDE} /tmp/smaller.png"
        )
    };
    let too_large = |bytes| {
        let what = what(bytes);
        format!("[{given} is an image ({what}); at most {MAX_BYTES} bytes can be shown. {}]", smaller())
    };
    if length > MAX_BYTES {
        return Ok((too_large(length), None));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    let length = bytes.len() as u64;
    if length > MAX_BYTES {
        return Ok((too_large(length), None)); // it has grown meanwhile
    }
    let what = what(length);
    Ok(match dimensions(media_type, &bytes) {
        None => {
            (format!("[{given} begins like an image ({what}), but is damaged or cut off. It cannot be shown.]"), None)
        }
        Some((width, height)) if width.max(height) > MAX_SIDE => {
            let sides = format!("{width} x {height} pixels; at most {MAX_SIDE} a side can be shown");
            (format!("[{given} is an image ({what}, {sides}). {}]", smaller()), None)
        }
        Some((width, height)) => {
            let image = Image { media_type, data: STANDARD.encode(&bytes) };
            (format!("[{given} is an image ({what}, {width} x {height} pixels), shown here.]"), Some(image))
        }
    })
}

/// Width and height of a picture that is whole as far as its structure tells.
fn dimensions(media_type: &str, bytes: &[u8]) -> Option<(u32, u32)> {
    let found = match media_type {
        "image/png" => png(bytes),
        "image/jpeg" => jpeg(bytes),
        "image/gif" => gif(bytes),
        "image/webp" => webp(bytes),
        _ => None,
    };
    found.filter(|(width, height)| *width > 0 && *height > 0)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Chunks up to `IEND`.
fn png(bytes: &[u8]) -> Option<(u32, u32)> {
    let be = |at| array(bytes, at).map(u32::from_be_bytes);
    let header = array::<4>(bytes, 12)? == *b"IHDR" && be(8)? == 13;
    let mut at = 8usize;
    while array::<4>(bytes, at.checked_add(4)?)? != *b"IEND" {
        at = at.checked_add(12)?.checked_add(be(at)? as usize)?;
    }
    (header && bytes.len() >= at.checked_add(12)?).then_some((be(16)?, be(20)?))
}

/// Segments up to the picture's data, and the mark of its end after it.
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    let be = |at| array(bytes, at).map(u16::from_be_bytes);
    let (mut at, mut found) = (2usize, None);
    loop {
        match bytes.get(at..at.checked_add(2)?)? {
            [0xff, 0xff] => at += 1,
            [0xff, 0x01 | 0xd0..=0xd7] => at += 2,
            [0xff, 0xda] => break,
            [0xff, marker] => {
                if matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc) {
                    found = Some((be(at + 7)?.into(), be(at + 5)?.into()));
                }
                at = at.checked_add(2 + usize::from(be(at + 2)?))?;
            }
            _ => return None,
        }
    }
    let ended = bytes.get(at..)?.windows(2).rev().any(|pair| pair == [0xff, 0xd9]);
    found.filter(|_| ended)
}

/// Blocks up to the trailer.
fn gif(bytes: &[u8]) -> Option<(u32, u32)> {
    let le = |at| array(bytes, at).map(u16::from_le_bytes);
    let colours = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let mut at = 13 + colours(*bytes.get(10)?);
    loop {
        at += match bytes.get(at)? {
            0x3b => return Some((le(6)?.into(), le(8)?.into())),
            0x21 => 2,
            0x2c => 11 + colours(*bytes.get(at + 9)?),
            _ => return None,
        };
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(*bytes.get(at)?);
        }
        at += 1;
    }
}

/// The size in the outer header, and the first chunk.
fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    let size = u32::from_le_bytes(array(bytes, 4)?) as usize;
    if bytes.len() < size.checked_add(8)? {
        return None;
    }
    let le16 = |at| array(bytes, at).map(|b| u32::from(u16::from_le_bytes(b) & 0x3fff));
    let le24 = |at| array(bytes, at).map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]));
    match &array(bytes, 12)? {
        b"VP8 " if array(bytes, 23)? == [0x9d, 0x01, 0x2a] => Some((le16(26)?, le16(28)?)),
        b"VP8L" if *bytes.get(20)? == 0x2f => {
            let bits = u32::from_le_bytes(array(bytes, 21)?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => Some((le24(24)? + 1, le24(27)? + 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
        [&(data.len() as u32).to_be_bytes()[..], kind, data, &[0; 4]].concat()
    }

    fn whole() -> Vec<(&'static str, Vec<u8>)> {
        let header = [&5u32.to_be_bytes()[..], &7u32.to_be_bytes(), &[8, 6, 0, 0, 0]].concat();
        let png = [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", b"xyz"), chunk(b"IEND", b"")];
        let jpeg = b"\xff\xd8\xff\xe0\0\x04\xff\xd9\xff\xff\xc2\0\x0b\x08\0\x07\0\x05\x01\0\0\0\xff\xda\0\x02data\xff\0\xff\xd9";
        let gif = b"GIF89a\x05\0\x07\0\x80\0\0RGBRGB\x21\xf9\x01x\0\x2c\0\0\0\0\x05\0\x07\0\0\x02\x02ab\0\x3b";
        let riff = |chunk: &[u8]| [b"RIFF", &(chunk.len() as u32 + 4).to_le_bytes()[..], b"WEBP", chunk].concat();
        let lossless = (4u32 | 6 << 14).to_le_bytes();
        vec![
            ("image/png", png.concat()),
            ("image/jpeg", jpeg.to_vec()),
            ("image/gif", gif.to_vec()),
            ("image/webp", riff(b"VP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a\x05\0\x07\0")),
            ("image/webp", riff(&[&b"VP8L\x05\0\0\0\x2f"[..], &lossless].concat())),
            ("image/webp", riff(b"VP8X\x0a\0\0\0\0\0\0\0\x04\0\0\x06\0\0")),
        ]
    }

    #[test]
    fn sides_are_read_and_every_cut_is_noticed() {
        for (media_type, bytes) in whole() {
            assert_eq!(dimensions(media_type, &bytes), Some((5, 7)), "{media_type} {bytes:?}");
            for cut in 0..bytes.len() {
                assert_eq!(dimensions(media_type, &bytes[..cut]), None, "{media_type} cut at {cut}");
            }
            let behind = [&bytes[..], b"what some programs leave behind"].concat();
            assert_eq!(dimensions(media_type, &behind), Some((5, 7)), "{media_type}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_picture_or_none_and_never_a_panic(
            which in 0usize..6, at in 0usize..80, with in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (media_type, mut bytes) = whole().swap_remove(which);
            let at = at.min(bytes.len());
            bytes.splice(at..(at + with.len()).min(bytes.len()), with);
            let _ = dimensions(media_type, &bytes);
        }
    }
}
