#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trunkline_fuzz::relay::layers_allocation(data));
