//! The shards of many records at once.
//!
//! BLAKE3 of one short content keeps a single lane of the processor's vectors busy: its blocks depend on
//! each other. Contents do not, so here each lane hashes another one, and takes the next when it is done:
//! eight or sixteen in the time of two or three. What is longer than one of BLAKE3's chunks fills the lanes by
//! itself, and goes to the `blake3` crate.
//!
//! ```text
//!             lane 0      lane 1      lane 2 …
//! step 1      A block 0   B block 0   C block 0
//! step 2      A block 1   D block 0   C block 1        B had one block
//! step 3      E block 0   D block 1   C block 2        A had two
//! ```

use fearless_simd::prelude::*;
use fearless_simd::{Level, dispatch};

use crate::ids::Shard;

const BLOCK_BYTES: usize = 64;

/// One chunk of BLAKE3: longer contents are trees.
const CHUNK_BYTES: usize = 1024;

/// The most lanes that there are: 512 bits.
const MAX_LANES: usize = 16;

/// Fewer contents than this are hashed one by one, as most lanes would be empty.
const MIN_CONTENTS: usize = 4;

const CHUNK_START: u32 = 1;
/// The end of a chunk that is the whole content.
const CHUNK_END_AND_ROOT: u32 = 2 | 8;

const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];

/// Which word of the block goes where, in each round: each is a permutation of the one before.
const SCHEDULE: [[usize; 16]; 7] = schedule();

const fn schedule() -> [[usize; 16]; 7] {
    const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
    let mut rounds = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]; 7];
    let mut round = 1;
    while round < 7 {
        let mut word = 0;
        while word < 16 {
            rounds[round][word] = rounds[round - 1][PERMUTATION[word]];
            word += 1;
        }
        round += 1;
    }
    rounds
}

/// The shards of so many contents, in their order, into `shards`, whose room is used again.
pub(crate) fn shards_of(count: usize, contents: &mut dyn Iterator<Item = &[u8]>, shards: &mut Vec<Shard>) {
    shards.clear();
    if count < MIN_CONTENTS || cfg!(target_endian = "big") {
        shards.extend(contents.take(count).map(Shard::of_content));
        return;
    }
    shards.resize(count, Shard(0));
    dispatch!(Level::new(), simd => hash(simd, contents, shards));
}

/// What a lane is at.
#[derive(Clone, Copy)]
struct Lane<'a> {
    /// The content from the next block on.
    rest: &'a [u8],
    /// Whose shard it becomes; nothing in a lane that has run dry.
    shard: Option<usize>,
    /// Whether the next block is the content's first.
    begins: bool,
}

#[inline(always)]
fn hash<'a, S: Simd>(simd: S, contents: &mut dyn Iterator<Item = &'a [u8]>, shards: &mut [Shard]) {
    let lanes = S::u32s::LEN.min(MAX_LANES);
    let mut at = [Lane { rest: &[], shard: None, begins: true }; MAX_LANES];
    let mut next = 0..shards.len();
    let mut refill = |lane: &mut Lane<'a>, shards: &mut [Shard]| {
        loop {
            *lane = Lane { rest: contents.next().unwrap_or_default(), shard: next.next(), begins: true };
            match lane.shard {
                Some(shard) if lane.rest.len() > CHUNK_BYTES => shards[shard] = Shard::of_content(lane.rest),
                shard => return shard.is_some(),
            }
        }
    };
    let mut busy = 0;
    for lane in &mut at[..lanes] {
        busy += usize::from(refill(lane, shards));
    }
    let mut chain = IV.map(|word| S::u32s::splat(simd, word));
    while busy > 0 {
        let last = step(simd, &mut at[..lanes], &mut chain);
        for (lane, is_last) in last.iter().enumerate().take(lanes) {
            let Some(shard) = at[lane].shard.filter(|_| *is_last) else { continue };
            shards[shard] = Shard(chain[0][lane] as u8);
            busy -= usize::from(!refill(&mut at[lane], shards));
        }
    }
}

/// Takes one block of each lane, and says for which it was the last.
#[inline(always)]
fn step<S: Simd>(simd: S, at: &mut [Lane<'_>], chain: &mut [S::u32s; 8]) -> [bool; MAX_LANES] {
    let zero = S::u32s::splat(simd, 0);
    let (mut words, mut lengths, mut flags) = ([zero; 16], zero, zero);
    let mut last = [false; MAX_LANES];
    let mut padded = [0; BLOCK_BYTES];
    for (lane, Lane { rest, begins, .. }) in at.iter_mut().enumerate() {
        let length = rest.len().min(BLOCK_BYTES);
        let (block, behind) = rest.split_at(length);
        last[lane] = behind.is_empty();
        lengths[lane] = length as u32;
        flags[lane] = if *begins { CHUNK_START } else { 0 } | if last[lane] { CHUNK_END_AND_ROOT } else { 0 };
        let block = if length == BLOCK_BYTES {
            block
        } else {
            padded[..length].copy_from_slice(block);
            padded[length..].fill(0);
            &padded
        };
        // The block's words as rows: one a lane, several of them where a vector is shorter than a block.
        for (group, row) in block.chunks_exact(4 * S::u32s::LEN).enumerate() {
            words[group * S::u32s::LEN + lane] = S::u8s::from_slice(simd, row).bitcast();
        }
        (*rest, *begins) = (behind, false);
    }
    for group in words.chunks_exact_mut(S::u32s::LEN) {
        transpose::<S>(group);
    }
    let starts = (flags & CHUNK_START).simd_eq(CHUNK_START);
    for (word, iv) in chain.iter_mut().zip(IV) {
        *word = starts.select(S::u32s::splat(simd, iv), *word);
    }
    compress(simd, chain, &words, lengths, flags);
    last
}

/// Makes rows columns: as many as a vector has lanes, a power of two.
#[inline(always)]
fn transpose<S: Simd>(rows: &mut [S::u32s]) {
    let half = rows.len() / 2;
    for _ in 0..rows.len().ilog2() {
        let before = std::array::from_fn::<_, MAX_LANES, _>(|row| rows[row % rows.len()]);
        for pair in 0..half {
            rows[2 * pair] = before[pair].zip_low(before[pair + half]);
            rows[2 * pair + 1] = before[pair].zip_high(before[pair + half]);
        }
    }
}

/// BLAKE3's compression, of a block a lane.
#[inline(always)]
fn compress<S: Simd>(simd: S, chain: &mut [S::u32s; 8], words: &[S::u32s; 16], lengths: S::u32s, flags: S::u32s) {
    let iv = |word: usize| S::u32s::splat(simd, IV[word]);
    let zero = S::u32s::splat(simd, 0);
    let [a, b, c, d, e, f, g, h] = *chain;
    // Behind the IV: the chunk's number, which is that of the only one, then length and flags.
    let mut v = [a, b, c, d, e, f, g, h, iv(0), iv(1), iv(2), iv(3), zero, zero, lengths, flags];
    for round in SCHEDULE {
        let word = |at: usize| words[round[at]];
        mix::<S>(&mut v, [0, 4, 8, 12], word(0), word(1));
        mix::<S>(&mut v, [1, 5, 9, 13], word(2), word(3));
        mix::<S>(&mut v, [2, 6, 10, 14], word(4), word(5));
        mix::<S>(&mut v, [3, 7, 11, 15], word(6), word(7));
        mix::<S>(&mut v, [0, 5, 10, 15], word(8), word(9));
        mix::<S>(&mut v, [1, 6, 11, 12], word(10), word(11));
        mix::<S>(&mut v, [2, 7, 8, 13], word(12), word(13));
        mix::<S>(&mut v, [3, 4, 9, 14], word(14), word(15));
    }
    for (at, word) in chain.iter_mut().enumerate() {
        *word = v[at] ^ v[at + 8];
    }
}

#[inline(always)]
fn mix<S: Simd>(v: &mut [S::u32s; 16], [a, b, c, d]: [usize; 4], x: S::u32s, y: S::u32s) {
    v[a] = v[a] + v[b] + x;
    v[d] = rotate::<S, 16>(v[d] ^ v[a]);
    v[c] += v[d];
    v[b] = rotate::<S, 12>(v[b] ^ v[c]);
    v[a] = v[a] + v[b] + y;
    v[d] = rotate::<S, 8>(v[d] ^ v[a]);
    v[c] += v[d];
    v[b] = rotate::<S, 7>(v[b] ^ v[c]);
}

#[inline(always)]
fn rotate<S: Simd, const RIGHT: u32>(word: S::u32s) -> S::u32s {
    (word >> RIGHT) | (word << (32 - RIGHT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shards(contents: &[Vec<u8>]) -> Vec<Shard> {
        let mut shards = vec![Shard(7); 3];
        shards_of(contents.len(), &mut contents.iter().map(Vec::as_slice), &mut shards);
        shards
    }

    fn one_by_one(contents: &[Vec<u8>]) -> Vec<Shard> {
        contents.iter().map(|content| Shard(blake3::hash(content).as_bytes()[0])).collect()
    }

    #[test]
    fn every_length_around_a_block_and_a_chunk() {
        let contents: Vec<Vec<u8>> = (0..=2_200).map(|length| (0..length).map(|byte| byte as u8).collect()).collect();
        assert_eq!(shards(&contents), one_by_one(&contents));
        let backwards: Vec<Vec<u8>> = contents.into_iter().rev().collect();
        assert_eq!(shards(&backwards), one_by_one(&backwards));
    }

    #[test]
    fn every_count_around_the_lanes() {
        for count in 0..70 {
            let contents: Vec<Vec<u8>> = (0..count).map(|number| vec![number; 256]).collect();
            assert_eq!(shards(&contents), one_by_one(&contents), "{count}");
        }
    }

    #[test]
    fn every_width_of_vector_that_this_processor_has() {
        let contents: Vec<Vec<u8>> = (0..=1_100).map(|length| vec![length as u8; length]).collect();
        let level = Level::new();
        macro_rules! check {
            ($($width:ident),*) => {$(
                if let Some(simd) = level.$width() {
                    let mut shards = vec![Shard(0); contents.len()];
                    hash(simd, &mut contents.iter().map(Vec::as_slice), &mut shards);
                    assert_eq!(shards, one_by_one(&contents), stringify!($width));
                }
            )*};
        }
        #[cfg(target_arch = "x86_64")]
        check!(as_sse2, as_sse4_2, as_avx2, as_avx512);
        #[cfg(target_arch = "aarch64")]
        check!(as_neon);
    }

    proptest! {
        #[test]
        fn a_shard_is_that_of_the_content_alone(
            contents in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..300),
                    prop::collection::vec(any::<u8>(), 0..1_300),
                ],
                0..60,
            )
        ) {
            prop_assert_eq!(shards(&contents), one_by_one(&contents));
        }
    }
}
