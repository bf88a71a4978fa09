#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sosplice_relay::examine::http_chunks(bytes));
