//! The server that does nothing but write what is published to all who follow: a newline answers each.

use super::{Answer, Kind, Protocol, Request};
use crate::bare::{FOLLOW, PUBLISH};
use crate::failure::Failure;
use crate::record::Record;

/// What [`crate::bare`] speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bare;

impl Protocol for Bare {
    const NAME: &'static str = "bare";
    const FOLLOWED: &'static str = "\n";

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let mut bytes = Vec::new();
        for record in records {
            bytes.extend_from_slice(format!("{PUBLISH}{stream} {}\n", record.value).as_bytes());
        }
        Ok(Request { bytes, answers: records.len() as u32 })
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        Ok((!bytes.is_empty()).then_some(Answer { bytes: 1, kind: Kind::Done }))
    }

    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        Ok(format!("{FOLLOW}{stream}\n").into_bytes())
    }
}
