//! What a namespace can be configured to do.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_RECORD_BYTES;

/// A namespace's configuration: given when it is created, compared when it is ensured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NamespaceConfig {
    /// The largest record that the namespace takes, bytes of key, headers and value together:
    /// 1 to [`MAX_RECORD_BYTES`].
    pub max_record_bytes: u32,
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        NamespaceConfig { max_record_bytes: MAX_RECORD_BYTES as u32 }
    }
}

impl NamespaceConfig {
    /// Whether every setting is within its bounds; says which one is not.
    pub fn check(&self) -> Result<(), String> {
        if (1..=MAX_RECORD_BYTES as u32).contains(&self.max_record_bytes) {
            Ok(())
        } else {
            Err(format!("max_record_bytes is {}, it must be 1 to {MAX_RECORD_BYTES}", self.max_record_bytes))
        }
    }
}
