//! Stable error codes: what an answer's `type` is, its HTTP status, and whether a retry is safe.

use serde::{Deserialize, Serialize};

/// Whether to send the same request again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Nothing was changed, and later it may work.
    Safe,
    /// It may have taken effect: only a request that names its producer, or an offset, is safe.
    Unknown,
    /// It will fail again.
    Never,
}

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $retry:ident $title:literal)*) => {
        /// An error that a caller can meet.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$variant),*];

            /// The code's name, as it stands at the end of a problem's `type`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(Code::$variant => $status,)* }
            }

            /// Whether a retry is safe.
            pub const fn retry(self) -> Retry {
                match self { $(Code::$variant => Retry::$retry,)* }
            }

            /// What it means, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
        }
    };
}

codes! {
    InvalidName         "invalid-name"          400 Never   "The namespace's name is not one"
    InvalidKey          "invalid-key"           400 Never   "A key is not one"
    InvalidHeaders      "invalid-headers"       400 Never   "A record's headers are not as they must be"
    InvalidBody         "invalid-body"          400 Never   "The body is not what this call takes"
    UnknownField        "unknown-field"         400 Never   "The body has a field that does not exist"
    EmptyBatch          "empty-batch"           400 Never   "There is no record to publish"
    InvalidParameter    "invalid-parameter"     400 Never   "A parameter is not what this call takes"
    InvalidProducer     "invalid-producer"      400 Never   "The producer's headers are incomplete or malformed"
    InvalidId           "invalid-id"            400 Never   "The object id is not one"
    InvalidGroup        "invalid-group"         400 Never   "The group's name is not one"
    InvalidSubscriber   "invalid-subscriber"    400 Never   "The subscriber's name is not one"
    InvalidToken        "invalid-token"         400 Never   "This subscriber has not sent such a resume token"
    InvalidLock         "invalid-lock"          400 Never   "The lock's name is not one"
    InvalidShard        "invalid-shard"         400 Never   "A shard is a number from 0 to 255"
    NotFound            "not-found"             404 Never   "There is nothing at this address"
    NamespaceNotFound   "namespace-not-found"   404 Never   "The namespace does not exist"
    GroupNotFound       "group-not-found"       404 Never   "The namespace has no such group"
    SubscriberNotFound  "subscriber-not-found"  404 Never   "The subscriber does not exist"
    LockNotHeld         "lock-not-held"         404 Never   "Nobody holds the lock"
    KeyNotFound         "key-not-found"         404 Never   "The key has no value"
    ObjectNotFound      "object-not-found"      404 Never   "No object has this id"
    ObjectLost          "object-lost"           404 Never   "The object was lost when the log was damaged"
    MethodNotAllowed    "method-not-allowed"    405 Never   "This address does not take this method"
    NotAcceptable       "not-acceptable"        406 Never   "None of the accepted media types can be answered"
    RequestTimeout      "request-timeout"       408 Unknown "The request did not arrive in time"
    ConfigConflict      "config-conflict"       409 Never   "The namespace exists with another configuration"
    ProducerGap         "producer-gap"          409 Never   "A batch of this producer is missing"
    ProducerFenced      "producer-fenced"       409 Never   "A later epoch of this producer has taken over"
    ProducerForgotten   "producer-forgotten"    409 Never   "The batch was stored, too long ago to say where"
    GroupConflict       "group-conflict"        409 Never   "The group's configuration does not allow this"
    TooManyRooms        "too-many-rooms"        409 Never   "The subscriber would have more rooms than it may have"
    LeaseLapsed         "lease-lapsed"          409 Never   "None of the tokens holds any more"
    LockHeld            "lock-held"             409 Safe    "Another holds the lock"
    LockLost            "lock-lost"             409 Never   "The token holds the lock no more"
    OffsetMismatch      "offset-mismatch"       412 Never   "The next offset is another than If-Match names"
    RecordTooLarge      "record-too-large"      413 Never   "A record is over its limit"
    BatchTooLarge       "batch-too-large"       413 Never   "The batch is over its limit"
    UnsupportedMedia    "unsupported-media"     415 Never   "The body's media type is not one that this call takes"
    OffsetPastHead      "offset-past-head"      416 Never   "The offset is past the namespace's head"
    TooBusy             "too-busy"              429 Safe    "More is waiting to be written than may wait"
    TooManyWorkers      "too-many-workers"      429 Safe    "The group has as many workers as it may have"
    TooManyWaiters      "too-many-waiters"      429 Safe    "As many wait for the lock as may"
    Internal            "internal"              500 Unknown "The broker failed"
    Damaged             "damaged"               500 Never   "The log is damaged at this place"
    NotCaughtUp         "not-caught-up"         503 Safe    "The store has not yet seen this offset"
    StoreRebuilding     "store-rebuilding"      503 Safe    "The store is being rebuilt"
    ShuttingDown        "shutting-down"         503 Safe    "The broker is shutting down"
    PartitionFailed     "partition-failed"      503 Safe    "A write has failed, the partition takes no more until a restart"
    WriteFailed         "write-failed"          503 Unknown "The write failed, it may or may not be in the log"
    StorageFull         "storage-full"          507 Safe    "There is no space left to write to"
    IdsExhausted        "ids-exhausted"         507 Never   "No namespace or object id is left"
}

/// What a problem's `type` begins with.
pub const PROBLEM_TYPE_PREFIX: &str = "urn:tlog:error:";

impl Code {
    /// The code of this name.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == text)
    }
}

/// An error as it is answered: `application/problem+json`, RFC 9457.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:tlog:error:` and the code: stable.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong this time.
    pub detail: String,
    /// Whether to send the request again.
    pub retry: Retry,
    /// The namespace's next offset, where that is what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_offset: Option<u64>,
    /// The line of NDJSON that was wrong, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Records that were stored before the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<u64>,
    /// How many tokens took effect, where that is what was wrong: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// The tokens that did not, as they hold no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lapsed: Option<Vec<String>>,
    /// Who holds the lock, where that is what was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Until when, if nothing more is heard of the owner: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

impl Problem {
    /// A problem of this code, with what was wrong this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("{PROBLEM_TYPE_PREFIX}{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            retry: code.retry(),
            next_offset: None,
            line: None,
            stored: None,
            done: None,
            lapsed: None,
            owner: None,
            expires: None,
        }
    }

    /// The code, where this version knows it.
    pub fn code(&self) -> Option<Code> {
        Code::parse(self.kind.strip_prefix(PROBLEM_TYPE_PREFIX)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart_by_their_names() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.as_str()), Some(*code));
            assert_eq!(Problem::new(*code, "x").code(), Some(*code));
        }
    }
}
