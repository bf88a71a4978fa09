//! What is logged, how, and where: to stderr, one line an event.

use std::io::IsTerminal;

/// Logging flags, the same for every command that serves.
#[derive(clap::Args)]
pub struct Flags {
    /// What to log: info has a line for each connection
    #[arg(long, value_enum, default_value_t)]
    log_level: Level,

    /// Log JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

impl Flags {
    /// From here on events are logged.
    pub fn start(&self) {
        let level = match self.log_level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
        };
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            // A stderr that nobody reads any more is no reason to stop: the layer would report
            // a failed write to stderr, and die of that.
            .log_internal_errors(false)
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        if self.json {
            log.json().flatten_event(true).init();
        } else {
            log.init();
        }
    }
}
