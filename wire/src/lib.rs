//! What the log, the broker and the clients share: how a record and a frame are laid out in bytes,
//! what an id and a chain are, what the limits are, and which errors exist. No I/O, no clock.
//!
//! | module | what it knows |
//! |---|---|
//! | [`limits`] | every limit, in one place |
//! | [`name`] | what may be a name, a key, a header |
//! | [`ids`] | namespace id, shard, object id |
//! | [`namespace`], [`group`] | what a namespace and a consumer group can be configured to do |
//! | [`record`] | a record's bytes inside a frame |
//! | `shards` | the shards of many records at once |
//! | [`frame`] | a frame's bytes: header, CRC, records |
//! | [`loss`] | a frame that stands where frames were lost |
//! | [`draft`] | a frame before the sequencer has given it its place |
//! | [`chain`] | the running hash that proves a namespace's content |
//! | [`producer`] | what makes a retry safe |
//! | [`stream`] | frames one after another, closed by a trailer: a rebuild |
//! | [`subscriber`] | the rooms that a subscriber follows |
//! | [`json`] | a record as JSON text |
//! | [`code`] | stable error codes, their HTTP status, and whether a retry is safe |

pub mod chain;
pub mod code;
pub mod draft;
pub mod frame;
pub mod group;
pub mod ids;
pub mod json;
mod le;
pub mod limits;
pub mod loss;
pub mod name;
pub mod namespace;
pub mod producer;
pub mod record;
mod shards;
pub mod stream;
pub mod subscriber;

pub use chain::Chain;
pub use code::{Code, Problem, Retry};
pub use draft::{Draft, DraftBuilder, DraftError, Place};
pub use frame::{Frame, FrameError};
pub use group::GroupConfig;
pub use ids::{Generation, NamespaceId, ObjectId, Offset, Position, Shard};
pub use loss::Loss;
pub use name::{GroupName, LockName, NameError, NamespaceName, SubscriberName};
pub use namespace::NamespaceConfig;
pub use producer::{Producer, ProducerId};
pub use record::{Headers, Kind, NewRecord, Record};
pub use stream::{FrameDecoder, StreamItem, Trailer};
pub use subscriber::{RoomName, Rooms};

/// Media type of a body that is frames: a publish, a read, a rebuild.
pub const FRAMES_MEDIA_TYPE: &str = "application/vnd.tlog.frames";
