#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("safetensors"), |bytes: &[u8]| detrim_fuzz::call("safetensors", bytes));
