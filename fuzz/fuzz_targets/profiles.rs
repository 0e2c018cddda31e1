#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| headway::fuzzing::run("profiles", bytes));
