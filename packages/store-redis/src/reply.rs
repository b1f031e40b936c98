//! Reading what a script answers: nested arrays, field by field.

use std::vec::IntoIter;

use redis::Value;
use torpor_core::store;

/// An answer, or a part of one, that is read from the front.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The script, for messages.
    name: &'static str,
    rest: IntoIter<Value>,
}

impl Reply {
    pub(crate) fn new(name: &'static str, value: Value) -> Self {
        let rest = match value {
            Value::Array(values) | Value::Set(values) => values,
            Value::Nil => Vec::new(),
            one => vec![one],
        };
        Self { name, rest: rest.into_iter() }
    }

    fn unreadable(&self, wanted: &str) -> store::Error {
        store::Error::Unreadable(format!("the answer of `{}`: {wanted} was expected", self.name))
    }

    fn value(&mut self, wanted: &str) -> Result<Value, store::Error> {
        self.rest.next().ok_or_else(|| self.unreadable(wanted))
    }

    /// What is left to read.
    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    /// The next part as bytes; `None` for nil.
    pub(crate) fn maybe_bytes(&mut self) -> Result<Option<Vec<u8>>, store::Error> {
        match self.value("text")? {
            Value::Nil | Value::Boolean(false) => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            Value::SimpleString(text) => Ok(Some(text.into_bytes())),
            Value::Okay => Ok(Some(b"OK".to_vec())),
            Value::Int(n) => Ok(Some(n.to_string().into_bytes())),
            _ => Err(self.unreadable("text")),
        }
    }

    /// The next part as bytes.
    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>, store::Error> {
        self.maybe_bytes()?.ok_or_else(|| self.unreadable("text"))
    }

    /// The next part as text; `None` for nil.
    pub(crate) fn maybe_text(&mut self) -> Result<Option<String>, store::Error> {
        let bytes = self.maybe_bytes()?;
        bytes.map(String::from_utf8).transpose().map_err(|_| self.unreadable("UTF-8"))
    }

    /// The next part as text.
    pub(crate) fn text(&mut self) -> Result<String, store::Error> {
        self.maybe_text()?.ok_or_else(|| self.unreadable("text"))
    }

    /// The next part as text for people, whatever it holds; `None` for nil.
    pub(crate) fn maybe_lossy(&mut self) -> Result<Option<String>, store::Error> {
        Ok(self.maybe_bytes()?.map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        }))
    }

    /// The next part as text for people; empty for nil.
    pub(crate) fn lossy(&mut self) -> Result<String, store::Error> {
        self.maybe_lossy().map(Option::unwrap_or_default)
    }

    /// The next part as a number; `None` for nil and for empty text.
    pub(crate) fn maybe_number(&mut self) -> Result<Option<u64>, store::Error> {
        match self.maybe_text()?.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| self.unreadable("a number")),
        }
    }

    /// The next part as a number.
    pub(crate) fn number(&mut self) -> Result<u64, store::Error> {
        self.maybe_number()?.ok_or_else(|| self.unreadable("a number"))
    }

    /// The next part as yes or no: `1`, and anything else.
    pub(crate) fn flag(&mut self) -> Result<bool, store::Error> {
        Ok(self.maybe_number()? == Some(1))
    }

    /// The next part, which is a list of its own.
    pub(crate) fn list(&mut self) -> Result<Self, store::Error> {
        match self.value("a list")? {
            Value::Array(values) | Value::Set(values) => Ok(Self { name: self.name, rest: values.into_iter() }),
            _ => Err(self.unreadable("a list")),
        }
    }

    /// The next part, which is a list of its own or nil.
    pub(crate) fn maybe_list(&mut self) -> Result<Option<Self>, store::Error> {
        match self.value("a list")? {
            Value::Nil | Value::Boolean(false) => Ok(None),
            Value::Array(values) | Value::Set(values) => Ok(Some(Self { name: self.name, rest: values.into_iter() })),
            _ => Err(self.unreadable("a list")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn parts_are_read_in_order_and_a_missing_one_is_named() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let inner = Value::Array(vec![bulk("x"), Value::Nil]);
        let mut reply = Reply::new("some", Value::Array(vec![Value::Int(7), bulk("12"), Value::Nil, inner, bulk("x")]));
        assert_eq!((reply.number().unwrap(), reply.number().unwrap()), (7, 12));
        assert_eq!(reply.maybe_text().unwrap(), None);
        let mut list = reply.list().unwrap();
        assert_eq!((list.text().unwrap(), list.maybe_number().unwrap(), list.len()), ("x".to_owned(), None, 0));
        for wrong in [reply.number().unwrap_err(), reply.text().unwrap_err()] {
            assert!(wrong.to_string().contains("`some`"), "{wrong}");
        }
    }
}
