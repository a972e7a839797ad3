#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("own"), |bytes: &[u8]| detrim_fuzz::call("own", bytes));
