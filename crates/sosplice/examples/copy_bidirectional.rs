//! A TCP proxy on tokio, and the one line that keeps its payload in the kernel.
//!
//! ```text
//! cargo run --release -p sosplice --features tokio --example copy_bidirectional -- 127.0.0.1:8080 127.0.0.1:80
//! ```

use std::io;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(listen), Some(target)) = (args.next(), args.next()) else {
        eprintln!("usage: copy_bidirectional LISTEN TARGET");
        std::process::exit(2);
    };
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut client, peer) = listener.accept().await?;
        let target = target.clone();
        tokio::spawn(async move {
            match proxy(&mut client, &target).await {
                Ok((up, down)) => println!("{peer}: {up} bytes up, {down} down"),
                Err(error) => println!("{peer}: {error}"),
            }
        });
    }
}

async fn proxy(client: &mut TcpStream, target: &str) -> io::Result<(u64, u64)> {
    let mut upstream = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    // Was: tokio::io::copy_bidirectional(client, &mut upstream).await
    sosplice::tokio::copy_bidirectional(client, &mut upstream).await
}
