#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("config"), |bytes: &[u8]| detrim_fuzz::call("config", bytes));
