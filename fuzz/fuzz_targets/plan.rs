#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("plan"), |bytes: &[u8]| detrim_fuzz::call("plan", bytes));
