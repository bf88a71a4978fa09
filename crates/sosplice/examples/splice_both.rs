//! One connection, both ways, in blocking code: accepts once, connects, and says what
//! each direction carried and why it ended.
//!
//! ```text
//! cargo run --release -p sosplice --example splice_both -- 127.0.0.1:8080 127.0.0.1:80
//! ```

use sosplice::{Limits, splice_both};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (args.next(), args.next()) else {
        eprintln!("usage: splice_both LISTEN TARGET");
        std::process::exit(2);
    };
    let (client, peer) = TcpListener::bind(listen)?.accept()?;
    let upstream = TcpStream::connect(target)?;
    let limits = Limits { idle: Some(Duration::from_secs(60)), ..Limits::default() };
    let ends = splice_both(&client, &upstream, limits)?;
    println!(
        "{peer} up:   {} bytes by {}, {}",
        ends.a_to_b.bytes,
        ends.a_to_b.carried.engine(),
        ends.a_to_b.cause
    );
    println!(
        "{peer} down: {} bytes by {}, {}",
        ends.b_to_a.bytes,
        ends.b_to_a.carried.engine(),
        ends.b_to_a.cause
    );
    Ok(())
}
