//! Fuzz targets: each takes bytes, gives them to what reads bytes from elsewhere, and holds the outcome
//! against an oracle of its own. A target fails by a panic.
//!
//! | module | what is given the bytes | what must hold |
//! |---|---|---|
//! | [`frame`] | frames, drafts, trailers and streams of them | cuts change nothing; what is taken makes sense |
//! | [`index`] | the index of a segment, its checksums right too | no more is read than the file has |
//! | [`publish`] | bodies of JSON and NDJSON | a batch holds what `serde_json` reads in the same text |
//! | [`sse`] | events made of any record | a parser of the standard reads back what went in |
//! | [`name`] | percent-encoded names, keys, queries; tokens | a second decoder says the same |
//! | [`events`] | events of groups, locks, rooms, subscribers | refused, or spelt in one way; a group's progress holds |
//! | [`ledger`] | rows of the ledger | refused, or spelt in one way |
//! | [`segment`] | a segment, scanned, indexed and judged | an index by hand and a search by hand say the same |
//! | [`recovery`] | a data folder whose files were edited | open or an error; what opens is readable and goes on |
//!
//! Much of it stands behind checksums. [`forge`] makes them right, so that the bytes behind them count.
//!
//! The fuzzers are in `fuzz_targets`, one for each target; `make fuzz TARGET=frame TIME=60` runs one.
//! What they found worth keeping is in `corpus`, and `tests/corpora.rs` runs all of it again, with edits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod events;
pub mod forge;
pub mod frame;
pub mod index;
pub mod ledger;
pub mod name;
pub mod publish;
pub mod recovery;
pub mod segment;
pub mod sse;

/// A target: what is run on any bytes.
pub type Target = fn(&[u8]);

/// All targets by their names.
pub const TARGETS: [(&str, Target); 9] = [
    ("events", events::run),
    ("frame", frame::run),
    ("index", index::run),
    ("ledger", ledger::run),
    ("name", name::run),
    ("publish", publish::run),
    ("recovery", recovery::run),
    ("segment", segment::run),
    ("sse", sse::run),
];
