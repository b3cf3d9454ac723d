//! What is asked of rooms, and what they answer.

use tlog::Namespace;
use wire::{Generation, NamespaceId, Offset, SubscriberName};

/// What a subscriber can be in: all of a namespace, or what has one key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// The namespace.
    pub namespace: Namespace,
    /// The key; without one it is the namespace as a whole.
    pub key: Option<String>,
}

/// How far a subscriber is in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The namespace.
    pub namespace: NamespaceId,
    /// Which use of its id.
    pub generation: Generation,
    /// All below is done, or was not for it.
    pub next_offset: Offset,
}

/// A durable subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// What it is in, in ascending order of namespaces' ids and of keys.
    pub rooms: Vec<Room>,
    /// When it was made, microseconds since 1970.
    pub began_micros: i64,
    /// Whether it is connected.
    pub connected: bool,
    /// When its last connection began, if it has had one.
    pub connected_micros: Option<i64>,
    /// How far it is in each of the namespaces.
    pub cursors: Vec<Cursor>,
}

/// How far a subscriber is in a namespace, and how far it could be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The namespace.
    pub namespace: Namespace,
    /// All below is done.
    pub next_offset: Offset,
    /// The namespace's next offset.
    pub head: Offset,
}

/// A subscriber in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: SubscriberName,
    /// When it was made, microseconds since 1970.
    pub began_micros: i64,
    /// Whether it is connected.
    pub connected: bool,
}
