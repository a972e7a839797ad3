#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("pickle"), |bytes: &[u8]| detrim_fuzz::call("pickle", bytes));
