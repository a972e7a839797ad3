#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("image"), |bytes: &[u8]| detrim_fuzz::call("image", bytes));
