//! libFuzzer's entry to [`fuzz::events`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::events::run(data));
