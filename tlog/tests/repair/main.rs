//! Repair: what is damaged is marked, what is left is what it was, and nothing is given out twice.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crashes;
mod damage;
mod property;
mod site;
#[path = "../support/mod.rs"]
mod support;
