//! `sosplice relay`.
use sosplice_relay::{Balance, Config, Relay, Target};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Arguments of `sosplice relay`.
#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on
    listen: SocketAddr,
    /// Where to go
    targets: Vec<Target>,
    /// engine
    #[arg(long, default_value = "auto")]
    engine: String,
    #[arg(long)]
    workers: Option<usize>,
    #[arg(long, default_value = "info")]
    log_level: tracing::Level,
    #[arg(long)]
    json: bool,
}

/// Runs `sosplice relay`.
pub fn run(args: Args) -> ExitCode {
    let sub = tracing_subscriber::fmt().with_max_level(args.log_level).with_writer(std::io::stderr);
    if args.json {
        sub.json().init();
    } else {
        sub.init();
    }
    let engine = match args.engine.as_str() {
        "pipe" => sosplice::EngineChoice::Pipe,
        "copy" => sosplice::EngineChoice::Copy,
        _ => sosplice::EngineChoice::Auto,
    };
    let config = Config {
        listen: args.listen,
        targets: args.targets,
        balance: Balance::RoundRobin,
        limits: sosplice::Limits { engine, ..Default::default() },
        connect_timeout: std::time::Duration::from_secs(5),
        workers: args.workers.unwrap_or(2),
    };
    match Relay::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("sosplice: {e}");
            ExitCode::from(1)
        }
    }
}
