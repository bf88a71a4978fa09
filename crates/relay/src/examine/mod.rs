//! The relay's fuzz targets (`fuzz/`): each takes any bytes, and panics when something does not
//! hold that must. They are there with `--cfg fuzzing`, which `cargo fuzz` sets, and in tests,
//! which give them the same seeds, and changes of these.

pub use crate::config::examine::file as config;
pub use crate::control::examine::line as control_line;
pub use crate::http::examine::{
    chunks as http_chunks, request as http_request, response as http_response,
};
pub use crate::proxy::examine::header as proxy_header;

#[cfg(test)]
mod tests;
