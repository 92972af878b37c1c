#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uid_nri_plugin::fuzz::uid_map(data));
