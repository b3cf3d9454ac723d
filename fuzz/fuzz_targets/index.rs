//! libFuzzer's entry to [`fuzz::index`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::index::run(data));
