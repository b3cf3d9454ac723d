//! Every limit of the format and the interface. All are checked before anything is allocated on
//! the word of an input, and each is named in the error that it causes.

/// Longest namespace name, bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

/// Longest key, bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 1024;

/// Largest record, bytes: key, headers (names and values) and value together.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

/// Most headers a record may carry.
pub const MAX_HEADERS: usize = 64;

/// Largest set of headers, bytes: names and values together.
pub const MAX_HEADERS_BYTES: usize = 4 << 10;

/// Most records in a batch, which is one frame.
pub const MAX_BATCH_RECORDS: usize = 10_000;

/// Largest batch, bytes of encoded records.
pub const MAX_BATCH_BYTES: usize = 16 << 20;

/// Largest frame, bytes, its header included.
pub const MAX_FRAME_BYTES: usize = crate::frame::HEADER_BYTES + MAX_BATCH_BYTES;

/// Largest event of a namespace's consumers, bytes: the acks of one request, say.
pub const MAX_EVENT_BYTES: usize = 512 << 10;

/// Largest JSON body of one batch, bytes. JSON spells a batch longer than its records are: base64
/// by a third, escapes by more.
pub const MAX_JSON_BODY_BYTES: usize = 2 * MAX_BATCH_BYTES;

/// Longest line of NDJSON, bytes: a record in JSON, with room for base64 and escapes.
pub const MAX_LINE_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// How many namespace ids there are; 0 is the log's own.
pub const NAMESPACE_IDS: u32 = 1 << 24;

/// Most partitions of a data folder.
pub const MAX_PARTITIONS: u16 = 256;

/// How many shards there are, and so stores.
pub const SHARDS: usize = 256;

/// Longest `Producer-Id`, bytes.
pub const MAX_PRODUCER_ID_BYTES: usize = 255;

/// Most records in one page of a read or a range.
pub const MAX_PAGE_RECORDS: usize = 10_000;

/// Records in a page where the caller names no limit.
pub const DEFAULT_PAGE_RECORDS: usize = 1_000;

/// Where a page stops adding records, bytes of encoded records.
pub const MAX_PAGE_BYTES: usize = 4 << 20;

/// Most namespaces in one page of a listing.
pub const MAX_LIST_NAMESPACES: usize = 1_000;

/// Longest wait of a long poll or of a `min_offset` read, milliseconds.
pub const MAX_WAIT_MS: u64 = 60_000;

/// Most namespaces that one `/v1/events` connection follows.
pub const MAX_FOLLOWED_NAMESPACES: usize = 1_000;

/// Most keys that one `/events?key=` connection follows.
pub const MAX_FOLLOWED_KEYS: usize = 1_000;

/// Most rooms and namespaces that one call puts, joins or leaves.
pub const MAX_ROOMS_A_CALL: usize = 10_000;

/// Most rooms and namespaces that a subscriber has joined.
pub const MAX_SUBSCRIBER_ROOMS: usize = 100_000;

/// Most namespaces that a subscriber's rooms are of: each has a place in its resume tokens.
pub const MAX_SUBSCRIBER_NAMESPACES: usize = 1_000;

/// The largest integer that a JavaScript number holds exactly: offsets in parameters stop there.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Most records of a group that are read and not settled: waiting, leased, or held up behind others. While there are
/// so many no others go out, and the group says that it is full.
pub const MAX_GROUP_WINDOW: usize = 1 << 16;

/// Most records that a group has read and not taken in, as their key had its share of the window: their offsets. While
/// there are so many the group reads no further, and says that it is full.
pub const MAX_GROUP_DEFERRED: usize = 8 * MAX_GROUP_WINDOW;

/// Most workers that a group knows at one time.
pub const MAX_GROUP_WORKERS: usize = 1024;

/// Longest name of a worker, bytes of UTF-8.
pub const MAX_WORKER_BYTES: usize = 255;

/// Most records that one lease gives out.
pub const MAX_LEASED: usize = 10_000;

/// Most tokens that are acked, nacked or extended at once.
pub const MAX_TOKENS: usize = 10_000;

/// Longest lease, milliseconds: 12 hours.
pub const MAX_LEASE_MS: u64 = 12 * 60 * 60 * 1000;

/// Longest delay before a record is delivered again, milliseconds: a day.
pub const MAX_RETRY_MS: u64 = 24 * 60 * 60 * 1000;

/// Most deliveries of a record that a group can be configured to try.
pub const MAX_DELIVERIES: u32 = 1000;

/// Longest error that is kept with a dead letter, bytes.
pub const MAX_DEAD_ERROR_BYTES: usize = 1 << 10;

/// Largest event of a group, bytes: it is one control record.
pub const MAX_GROUP_EVENT_BYTES: usize = 512 << 10;

/// Largest row of a group's progress, bytes.
pub const MAX_GROUP_PROGRESS_BYTES: usize = 4 << 20;

/// Longest name of a lock's owner, bytes of UTF-8.
pub const MAX_OWNER_BYTES: usize = 255;

/// How long a lock is held where nothing is heard of its owner, and the caller names no time: milliseconds.
pub const DEFAULT_LOCK_TTL_MS: u32 = 30_000;

/// Longest such time, milliseconds: a day.
pub const MAX_LOCK_TTL_MS: u32 = 24 * 60 * 60 * 1000;

/// Most owners that wait for one lock.
pub const MAX_LOCK_WAITERS: usize = 10_000;
