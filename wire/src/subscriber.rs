//! What a durable subscriber follows, as calls spell it.
//!
//! ```text
//! {"rooms":[{"namespace":"orders","key":"o-17"}],"namespaces":["prices"]}
//! ```

use serde::{Deserialize, Serialize};

/// Rooms and whole namespaces.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rooms {
    /// The records of one key of one namespace, each.
    #[serde(default)]
    pub rooms: Vec<RoomName>,
    /// Namespaces, all of whose records are followed.
    #[serde(default)]
    pub namespaces: Vec<String>,
}

/// A room: the records of one key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomName {
    /// The namespace.
    pub namespace: String,
    /// The key.
    pub key: String,
}

impl Rooms {
    /// Adds a room.
    pub fn room(mut self, namespace: impl Into<String>, key: impl Into<String>) -> Rooms {
        self.rooms.push(RoomName { namespace: namespace.into(), key: key.into() });
        self
    }

    /// Adds a whole namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Rooms {
        self.namespaces.push(namespace.into());
        self
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.rooms.len() + self.namespaces.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_json_and_what_it_is_not() {
        let rooms = Rooms::default().room("orders", "o-17").namespace("prices");
        let json = r#"{"rooms":[{"namespace":"orders","key":"o-17"}],"namespaces":["prices"]}"#;
        assert_eq!(serde_json::to_string(&rooms).unwrap(), json);
        assert_eq!(serde_json::from_str::<Rooms>(json).unwrap(), rooms);
        assert_eq!(serde_json::from_str::<Rooms>("{}").unwrap(), Rooms::default());
        for bad in
            [r#"{"room":[]}"#, r#"{"rooms":[{"namespace":"n"}]}"#, r#"{"rooms":[{"namespace":"n","key":"k","x":1}]}"#]
        {
            assert!(serde_json::from_str::<Rooms>(bad).is_err(), "{bad}");
        }
    }
}
