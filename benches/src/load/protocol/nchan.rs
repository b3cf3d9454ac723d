//! nginx with nchan: channels in memory, followed by Server-Sent Events.

use super::{Answer, Protocol, Request, http};
use crate::failure::Failure;
use crate::record::Record;

/// The calls that the configuration of `peers/nchan.py` gives names to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nchan;

impl Protocol for Nchan {
    const NAME: &'static str = "nchan";

    fn publish(&self, _: usize, stream: &str, records: &[Record]) -> Result<Request, Failure> {
        let [record] = records else { return Err(Failure::Arguments("nchan has no batches".to_owned())) };
        let headers = "content-type: text/plain\r\n";
        Ok(http::request("POST", &format!("/publish/{stream}"), headers, record.value.as_bytes()))
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<Answer>, Failure> {
        http::answer(bytes)
    }

    fn follow(&self, stream: &str) -> Result<Vec<u8>, Failure> {
        Ok(http::request("GET", &format!("/follow/{stream}"), "accept: text/event-stream\r\n", b"").bytes)
    }
}
