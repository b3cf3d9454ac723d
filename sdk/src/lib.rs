//! The Rust client of TLog.
//!
//! ```no_run
//! # async fn run() -> Result<(), sdk::Error> {
//! use futures::StreamExt;
//! use sdk::{Client, Event, NewRecord, StartAt};
//!
//! let orders = Client::new("http://127.0.0.1:7256")?.namespace("orders")?;
//! orders.publish(&NewRecord::json(r#"{"total":12.50}"#).with_key("o-17")).await?;
//!
//! let proof = orders.rebuild().finish().await?;
//! println!("{} records, chain {}", proof.records, proof.chain);
//!
//! let mut events = orders.subscribe().from(StartAt::Start).open().await?;
//! while let Some(event) = events.next().await {
//!     match event? {
//!         Event::Record(record) => println!("{} {:?}", record.offset, record.text()),
//!         Event::Reset(reset) => println!("lost: {}", reset.lost),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | to | |
//! |---|---|
//! | publish one record or batch | [`Namespace::publish`], [`Namespace::publish_batch`], [`Namespace::append`] |
//! | publish many, each stored once | [`Publisher`] |
//! | follow | [`Subscription`] |
//! | follow rooms, and miss nothing while away | [`Subscriber`] |
//! | read pages | [`Namespace::read`] |
//! | hold all of it, with proof | [`Rebuild`], [`Verifier`] |
//! | read by key | [`Namespace::latest`], [`Namespace::range`] |
//! | read by object id | [`Client::object`], [`Client::previous`] |
//! | share records out among workers | [`Group`], [`Worker`] |
//! | hold what only one may hold | [`Lock`], [`HeldLock`] |
//! | see the stores, rebuild one | [`Client::stores`], [`Client::rebuild_store`] |
//!
//! The log has no silent gaps. Where a disk has lost records, and the log was repaired without them,
//! a subscription gives an [`Event::Reset`], a page names them in [`Page::lost`], and a rebuild ends with
//! [`Error::Lost`], unless it was told that it may go on ([`Rebuild::with_losses`]).
//!
//! Every [`Error`] answers whether a retry is safe: [`Error::retry`].

mod backoff;
mod client;
mod error;
mod event;
mod following;
mod group;
mod http;
mod keys;
mod lease;
mod lock;
mod losses;
mod namespace;
mod pages;
mod publish;
mod publisher;
mod read;
mod rebuild;
mod record;
mod sse;
mod stores;
mod subscribe;
mod subscriber;
mod text;
mod verify;
mod worker;

pub use backoff::Backoff;
pub use client::{Client, ClientBuilder};
pub use error::Error;
pub use event::Event;
pub use group::{Group, GroupInfo, GroupLag, GroupState, Seek, WorkerState};
pub use keys::Range;
pub use lease::{Leased, Settled};
pub use lock::{Acquire, HeldLock, Lock, LockState};
pub use losses::{Losses, MAX_LOST_RANGES};
pub use namespace::{Ensured, Namespace, NamespaceInfo};
pub use publish::{Append, Published, Sequenced};
pub use publisher::{Ack, Progress, Publisher, PublisherBuilder, Receipt};
pub use read::Page;
pub use rebuild::Rebuild;
pub use record::{Record, records};
pub use stores::StoreInfo;
pub use subscribe::{StartAt, Subscribe, Subscription};
pub use subscriber::{Delivered, Deliveries, Subscriber, SubscriberCursor, SubscriberState};
pub use verify::{Proof, Verified, Verifier, VerifyError};

pub use worker::{Worked, Worker, WorkerBuilder};

pub use wire::group::{GroupConfig, Order, Retry as RetryWait, Start};
pub use wire::json::{Lost, Reset};
pub use wire::{
    Chain, Code, Draft, DraftBuilder, Frame, Kind, NamespaceConfig, NamespaceName, NewRecord, ObjectId, Offset,
    Problem, Retry, RoomName, Rooms, Shard, SubscriberName,
};
