//! Configuration files from the outside: what is fine, what is wrong and how it is said, that
//! what is printed is read back, and that nothing brings the reader down.

#![allow(clippy::unwrap_used, missing_docs)]

mod errors;
#[path = "../../src/config/examine.rs"]
mod examine;
mod examples;
mod files;
mod garbage;
mod meaning;
mod round_trip;

use sosplice_relay::config::{Problem, parse, print};

/// The lines that a text earns.
fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}
