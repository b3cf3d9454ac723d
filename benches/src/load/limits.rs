//! What memory and loopback can do: no server that copies records, or sends them, can be faster.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::failure::Failure;
use crate::report;

/// Bytes that are copied at once: more than the processor's caches hold.
const COPY_BYTES: usize = 64 << 20;

/// Bytes that are sent at once: they stay in its caches.
const SEND_BYTES: usize = 64 << 10;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct LimitsArgs {
    /// Seconds for each
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of a record
    #[arg(long, default_value_t = 256)]
    record_bytes: usize,
}

#[derive(Debug, Serialize)]
struct Limits {
    memcpy_bytes_per_second: f64,
    loopback_bytes_per_second: f64,
    /// Of records that are sent over loopback with nothing between them.
    loopback_records_per_second: f64,
}

/// Measures.
pub(crate) fn run(args: &LimitsArgs) -> Result<(), Failure> {
    let time = Duration::from_secs_f64(args.seconds);
    let loopback = loopback(time)?;
    report::print(&Limits {
        memcpy_bytes_per_second: memcpy(time),
        loopback_bytes_per_second: loopback,
        loopback_records_per_second: loopback / args.record_bytes as f64,
    })
}

/// From memory to memory.
fn memcpy(time: Duration) -> f64 {
    let from = vec![1_u8; COPY_BYTES];
    let mut to = vec![0_u8; COPY_BYTES];
    let (began, mut bytes) = (Instant::now(), 0_u64);
    while began.elapsed() < time {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
        bytes += from.len() as u64;
    }
    bytes as f64 / began.elapsed().as_secs_f64()
}

/// One connection, a thread at each end.
fn loopback(time: Duration) -> Result<f64, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut out = TcpStream::connect(listener.local_addr()?)?;
    let (mut incoming, _) = listener.accept()?;
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> Result<f64, Failure> {
            let (mut block, mut bytes, began) = (vec![0; SEND_BYTES], 0_u64, Instant::now());
            loop {
                match incoming.read(&mut block)? {
                    0 => return Ok(bytes as f64 / began.elapsed().as_secs_f64()),
                    read => bytes += read as u64,
                }
            }
        });
        let (block, began) = (vec![1; SEND_BYTES], Instant::now());
        while began.elapsed() < time {
            out.write_all(&block)?;
        }
        drop(out);
        reader.join().map_err(|_| Failure::Thread)?
    })
}
