//! What the disk can do: `fdatasync` after each write into a file that is already there, all zeros, so
//! that no metadata has to be journaled. No log that keeps its word can be faster than this.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Bytes of the file.
const FILE_BYTES: u64 = 256 << 20;

/// Longest time for one size.
const TIME: Duration = Duration::from_secs(3);

/// The disk's limits, one a size of write.
#[derive(Debug, Serialize)]
pub(super) struct Limits {
    fdatasync: Vec<Sync>,
}

#[derive(Debug, Serialize)]
struct Sync {
    bytes: usize,
    count: usize,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
    megabytes_per_second: f64,
}

impl Limits {
    /// Measures in a file in `dir`, which is removed again. Takes some seconds.
    pub(super) fn measure(dir: &Path) -> io::Result<Limits> {
        let path = dir.join(format!(".tlog-bench-{}", std::process::id()));
        let limits = in_file(&path);
        std::fs::remove_file(&path)?;
        limits
    }

    pub(super) fn text(&self) -> String {
        let line = |sync: &Sync| {
            let Sync { bytes, per_second, p50_ms, p99_ms, megabytes_per_second, .. } = sync;
            format!(
                "fdatasync of {bytes:>7} B: {per_second:>6.0}/s, p50 {p50_ms:.3} ms, p99 {p99_ms:.3} ms, {megabytes_per_second:.0} MB/s\n"
            )
        };
        self.fdatasync.iter().map(line).collect()
    }
}

fn in_file(path: &Path) -> io::Result<Limits> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    let fdatasync = [4 << 10, 64 << 10, 8 << 20].into_iter().map(|bytes| Sync::measure(&file, bytes));
    Ok(Limits { fdatasync: fdatasync.collect::<Result<_, _>>()? })
}

impl Sync {
    fn measure(file: &File, bytes: usize) -> io::Result<Sync> {
        let data: Vec<u8> = (0..bytes).map(|i| (i * 7 + 1) as u8).collect();
        let mut times = Vec::new();
        let began = Instant::now();
        for at in (0..FILE_BYTES).step_by(bytes) {
            if began.elapsed() > TIME {
                break;
            }
            let before = Instant::now();
            file.write_all_at(&data, at)?;
            file.sync_data()?;
            times.push(before.elapsed());
        }
        let seconds = began.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Ok(Sync {
            bytes,
            count: times.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            per_second: times.len() as f64 / seconds,
            megabytes_per_second: (times.len() * bytes) as f64 / seconds / 1e6,
        })
    }
}
