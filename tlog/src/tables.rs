//! How tables of rows are read: the same for the log's rows and for all that is derived from it.

use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Cache};

/// One in a hundred lookups of what a file does not hold reads it in vain.
const BLOOM_BITS_PER_KEY: f64 = 10.0;

/// A part of a filter or an index, bytes.
const PART_BYTES: usize = 16 << 10;

/// Tables whose blocks, filters and indexes take at most `cache_bytes` of memory, for all files together.
pub fn table_options(cache_bytes: usize) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(cache_bytes));
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Filters and indexes grow with the rows; in the cache they are bounded with the rest.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    // In parts: the filter of a file of many small rows is larger than a shard of the cache, which then
    // would never hold it, and each lookup would read all of it.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(PART_BYTES);
    table
}
