//! What the end-to-end tests share: the real binary as a process of its own, and clients that are
//! written against the HTTP interface alone.
//!
//! ```no_run
//! let folder = tempfile::tempdir()?;
//! let broker = Broker::start(folder.path());
//! let reply = client().get(broker.url("/healthz")).send().await?;
//! broker.kill();
//! ```
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part of this")]

pub mod folder;
pub mod http;
pub mod load;
pub mod losses;
pub mod mount;
pub mod proof;
pub mod sse;
pub mod stores;
pub mod strace;

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use http::client;
use rustix::process::{Pid, Signal, kill_process};

/// How long a start, a stop or a recovery may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `tlog serve`. Killed when dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Broker {
    /// Starts the binary on a data folder and a free port, and waits until it listens.
    pub fn start(data: &Path) -> Broker {
        Broker::start_with(data, &[])
    }

    /// The same with more arguments to `serve`.
    pub fn start_with(data: &Path, args: &[&str]) -> Broker {
        Broker::try_start(Broker::command(data, args)).expect("the broker says where it listens")
    }

    /// The command that starts the binary, to be run by [`Broker::try_start`], perhaps under another program.
    pub fn command(data: &Path, args: &[&str]) -> Command {
        Broker::command_at("127.0.0.1:0", data, args)
    }

    /// The same at an address, so that clients find the next one where the last one was.
    pub fn command_at(listen: &str, data: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlog"));
        command.arg("serve").arg("--data").arg(data).args(["--listen", listen]).args(args);
        // On every machine the same, and more than one.
        if !args.contains(&"--partitions") {
            command.args(["--partitions", "4"]);
        }
        command
    }

    /// Runs a command that is a broker; how it ended, where that was before it listened.
    pub fn try_start(mut command: Command) -> Result<Broker, Ended> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, address) = mpsc::channel();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if let Some(address) = listening_on(&line) {
                        let _ = found.send(address);
                    }
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        match address.recv_timeout(PATIENCE) {
            Ok(address) => Ok(Broker { child, address, log }),
            Err(RecvTimeoutError::Timeout) => {
                let _ = child.kill();
                panic!("it neither listens nor ends:\n{}", log.lock().unwrap())
            }
            // Its stderr is closed: it has ended.
            Err(RecvTimeoutError::Disconnected) => {
                let status = child.wait().unwrap();
                Err(Ended { status, log: log.lock().unwrap().clone() })
            }
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Memory that the process has resident, bytes.
    pub fn resident_bytes(&self) -> u64 {
        memory_bytes_of(&format!("/proc/{}/status", self.pid()), "VmRSS:")
    }

    /// Address space that the process has, bytes.
    pub fn address_space_bytes(&self) -> u64 {
        memory_bytes_of(&format!("/proc/{}/status", self.pid()), "VmSize:")
    }

    /// Ends it as a power cut would its process: no destructor, no drain.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(asked.elapsed() < PATIENCE, "the broker does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> Ended {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Ended { status, log: self.log() };
            }
            assert!(began.elapsed() < PATIENCE, "the broker does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A broker that is no more.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stderr.
    pub log: String,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the broker wrote ---\n{}", self.log());
        }
    }
}

/// Memory that a process has resident, bytes, from its status.
pub fn resident_bytes_of(status: &str) -> u64 {
    memory_bytes_of(status, "VmRSS:")
}

fn memory_bytes_of(status: &str, what: &str) -> u64 {
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).expect("the process runs");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn listening_on(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on http://")?;
    rest.split(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c))).next()?.parse().ok()
}

/// An address that no other test and no other process listens on. Unlike one with a free port, it is still
/// free when a broker comes back to it: connections leave from 127.0.0.1.
pub fn own_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., a, b] = std::process::id().to_be_bytes();
    format!("127.{}.{b}.{}:7256", a.max(1), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Says that a test was not made, also where the output of tests is captured.
pub fn skip(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// Waits until a condition holds, and fails the test where it does not in [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A small random number generator (SplitMix64), so that a failing run can be repeated from its seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// One that is seeded.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number from 0 up to, not including, `below`.
    pub fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}
