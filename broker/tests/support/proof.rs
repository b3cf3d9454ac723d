//! Reads a whole namespace with `rebuild` and proves it, with no help from the broker's own code
//! but the frame decoder.

use std::collections::HashMap;

use futures::StreamExt;
use reqwest::Client;
use wire::{FrameDecoder, StreamItem, Trailer};

use super::Broker;

/// A record as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its object id, as printed.
    pub id: String,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: Vec<u8>,
    /// Whether it deletes its key.
    pub tombstone: bool,
    /// When it was appended, microseconds since the Unix epoch.
    pub time: i64,
}

/// A namespace that has been read whole: the record at index i has offset i.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Its records.
    pub records: Vec<Stored>,
    /// The chain as computed here, which is that of the trailer.
    pub chain: String,
    /// What the stream ended with.
    pub trailer: Trailer,
}

/// Rebuilds a namespace. Fails the test unless every CRC holds, offsets have no gap and no repeat,
/// append times never go back, ids count up by one per shard, shards are those of the content, the chain is right in every
/// frame, and the trailer says the same.
pub async fn rebuild(client: &Client, broker: &Broker, namespace: &str) -> Proven {
    let url = broker.url(&format!("/v1/namespaces/{namespace}/rebuild"));
    let response = client.get(url).send().await.unwrap().error_for_status().unwrap();
    let mut body = response.bytes_stream();
    let mut decoder = FrameDecoder::default();
    let mut prover = Prover::default();
    let mut trailer = None;
    while let Some(chunk) = body.next().await {
        decoder.push(&chunk.unwrap());
        while let Some(item) = decoder.next().unwrap() {
            assert!(trailer.is_none(), "something follows the trailer");
            match item {
                StreamItem::Frame(frame) => prover.frame(&frame),
                StreamItem::Trailer(end) => trailer = Some(end),
            }
        }
    }
    assert_eq!(decoder.pending(), 0, "the stream is cut off");
    prover.finish(trailer.expect("the stream ends with a trailer"))
}

#[derive(Default)]
struct Prover {
    records: Vec<Stored>,
    chain: [u8; 32],
    time: i64,
    counters: HashMap<u8, u32>,
    frames: u64,
}

impl Prover {
    fn frame(&mut self, frame: &wire::Frame) {
        assert_eq!(frame.base_offset(), self.records.len() as u64, "offsets have a gap or a repeat");
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.chain).update(&frame.bytes()[64..]);
        self.chain = *hasher.finalize().as_bytes();
        assert_eq!(frame.chain().0, self.chain, "the chain in frame {} is wrong", self.frames);
        self.frames += 1;
        assert!(frame.time_micros() >= self.time, "append times go back");
        self.time = frame.time_micros();
        for record in frame.records() {
            let content = record.key.map_or(record.value, str::as_bytes);
            let shard = blake3::hash(content).as_bytes()[0];
            assert_eq!(record.id.shard().0, shard, "the shard is not that of the content");
            assert_eq!(record.id.namespace(), frame.namespace());
            let counter = self.counters.entry(shard).or_default();
            *counter += 1;
            assert_eq!(record.id.counter(), *counter, "an object id's counter has a gap or a repeat");
            self.records.push(Stored {
                id: record.id.to_string(),
                key: record.key.map(str::to_owned),
                value: record.value.to_vec(),
                tombstone: record.kind == wire::Kind::Tombstone,
                time: frame.time_micros(),
            });
        }
    }

    fn finish(self, trailer: Trailer) -> Proven {
        assert_eq!(trailer.first_offset, 0);
        assert_eq!(trailer.next_offset, self.records.len() as u64);
        assert_eq!(trailer.frames, self.frames);
        assert_eq!(trailer.chain.0, self.chain);
        Proven { records: self.records, chain: trailer.chain.to_string(), trailer }
    }
}
