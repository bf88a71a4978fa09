//! `sosplice serve`: the relays of a configuration file.

use crate::log::Log;
use sosplice_relay::plan::{LogFormat, LogLevel, Plan};
use sosplice_relay::service::Source;
use sosplice_relay::{Error, Service, config};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `sosplice serve`.
#[derive(clap::Args)]
pub struct Args {
    /// The file; SIGHUP reads it again
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs `sosplice serve`.
pub fn run(args: Args) -> ExitCode {
    let plan = match config::load(&args.config) {
        Ok(plan) => plan,
        Err(error) => {
            // Nobody is left to tell if stderr is gone.
            let _ = writeln!(std::io::stderr(), "{error}");
            return ExitCode::FAILURE;
        }
    };
    let level = match plan.log.level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    let log = Log::start(level, plan.log.format == LogFormat::Json);
    let end = start(plan, &args.config).and_then(Service::run);
    // The log first, so that the error is the last word.
    drop(log);
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "sosplice: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(plan: Plan, file: &Path) -> Result<Service, Error> {
    let (workers, file) = (plan.workers, file.to_owned());
    let again: Source = Box::new(move || config::load(&file).map_err(|error| error.to_string()));
    let service = Service::start(plan, Some(again))?;
    for (relay, addr) in service.listeners() {
        tracing::info!(relay, %addr, workers, "listening");
    }
    if let Some(addr) = service.admin() {
        tracing::info!(%addr, "metrics and health");
    }
    Ok(service)
}
