//! libFuzzer's entry to [`fuzz::ledger`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::ledger::run(data));
