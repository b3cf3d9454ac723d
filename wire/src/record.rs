//! A record's bytes inside a frame, and the view of them.
//!
//! ```text
//!  0   4  value length
//!  4   4  counter         of the object id, from 1; 0 in a draft
//!  8   2  key length      0: no key
//! 10   2  headers length
//! 12   1  shard           first byte of BLAKE3(key, or value where there is no key)
//! 13   1  kind            0 bytes · 1 text · 2 JSON · 3 tombstone
//! 14   2  zero
//! 16      key             UTF-8
//!         headers         each: name length u16, value length u16, name, value
//!         value
//! ```
//!
//! All numbers are little-endian. The record's offset, namespace and time follow from its frame.

use std::borrow::Cow;

use crate::frame::FrameError;
use crate::ids::{NamespaceId, ObjectId, Offset, Shard};
use crate::le::{u16_at, u32_at};
use crate::limits::{MAX_HEADERS, MAX_HEADERS_BYTES, MAX_KEY_BYTES, MAX_RECORD_BYTES};

/// Bytes of a record before its key.
pub const RECORD_HEADER_BYTES: usize = 16;

/// Where a record's shard stands in it.
pub(crate) const SHARD_AT: usize = 12;

const HEADER_LENGTHS_BYTES: usize = 4;

/// Longest encoded headers, bytes: their text and the two lengths of each.
pub(crate) const MAX_ENCODED_HEADERS_BYTES: usize = MAX_HEADERS_BYTES + MAX_HEADERS * HEADER_LENGTHS_BYTES;

/// What a value was published as, and so what it is shown as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Bytes that are neither text nor JSON.
    Bytes = 0,
    /// UTF-8 text.
    Text = 1,
    /// A JSON text, kept as it was written.
    Json = 2,
    /// No value: the key is deleted as of here.
    Tombstone = 3,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Bytes, Kind::Text, Kind::Json, Kind::Tombstone].get(usize::from(byte)).copied()
    }
}

/// One header of a record to be encoded: name and value.
pub type HeaderPair<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A record before it has an offset: what a publisher says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewRecord<'a> {
    /// Its key, if it has one.
    pub key: Option<&'a str>,
    /// Its headers.
    pub headers: &'a [HeaderPair<'a>],
    /// What the value is.
    pub kind: Kind,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
}

impl<'a> NewRecord<'a> {
    /// A record of bytes, without key or headers.
    pub fn bytes(value: &'a [u8]) -> NewRecord<'a> {
        NewRecord { key: None, headers: &[], kind: Kind::Bytes, value }
    }

    /// A record of text, without key or headers.
    pub fn text(value: &'a str) -> NewRecord<'a> {
        NewRecord { kind: Kind::Text, ..NewRecord::bytes(value.as_bytes()) }
    }

    /// A record whose value is a JSON text, without key or headers.
    pub fn json(value: &'a str) -> NewRecord<'a> {
        NewRecord { kind: Kind::Json, ..NewRecord::bytes(value.as_bytes()) }
    }

    /// A tombstone: `key` has no value as of here.
    pub fn tombstone(key: &'a str) -> NewRecord<'a> {
        NewRecord { key: Some(key), headers: &[], kind: Kind::Tombstone, value: b"" }
    }

    /// The same record with a key.
    pub fn with_key(self, key: &'a str) -> NewRecord<'a> {
        NewRecord { key: Some(key), ..self }
    }

    /// The same record with headers.
    pub fn with_headers(self, headers: &'a [HeaderPair<'a>]) -> NewRecord<'a> {
        NewRecord { headers, ..self }
    }

    /// Appends the record's bytes, its counter and shard 0. The caller has checked every limit.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let headers_len: usize = self.headers.iter().map(|(n, v)| HEADER_LENGTHS_BYTES + n.len() + v.len()).sum();
        let key = self.key.unwrap_or_default();
        out.extend_from_slice(&(self.value.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(&(headers_len as u16).to_le_bytes());
        out.extend_from_slice(&[0, self.kind as u8, 0, 0]);
        out.extend_from_slice(key.as_bytes());
        for (name, value) in self.headers {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        out.extend_from_slice(self.value);
    }
}

/// A record of a namespace: a view of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its place in the namespace.
    pub offset: Offset,
    /// Its content-addressed id.
    pub id: ObjectId,
    /// When it was appended, microseconds since the Unix epoch.
    pub time_micros: i64,
    /// Its key, if it has one.
    pub key: Option<&'a str>,
    /// Its headers.
    pub headers: Headers<'a>,
    /// What the value was published as.
    pub kind: Kind,
    /// The value; empty for a tombstone.
    pub value: &'a [u8],
    /// The record as it is encoded: what [`Record::decode`] takes.
    pub encoded: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the beginning of `bytes`; what stands behind it is left alone.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] where the bytes are not a record, [`FrameError::OverLimit`] where
    /// they say that they are too long for one.
    #[inline]
    pub fn decode(
        bytes: &'a [u8],
        namespace: NamespaceId,
        offset: Offset,
        time_micros: i64,
    ) -> Result<Record<'a>, FrameError> {
        let malformed = FrameError::Malformed;
        if bytes.len() < RECORD_HEADER_BYTES {
            return Err(malformed("a record's header is cut off"));
        }
        let value_len = u32_at(bytes, 0) as usize;
        let key_len = usize::from(u16_at(bytes, 8));
        let headers_len = usize::from(u16_at(bytes, 10));
        for (what, size, limit) in [
            ("a value's length in bytes", value_len, MAX_RECORD_BYTES),
            ("a key's length in bytes", key_len, MAX_KEY_BYTES),
            ("the encoded headers' length in bytes", headers_len, MAX_ENCODED_HEADERS_BYTES),
        ] {
            if size > limit {
                return Err(FrameError::OverLimit { what, size, limit });
            }
        }
        let headers_at = RECORD_HEADER_BYTES + key_len;
        let value_at = headers_at + headers_len;
        let Some(encoded) = bytes.get(..value_at + value_len) else {
            return Err(malformed("a record is cut off"));
        };
        let kind = Kind::from_byte(bytes[13]).ok_or(malformed("a record's kind is unknown"))?;
        if bytes[14] != 0 || bytes[15] != 0 {
            return Err(malformed("a record's reserved bytes are not zero"));
        }
        if kind == Kind::Tombstone && (value_len > 0 || key_len == 0) {
            return Err(malformed("a tombstone has a value, or no key"));
        }
        let key = std::str::from_utf8(&encoded[RECORD_HEADER_BYTES..headers_at])
            .map_err(|_| malformed("a key is not UTF-8"))?;
        Ok(Record {
            offset,
            id: ObjectId::new(Shard(bytes[SHARD_AT]), namespace, u32_at(bytes, 4)),
            time_micros,
            key: (!key.is_empty()).then_some(key),
            headers: Headers::decode(&encoded[headers_at..value_at])?,
            kind,
            value: &encoded[value_at..],
            encoded,
        })
    }

    /// Whether the record's shard is that of its content.
    pub fn shard_is_true(&self) -> bool {
        Shard::of(self.key, self.value) == self.id.shard()
    }

    /// What its shard follows from.
    pub(crate) fn content(&self) -> &'a [u8] {
        self.key.map_or(self.value, str::as_bytes)
    }
}

/// A record's headers: a view that iterates over `(name, value)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    #[inline]
    fn decode(bytes: &'a [u8]) -> Result<Headers<'a>, FrameError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            (_, _, rest) = Headers::split(rest).ok_or(FrameError::Malformed("a record's headers are malformed"))?;
        }
        Ok(Headers(bytes))
    }

    fn split(bytes: &'a [u8]) -> Option<(&'a str, &'a str, &'a [u8])> {
        let name_len = usize::from(u16_at(bytes.get(..2)?, 0));
        let value_len = usize::from(u16_at(bytes.get(2..4)?, 0));
        let name_end = HEADER_LENGTHS_BYTES + name_len;
        let name = std::str::from_utf8(bytes.get(HEADER_LENGTHS_BYTES..name_end)?).ok()?;
        let value = std::str::from_utf8(bytes.get(name_end..name_end + value_len)?).ok()?;
        Some((name, value, &bytes[name_end + value_len..]))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        // `decode` has walked these bytes, so a split fails only at their end.
        let (name, value, rest) = Headers::split(self.0)?;
        self.0 = rest;
        Some((name, value))
    }
}
