//! HTTP/1.1 with bodies in the kernel.

mod chunk;
mod framing;
mod glob;
mod head;
mod refusal;
mod rewrite;
mod rules;
mod scan;
mod target;

pub use glob::PATTERN_LEN_MAX;
pub use head::FIELDS_MAX;
pub use refusal::Refusal;
