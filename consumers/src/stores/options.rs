//! How the stores' RocksDB is set up, and why.

use std::fs;
use std::path::Path;

use rocksdb::{DBCompressionType, Error, Options, WriteOptions};
use rustix::fs::{Mode, OFlags};
use tlog::table_options;

/// A memtable, bytes: large, so that what is flushed is long and level 0 is merged seldom.
const WRITE_BUFFER_BYTES: usize = 64 << 20;

/// Memtables: one that is filled, two that wait to be flushed. With them full, writers wait, so
/// memory is bounded by 192 MiB.
const WRITE_BUFFERS: i32 = 3;

/// Blocks, filters and indexes in memory, bytes, for all files together.
const BLOCK_CACHE_BYTES: usize = 128 << 20;

/// A block, bytes: point reads decompress one each, and a record is a few hundred bytes.
const BLOCK_BYTES: usize = 8 << 10;

/// Rows that a lookup walks over at most, once it has found its place in a block. Each such place has a key in
/// full: a hundredth more of file, a quarter less of a lookup in memory.
const RESTART_INTERVAL: i32 = 4;

/// Files that are kept open where nothing else is said.
pub const OPEN_TABLES: usize = 512;

/// What RocksDB leaves of its limit of open files to what is no table.
const OTHER_FILES: usize = 10;

/// A file of level 1 and below, bytes: there may be many, but not so many that they are not kept open.
const FILE_BYTES: u64 = 64 << 20;

/// Files in level 0 that are merged into level 1 at once. Each merge writes level 1 anew, so fewer of them
/// cost less of the processor; a lookup asks so many filters more.
const LEVEL_0_FILES: i32 = 8;

/// Level 1, bytes: about the memtables that are merged into it at once.
const LEVEL_1_BYTES: u64 = 512 << 20;

/// Flushes and compactions at a time: one of each, so that the log keeps a core.
const BACKGROUND_JOBS: i32 = 2;

/// What is flushed is soon merged, so it is not compressed; most of the rows lie deeper.
const COMPRESSION: [DBCompressionType; 7] = {
    let (none, lz4) = (DBCompressionType::None, DBCompressionType::Lz4);
    [none, none, lz4, lz4, lz4, lz4, lz4]
};

/// How much is written before the system is asked to begin with it, bytes: spreads what would
/// otherwise be one sync of a whole file, for which the log's own syncs would have to wait.
const BYTES_PER_SYNC: u64 = 1 << 20;

/// RocksDB's own log: this large, and so many.
const LOG_BYTES: usize = 4 << 20;
const LOG_FILES: usize = 2;

/// By how much the manifest's space grows, bytes. RocksDB's 4 MiB would be set aside, and given back, at
/// each start.
const MANIFEST_STEP_BYTES: usize = 64 << 10;

/// The options of the one column family; so many of its files are kept open.
pub(crate) fn options(open_tables: usize) -> Result<Options, Error> {
    // What was not flushed is not saved on the way out: a drop without a close is what a crash is,
    // and a close flushes where its error can be seen.
    // What a read lets go of last, memtables and files, is given back in the background: reads are done on threads that
    // serve connections.
    let unnamed = "avoid_flush_during_shutdown=true;avoid_unnecessary_blocking_io=true";
    let mut options = Options::default().get_options_from_string(unnamed)?;
    options.create_if_missing(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_target_file_size_base(FILE_BYTES);
    options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
    options.set_max_bytes_for_level_base(LEVEL_1_BYTES);
    options.set_compression_per_level(&COMPRESSION);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_max_open_files(i32::try_from(open_tables + OTHER_FILES).unwrap_or(i32::MAX));
    options.set_max_log_file_size(LOG_BYTES);
    options.set_keep_log_file_num(LOG_FILES);
    options.set_stats_dump_period_sec(0);
    options.set_manifest_preallocation_size(MANIFEST_STEP_BYTES);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    let mut table = table_options(BLOCK_CACHE_BYTES);
    table.set_block_size(BLOCK_BYTES);
    table.set_block_restart_interval(RESTART_INTERVAL);
    options.set_block_based_table_factory(&table);
    Ok(options)
}

/// Whether files in `dir` can be written past the page cache: not every file system can.
///
/// What is flushed and merged is then not copied into the page cache, where nobody may want it, at the cost of
/// what is: the log's newest segments.
pub(crate) fn writes_directly(dir: &Path) -> bool {
    let probe = dir.join("direct");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let opened = fs::create_dir_all(dir).is_ok() && rustix::fs::open(&probe, flags, Mode::RUSR | Mode::WUSR).is_ok();
    // Linux makes the file before it finds that it can't be opened so.
    let _ = fs::remove_file(&probe);
    opened
}

/// The options of every write: the log is the write-ahead log.
pub(crate) fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    options
}
