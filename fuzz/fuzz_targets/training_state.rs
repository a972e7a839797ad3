#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("training_state"), |bytes: &[u8]| detrim_fuzz::call("training_state", bytes));
