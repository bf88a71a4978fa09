//! This crate's fuzz targets (`fuzz/`): each takes any bytes, and panics when something does not
//! hold that must. They are there with `--cfg fuzzing`, which `cargo fuzz` sets, and in tests,
//! which give them the same seeds, and changes of these.

use crate::settings::Settings;
use crate::wire::{Reply, Request};
use std::os::unix::ffi::OsStrExt;

/// Reads `bytes` as a packet, to the broker and from it: one record or none, in one form; and an
/// operator's question is the same when it is written and read again.
///
/// # Panics
/// When something does not hold that must.
pub fn ring_packet(bytes: &[u8]) {
    if let Some(request) = Request::decode(bytes) {
        assert_eq!(&request.encode()[..], bytes);
    }
    if let Some(reply) = Reply::decode(bytes) {
        assert_eq!(&reply.encode()[..], bytes);
    }
    #[cfg(feature = "broker")]
    if let Some(text) = bytes.strip_prefix(&crate::wire::CONTROL.to_le_bytes()) {
        use crate::broker::control::question;
        assert_eq!(Request::decode(bytes), None, "a question that is a member's request as well");
        if let Some(asked) = question(text) {
            let written = serde_json::to_vec(&asked).expect("JSON");
            assert_eq!(question(&written), Some(asked));
        }
    }
}

/// Reads `bytes` as the variable of `sosplice run`: what is read is written, and read as the same.
///
/// # Panics
/// When something does not hold that must.
pub fn ring_settings(bytes: &[u8]) {
    if let Ok(settings) = Settings::from_env(bytes) {
        let written = settings.to_env();
        assert_eq!(Settings::from_env(written.as_bytes()), Ok(settings));
    }
}

#[cfg(all(test, feature = "broker"))]
mod tests;
