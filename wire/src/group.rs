//! What a group can be configured to do: its JSON, its defaults, its bounds.
//!
//! ```text
//! {"order":"none"|"key","start":"earliest"|"latest"|N,"lease_ms":30000,"max_deliveries":16,
//!  "retry":{"min_ms":1000,"max_ms":60000},"dead_letter":null|"namespace"}
//! ```
//!
//! Whatever is left out has the value that is shown here, or is shown first.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::Offset;
use crate::limits::{MAX_DELIVERIES, MAX_LEASE_MS, MAX_RETRY_MS, MAX_SAFE_INTEGER};
use crate::name::NamespaceName;

/// A group's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// Which records a worker may be given.
    pub order: Order,
    /// Where a new group begins.
    pub start: Start,
    /// How long a record is a worker's, if nothing is heard of it: 1 to [`MAX_LEASE_MS`].
    pub lease_ms: u64,
    /// How often a record is tried before it is a dead letter: 1 to [`MAX_DELIVERIES`].
    pub max_deliveries: u32,
    /// How long a record waits that a worker has given back.
    pub retry: Retry,
    /// The namespace that dead letters go to; without one they are acked and counted.
    #[serde(serialize_with = "serialize_name", deserialize_with = "deserialize_name")]
    pub dead_letter: Option<NamespaceName>,
}

/// Which records a worker may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Any worker takes any record.
    #[default]
    None,
    /// Records of one key are at one worker at a time, in order.
    Key,
}

/// Where a new group begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Start {
    /// With the first record that there is.
    #[default]
    Earliest,
    /// With the first record behind the head as of the group's creation.
    Latest,
    /// With this offset.
    At(Offset),
}

/// How long a record waits that a worker has given back: `min_ms` the first time, twice as long each
/// time after that, up to `max_ms`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// The first wait, milliseconds.
    pub min_ms: u64,
    /// The longest wait, milliseconds: up to [`MAX_RETRY_MS`].
    pub max_ms: u64,
}

impl Default for GroupConfig {
    fn default() -> Self {
        GroupConfig {
            order: Order::None,
            start: Start::Earliest,
            lease_ms: 30_000,
            max_deliveries: 16,
            retry: Retry::default(),
            dead_letter: None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Retry { min_ms: 1_000, max_ms: 60_000 }
    }
}

impl Retry {
    /// The wait after so many failed deliveries, milliseconds.
    pub fn wait_ms(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(63);
        self.min_ms.saturating_mul(1 << doublings).min(self.max_ms)
    }
}

impl GroupConfig {
    /// Whether every setting is within its bounds; says which one is not.
    pub fn check(&self) -> Result<(), String> {
        let within = |what: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(format!("{what} is {value}, it must be {least} to {most}"))
            }
        };
        within("lease_ms", self.lease_ms, 1, MAX_LEASE_MS)?;
        within("max_deliveries", self.max_deliveries.into(), 1, MAX_DELIVERIES.into())?;
        within("retry.max_ms", self.retry.max_ms, 0, MAX_RETRY_MS)?;
        within("retry.min_ms", self.retry.min_ms, 0, self.retry.max_ms)?;
        match self.start {
            Start::At(offset) => within("start", offset, 0, MAX_SAFE_INTEGER),
            Start::Earliest | Start::Latest => Ok(()),
        }
    }
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Start::Earliest => serializer.serialize_str("earliest"),
            Start::Latest => serializer.serialize_str("latest"),
            Start::At(offset) => serializer.serialize_u64(*offset),
        }
    }
}

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Start, D::Error> {
        struct StartVisitor;

        impl Visitor<'_> for StartVisitor {
            type Value = Start;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"earliest\", \"latest\" or an offset")
            }

            fn visit_u64<E: Error>(self, offset: u64) -> Result<Start, E> {
                Ok(Start::At(offset))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Start, E> {
                match text {
                    "earliest" => Ok(Start::Earliest),
                    "latest" => Ok(Start::Latest),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(StartVisitor)
    }
}

fn serialize_name<S: Serializer>(name: &Option<NamespaceName>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_deref().serialize(serializer)
}

fn deserialize_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NamespaceName>, D::Error> {
    let name: Option<String> = Option::deserialize(deserializer)?;
    name.map(|name| NamespaceName::new(&name).map_err(|error| D::Error::custom(format!("dead_letter: {error}"))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<GroupConfig, String> {
        let config: GroupConfig = serde_json::from_str(json).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    #[test]
    fn golden_json_and_round_trip() {
        let defaults = r#"{"order":"none","start":"earliest","lease_ms":30000,"max_deliveries":16,"retry":{"min_ms":1000,"max_ms":60000},"dead_letter":null}"#;
        assert_eq!(serde_json::to_string(&GroupConfig::default()).unwrap(), defaults);
        assert_eq!(parse(defaults), Ok(GroupConfig::default()));
        assert_eq!(parse("{}"), Ok(GroupConfig::default()));
        let all = r#"{"order":"key","start":17,"lease_ms":1,"max_deliveries":1000,"retry":{"min_ms":0,"max_ms":86400000},"dead_letter":"dead"}"#;
        let config = parse(all).unwrap();
        assert_eq!((config.order, config.start), (Order::Key, Start::At(17)));
        assert_eq!(serde_json::to_string(&config).unwrap(), all);
        assert_eq!(parse(r#"{"start":"latest"}"#).unwrap().start, Start::Latest);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (json, named) in [
            (r#"{"lease_ms":0}"#, "lease_ms is 0, it must be 1 to 43200000"),
            (r#"{"lease_ms":43200001}"#, "lease_ms is 43200001, it must be 1 to 43200000"),
            (r#"{"max_deliveries":0}"#, "max_deliveries is 0, it must be 1 to 1000"),
            (r#"{"max_deliveries":1001}"#, "max_deliveries is 1001, it must be 1 to 1000"),
            (r#"{"retry":{"max_ms":86400001}}"#, "retry.max_ms is 86400001, it must be 0 to 86400000"),
            (r#"{"retry":{"min_ms":9,"max_ms":8}}"#, "retry.min_ms is 9, it must be 0 to 8"),
            (r#"{"start":9007199254740992}"#, "start is 9007199254740992, it must be 0 to 9007199254740991"),
            (r#"{"start":"middle"}"#, r#"expected "earliest", "latest" or an offset"#),
            (r#"{"start":-1}"#, r#"expected "earliest", "latest" or an offset"#),
            (r#"{"order":"total"}"#, "unknown variant `total`"),
            (r#"{"dead_letter":""}"#, "dead_letter: the namespace's name is empty"),
            (r#"{"leases":1}"#, "unknown field `leases`"),
            (r#"{"retry":{"ms":1}}"#, "unknown field `ms`"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(named), "{json}: {error}");
        }
    }

    #[test]
    fn a_wait_doubles_up_to_the_longest() {
        let retry = Retry { min_ms: 100, max_ms: 1_000 };
        let waits: Vec<u64> = [1, 2, 3, 4, 5, 1000].map(|attempts| retry.wait_ms(attempts)).to_vec();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(Retry { min_ms: 0, max_ms: 9 }.wait_ms(64), 0);
        assert_eq!(Retry { min_ms: u64::MAX, max_ms: u64::MAX }.wait_ms(7), u64::MAX);
    }
}
