//! Decoding of server-sent events, without any I/O.
//!
//! Owns: bytes in whatever pieces they come, out come events. Must not know: what an event means, who sent it.
//! The result never depends on where the pieces were cut.

/// Byte order mark; allowed once, at the very start of a stream.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The `event:` field; empty when the stream named none.
    pub name: String,
    /// The `data:` lines, joined by line feeds. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub data: String,
}

/// An event outgrew the decoder's limit. The decoder is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {limit} bytes")]
pub struct TooLarge {
    /// The limit, in bytes.
    pub limit: usize,
}

/// An incremental decoder. Holds at most one unfinished event, which never grows past the limit.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    /// The unfinished line.
    line: Vec<u8>,
    /// The unfinished event.
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte seen was a CR, so an LF that follows belongs to the same line end.
    after_cr: bool,
    first_line: bool,
}

impl Decoder {
    /// A decoder that refuses events (and comments) larger than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            first_line: true,
        }
    }

    /// Takes the next piece of the stream and appends the events it completes to `events`. An event that the stream
    /// leaves unfinished at its end is never reported: it was cut.
    ///
    /// # Errors
    /// [`TooLarge`]; events completed before the large one are in `events`.
    pub fn push(&mut self, piece: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        let mut rest = piece;
        if self.after_cr && !rest.is_empty() {
            self.after_cr = false;
            if let Some(tail) = rest.strip_prefix(b"\n") {
                rest = tail;
            }
        }
        while let Some(at) = memchr::memchr2(b'\n', b'\r', rest) {
            self.line.extend_from_slice(&rest[..at]);
            self.check()?;
            let cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
            if cr {
                match rest.first() {
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.end_line(events);
        }
        self.line.extend_from_slice(rest);
        self.check()
    }

    fn check(&self) -> Result<(), TooLarge> {
        if self.line.len() + self.data.len() + self.name.len() > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let mut line = self.line.as_slice();
        if self.first_line {
            self.first_line = false;
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.is_empty() {
            if self.has_data {
                events.push(Event { name: text(&self.name), data: text(&self.data) });
            }
            self.name.clear();
            self.data.clear();
            self.has_data = false;
        } else {
            let (field, value) = match memchr::memchr(b':', line) {
                Some(at) => {
                    let value = &line[at + 1..];
                    (&line[..at], value.strip_prefix(b" ").unwrap_or(value))
                }
                None => (line, &[][..]),
            };
            match field {
                b"data" => {
                    if self.has_data {
                        self.data.push(b'\n');
                    }
                    self.has_data = true;
                    self.data.extend_from_slice(value);
                }
                b"event" => {
                    self.name.clear();
                    self.name.extend_from_slice(value);
                }
                // Comments have an empty field name. `id` and `retry` are for clients that reconnect by themselves;
                // a model call is paid for, so it never is repeated down here.
                _ => {}
            }
        }
        self.line.clear();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests;
