//! The bytes of the requests, made before the clock starts.

use std::fmt::Write;
use std::net::{SocketAddr, ToSocketAddrs};

use axum::http::Uri;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use wire::limits::MAX_BATCH_RECORDS;
use wire::{DraftBuilder, NewRecord};

use super::{BenchArgs, BenchError, Format};

/// Bytes of bodies to make: enough for values to differ, so that they fall into all shards.
const BODIES_BYTES: usize = 8 << 20;

/// Most bodies to make.
const MAX_BODIES: usize = 4096;

/// A pool of requests that differ in namespace and content.
#[derive(Debug)]
pub(super) struct Requests {
    heads: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
}

/// A broker's address, and what to call it in a `Host` header.
pub(in crate::cli) fn resolve(url: &str) -> Result<(SocketAddr, String), BenchError> {
    let fail = |reason: String| BenchError::Url { url: url.to_owned(), reason };
    let uri: Uri = url.parse().map_err(|error| fail(format!("{error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(fail("it must begin with http://".to_owned()));
    }
    let authority = uri.authority().ok_or_else(|| fail("it has no host".to_owned()))?;
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let mut addresses = (host, port).to_socket_addrs().map_err(|error| fail(error.to_string()))?;
    let address = addresses.next().ok_or_else(|| fail("its host has no address".to_owned()))?;
    Ok((address, authority.to_string()))
}

impl Requests {
    /// Makes the requests that the arguments ask for.
    pub(super) fn new(args: &BenchArgs, format: Format, host: &str) -> Result<Requests, BenchError> {
        let batch = args.batch as usize;
        if format == Format::Raw && (batch != 1 || args.keys != 0) {
            return Err(BenchError::Arguments("raw has one record and no key: use --format frames or json".to_owned()));
        }
        if batch > MAX_BATCH_RECORDS {
            return Err(BenchError::Arguments(format!("--batch is {batch}, the limit is {MAX_BATCH_RECORDS}")));
        }
        let count = (BODIES_BYTES / (batch * (args.record_bytes + 64))).clamp(1, MAX_BODIES);
        let mut records = Records { bytes: args.record_bytes, keys: args.keys, made: 0 };
        let bodies = (0..count).map(|_| records.body(format, batch)).collect::<Result<Vec<_>, _>>()?;
        let media_type = match format {
            Format::Raw => "application/octet-stream",
            Format::Json => "application/json",
            Format::Frames => wire::FRAMES_MEDIA_TYPE,
        };
        // All bodies of a load have one length, so that any of them goes with any head.
        let length = bodies.first().map_or(0, Vec::len);
        let head = |index| {
            let path = args.target_path.clone().unwrap_or_else(|| {
                let name = format!("{}-{index}", args.prefix);
                format!("/v1/namespaces/{}/records", utf8_percent_encode(&name, NON_ALPHANUMERIC))
            });
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
            );
            head.into_bytes()
        };
        Ok(Requests { heads: (0..args.namespaces).map(head).collect(), bodies })
    }

    /// Head and body of the `index`th request.
    pub(super) fn get(&self, index: usize) -> (&[u8], &[u8]) {
        (&self.heads[index % self.heads.len()], &self.bodies[index % self.bodies.len()])
    }
}

/// Makes records of one size that differ in content.
struct Records {
    bytes: usize,
    keys: u32,
    made: u64,
}

impl Records {
    fn body(&mut self, format: Format, batch: usize) -> Result<Vec<u8>, BenchError> {
        match format {
            Format::Raw => Ok(self.next().1.into_bytes()),
            Format::Frames => self.frame(batch),
            Format::Json => Ok(self.json(batch).into_bytes()),
        }
    }

    fn frame(&mut self, batch: usize) -> Result<Vec<u8>, BenchError> {
        let to_error = |error: wire::DraftError| BenchError::Arguments(error.to_string());
        let mut builder = DraftBuilder::with_capacity(batch * (self.bytes + 64));
        for _ in 0..batch {
            let (key, value) = self.next();
            let record = NewRecord::bytes(value.as_bytes());
            builder.push(&key.as_deref().map_or(record, |key| record.with_key(key))).map_err(to_error)?;
        }
        Ok(builder.finish().map_err(to_error)?.encode())
    }

    fn json(&mut self, batch: usize) -> String {
        let mut text = String::with_capacity(batch * (self.bytes + 64));
        for index in 0..batch {
            let (key, value) = self.next();
            text.push(if index == 0 { '[' } else { ',' });
            match key {
                Some(key) => _ = write!(text, r#"{{"key":"{key}","value":"{value}"}}"#),
                None => _ = write!(text, r#"{{"value":"{value}"}}"#),
            }
        }
        text.push(']');
        text
    }

    /// A key, where there are to be keys, and a value of hex digits, other ones each time.
    fn next(&mut self) -> (Option<String>, String) {
        self.made += 1;
        let random = scramble(self.made);
        let key = (self.keys > 0).then(|| format!("k-{:010}", random % u64::from(self.keys)));
        let mut value = String::with_capacity(self.bytes + 16);
        let mut word = random;
        while value.len() < self.bytes {
            _ = write!(value, "{word:016x}");
            word = scramble(word);
        }
        value.truncate(self.bytes);
        (key, value)
    }
}

/// The next number of SplitMix64: what a load needs of chance, and the same in each run.
fn scramble(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
