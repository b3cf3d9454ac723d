//! What may be a name, a key, and a header.
//!
//! All of them end up in URLs, log lines, event streams and terminals, so none may hold a control
//! character: that one rule shuts out CR, LF and NUL, and with them every forged line.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::limits::{MAX_HEADERS, MAX_HEADERS_BYTES, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_OWNER_BYTES, MAX_WORKER_BYTES};

/// Why a name, key or header is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no bytes.
    #[error("{what} is empty")]
    Empty {
        /// What was being named.
        what: &'static str,
    },
    /// It is longer than its limit.
    #[error("{what} is {bytes} bytes, the limit is {limit}")]
    TooLong {
        /// What was being named.
        what: &'static str,
        /// Its length, bytes.
        bytes: usize,
        /// The limit, bytes.
        limit: usize,
    },
    /// Its bytes are not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// What was being named.
        what: &'static str,
    },
    /// It holds a control character, such as CR, LF or NUL.
    #[error("{what} holds the control character U+{character:04X}")]
    Control {
        /// What was being named.
        what: &'static str,
        /// The code point of the first such character.
        character: u32,
    },
    /// It is `.` or `..`, which a URL's path can't hold: clients drop them, percent-encoded too.
    #[error("{what} is {name:?}, which no URL can name")]
    Dots {
        /// What was being named.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// There are more headers than the limit.
    #[error("{count} headers, the limit is {MAX_HEADERS}")]
    TooManyHeaders {
        /// How many there are.
        count: usize,
    },
    /// Two headers of a record have one name.
    #[error("header {name:?} is given twice")]
    TwiceInHeaders {
        /// The name.
        name: String,
    },
}

fn check(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what });
    }
    check_text(what, text, limit)
}

fn check_text(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.len() > limit {
        return Err(NameError::TooLong { what, bytes: text.len(), limit });
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(NameError::Control { what, character: u32::from(c) }),
        None => Ok(()),
    }
}

/// Checks a key: 1 to [`MAX_KEY_BYTES`] bytes, no control character.
pub fn check_key(key: &str) -> Result<(), NameError> {
    check("the key", key, MAX_KEY_BYTES)
}

/// Checks a group's name: what holds for a namespace's holds for it.
pub fn check_group(name: &str) -> Result<(), NameError> {
    check_name("the group's name", name)
}

/// Checks a worker's name: 1 to [`MAX_WORKER_BYTES`] bytes, no control character.
pub fn check_worker(name: &str) -> Result<(), NameError> {
    check("the worker's name", name, MAX_WORKER_BYTES)
}

/// Checks the name of a lock's owner: 1 to [`MAX_OWNER_BYTES`] bytes, no control character.
pub fn check_owner(name: &str) -> Result<(), NameError> {
    check("the owner's name", name, MAX_OWNER_BYTES)
}

/// Checks what stands in a URL's path.
fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    check(what, name, MAX_NAME_BYTES)?;
    if name == "." || name == ".." {
        return Err(NameError::Dots { what, name: name.to_owned() });
    }
    Ok(())
}

/// Checks a record's headers: at most [`MAX_HEADERS`], [`MAX_HEADERS_BYTES`] together, names not
/// empty and each there once, no control character in name or value.
pub fn check_headers<'a>(headers: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Result<(), NameError> {
    let mut names = [""; MAX_HEADERS];
    let mut bytes = 0;
    for (index, (name, value)) in headers.clone().enumerate() {
        if index >= MAX_HEADERS {
            return Err(NameError::TooManyHeaders { count: headers.count() });
        }
        check("a header's name", name, MAX_HEADERS_BYTES)?;
        check_text("a header's value", value, MAX_HEADERS_BYTES)?;
        if names[..index].contains(&name) {
            return Err(NameError::TwiceInHeaders { name: name.to_owned() });
        }
        names[index] = name;
        bytes += name.len() + value.len();
    }
    if bytes > MAX_HEADERS_BYTES {
        return Err(NameError::TooLong { what: "the headers together", bytes, limit: MAX_HEADERS_BYTES });
    }
    Ok(())
}

macro_rules! names {
    ($($(#[doc = $doc:literal])* $name:ident $what:literal)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks a text and takes it as a name.
            pub fn new(name: &str) -> Result<$name, NameError> {
                check_name($what, name)?;
                Ok($name(name.into()))
            }

            /// Checks bytes, such as those that percent-decoding gave, and takes them as a name.
            pub fn from_bytes(name: &[u8]) -> Result<$name, NameError> {
                $name::new(std::str::from_utf8(name).map_err(|_| NameError::NotUtf8 { what: $what })?)
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    )*};
}

names! {
    /// A namespace's name: 1 to 255 bytes of UTF-8 without control characters. Cheap to clone.
    NamespaceName "the namespace's name"
    /// A group's name, of which the same is true.
    GroupName "the group's name"
    /// A durable subscriber's name, of which the same is true.
    SubscriberName "the subscriber's name"
    /// A lock's name, of which the same is true.
    LockName "the lock's name"
}

impl NamespaceName {
    /// The partition that this name's namespace is created in. So one sequencer decides alone whether a
    /// name is taken.
    pub fn partition(&self, partitions: u16) -> u16 {
        partition(self, partitions)
    }
}

impl SubscriberName {
    /// The partition whose log says what becomes of this name's subscriber.
    pub fn partition(&self, partitions: u16) -> u16 {
        partition(self, partitions)
    }
}

impl LockName {
    /// The partition whose log says who holds this lock.
    pub fn partition(&self, partitions: u16) -> u16 {
        partition(self, partitions)
    }
}

/// A name's partition, of `partitions` (a power of two): bytes 1 to 4 of the name's BLAKE3.
fn partition(name: &str, partitions: u16) -> u16 {
    let hash = blake3::hash(name.as_bytes());
    (crate::le::u32_at(hash.as_bytes(), 1) & (u32::from(partitions) - 1)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_for_a_reason_that_is_named() {
        let message = |name: &[u8]| NamespaceName::from_bytes(name).unwrap_err().to_string();
        assert_eq!(message(b""), "the namespace's name is empty");
        assert_eq!(message(&[b'a'; 256]), "the namespace's name is 256 bytes, the limit is 255");
        assert_eq!(message(b"a\xff"), "the namespace's name is not UTF-8");
        for (name, point) in [("a\rb", "000D"), ("a\nb", "000A"), ("a\0b", "0000"), ("a\u{85}b", "0085")] {
            assert_eq!(message(name.as_bytes()), format!("the namespace's name holds the control character U+{point}"));
        }
        assert_eq!(message(b".."), "the namespace's name is \"..\", which no URL can name");
        assert!(NamespaceName::from_bytes(&[b'a'; 255]).is_ok());
        assert!(NamespaceName::new("orders/äöü 東京").is_ok());
    }

    #[test]
    fn headers_are_bounded_and_named_once() {
        let many: Vec<(String, String)> = (0..65).map(|i| (format!("h{i}"), String::new())).collect();
        let pairs = |n: usize| many[..n].iter().map(|(n, v)| (n.as_str(), v.as_str()));
        assert!(check_headers(pairs(64)).is_ok());
        assert_eq!(check_headers(pairs(65)), Err(NameError::TooManyHeaders { count: 65 }));
        let long = "v".repeat(4095);
        assert!(check_headers([("n", long.as_str())].into_iter()).is_ok());
        assert!(check_headers([("nn", long.as_str())].into_iter()).is_err());
        assert_eq!(
            check_headers([("a", "1"), ("a", "2")].into_iter()),
            Err(NameError::TwiceInHeaders { name: "a".into() })
        );
        assert!(check_headers([("a", "1\n2")].into_iter()).is_err());
        assert!(check_headers([("", "1")].into_iter()).is_err());
    }
}
