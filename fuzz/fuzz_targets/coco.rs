#![no_main]

libfuzzer_sys::fuzz_target!(init: detrim_fuzz::seed("coco"), |bytes: &[u8]| detrim_fuzz::call("coco", bytes));
