//! Protobuf, as far as spans need it.
//!
//! Owns: writing fields. Must not know: which message has which field.

/// A message as it grows.
#[derive(Debug, Default)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80); // the low seven bits
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn key(&mut self, field: u32, kind: u32) {
        self.varint(u64::from(field << 3 | kind));
    }

    /// A number of variable length: `enum`, `int64` that is not negative, `uint32`.
    pub(crate) fn number(&mut self, field: u32, n: u64) {
        self.key(field, 0);
        self.varint(n);
    }

    pub(crate) fn fixed64(&mut self, field: u32, n: u64) {
        self.key(field, 1);
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    pub(crate) fn fixed32(&mut self, field: u32, n: u32) {
        self.key(field, 5);
        self.0.extend_from_slice(&n.to_le_bytes());
    }

    /// `bytes`, `string`, or a message that is encoded already.
    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// An attribute: `KeyValue` with a string.
    pub(crate) fn text(&mut self, field: u32, key: &str, value: &str) {
        self.message(field, |kv| {
            kv.bytes(1, key.as_bytes());
            kv.message(2, |any| any.bytes(1, value.as_bytes()));
        });
    }

    /// An attribute with an integer.
    pub(crate) fn integer(&mut self, field: u32, key: &str, value: u64) {
        self.message(field, |kv| {
            kv.bytes(1, key.as_bytes());
            kv.message(2, |any| any.number(3, value));
        });
    }

    /// An attribute with a list of one string.
    pub(crate) fn list(&mut self, field: u32, key: &str, value: &str) {
        self.message(field, |kv| {
            kv.bytes(1, key.as_bytes());
            kv.message(2, |any| any.message(5, |array| array.message(1, |any| any.bytes(1, value.as_bytes()))));
        });
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
