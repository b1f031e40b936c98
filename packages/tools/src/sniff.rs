//! What a file is, from its first bytes.
//!
//! Owns: telling text from binary, naming common formats. Must not open anything.

/// Bytes worth looking at.
pub(crate) const HEAD: usize = 8 * 1024;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// Text that must be converted before it can be shown or edited.
    Utf16,
    /// A picture, by its MIME type.
    Image(&'static str),
    /// Anything else, by its MIME type.
    Binary(&'static str),
}

/// Formats that no text starts like.
const SURE: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xca\xfe\xba\xbe", "application/java-vm"),
    (b"\0asm", "application/wasm"),
    (b"SQLite format 3\0", "application/vnd.sqlite3"),
];

/// Formats whose first bytes may also begin a text; believed only of a file that holds NUL bytes.
const LIKELY: &[(&[u8], &str)] = &[
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\x01\0", "image/x-icon"),
    (b"BZh", "application/x-bzip2"),
    (b"MZ", "application/x-dosexec"),
    (b"ID3", "audio/mpeg"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
    (b"!<arch>\n", "application/x-archive"),
];

/// A file with a NUL byte in its first [`HEAD`] bytes is binary, as ripgrep and git see it.
pub(crate) fn kind(head: &[u8]) -> Kind {
    let head = &head[..head.len().min(HEAD)];
    if let Some((_, mime)) = SURE.iter().find(|(magic, _)| head.starts_with(magic)) {
        return named(mime);
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Kind::Utf16;
    }
    if !head.contains(&0) {
        return Kind::Text;
    }
    if let Some((_, mime)) = LIKELY.iter().find(|(magic, _)| head.starts_with(magic)) {
        return named(mime);
    }
    match (head.get(..4), head.get(4..8), head.get(8..12), head.get(257..262)) {
        (Some(b"RIFF"), _, Some(b"WEBP"), _) => Kind::Image("image/webp"),
        (Some(b"RIFF"), _, Some(b"WAVE"), _) => Kind::Binary("audio/wav"),
        (_, Some(b"ftyp"), _, _) => Kind::Binary("video/mp4"),
        (_, _, _, Some(b"ustar")) => Kind::Binary("application/x-tar"),
        _ => Kind::Binary("application/octet-stream"),
    }
}

fn named(mime: &'static str) -> Kind {
    if mime.starts_with("image/") { Kind::Image(mime) } else { Kind::Binary(mime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let mut tar = vec![b'a'; 512];
        tar[100] = 0;
        tar[257..262].copy_from_slice(b"ustar");
        let cases: [(&[u8], Kind); 12] = [
            (b"", Kind::Text),
            (b"fn main() {}\n", Kind::Text),
            (b"BMW is a car\n", Kind::Text),
            (b"caf\xe9 in Latin-1", Kind::Text),
            (b"\x89PNG\r\n\x1a\n....", Kind::Image("image/png")),
            (b"BM\0\0\0", Kind::Image("image/bmp")),
            (b"RIFF\0\0\0\0WEBPVP8 ", Kind::Image("image/webp")),
            (b"%PDF-1.7\n", Kind::Binary("application/pdf")),
            (b"\x7fELF\x02", Kind::Binary("application/x-elf")),
            (b"a\0b", Kind::Binary("application/octet-stream")),
            (b"\xff\xfeh\0i\0", Kind::Utf16),
            (&tar, Kind::Binary("application/x-tar")),
        ];
        for (head, expected) in cases {
            assert_eq!(kind(head), expected, "{head:?}");
        }
    }
}
