//! The targets on their seeds and on changes of these, and the seeds on the tables.

use super::*;

#[path = "../../../../fuzz/replay.rs"]
mod replay;

use replay::{replay, seeds_are};

#[test]
fn seeds_are_those_of_the_tables() {
    seeds_are("http_request", &crate::http::examine::seeds::requests());
    seeds_are("http_response", &crate::http::examine::seeds::responses());
    seeds_are("http_chunks", &crate::http::examine::seeds::chunks());
    seeds_are("proxy_header", &crate::proxy::tests::seeds());
    seeds_are("control_line", &crate::control::examine::seeds());
}

#[test]
fn requests_near_the_seeds() {
    replay("http_request", http_request);
}

#[test]
fn responses_near_the_seeds() {
    replay("http_response", http_response);
}

#[test]
fn chunks_near_the_seeds() {
    replay("http_chunks", http_chunks);
}

#[test]
fn proxy_headers_near_the_seeds() {
    replay("proxy_header", proxy_header);
}

#[test]
fn configurations_near_the_examples() {
    replay("config", config);
}

#[test]
fn control_lines_near_the_seeds() {
    replay("control_line", control_line);
}
