#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::relay::transport_feedback(data));
