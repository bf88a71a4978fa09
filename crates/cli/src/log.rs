//! What is logged, how, and where: to stderr, one line an event.
//!
//! A thread of its own writes the lines: a stderr that nobody reads must not stop a worker.
//! Up to [`LINES_MAX`] lines wait for it; further ones are dropped and counted.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written.
const LINES_MAX: usize = 4096;

/// How long the end of the program waits for the last lines to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

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
    /// From here on events are logged, as long as the result lives.
    #[must_use]
    pub fn start(&self) -> Log {
        let level = match self.log_level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
        };
        Log::start(level, self.json)
    }
}

impl Log {
    /// From here on events are logged, as long as the result lives.
    #[must_use]
    pub fn start(level: tracing::Level, json: bool) -> Self {
        let (lines, log_end) = Lines::new();
        let log = tracing_subscriber::fmt()
            .with_max_level(level)
            // A stderr that nobody reads any more is no reason to stop: the layer would report
            // a failed write to stderr, and die of that.
            .log_internal_errors(false)
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(lines.clone());
        if json {
            log.json().flatten_event(true).init();
        } else {
            log.init();
        }
        Self { lines, end: log_end }
    }
}

/// The log's other end. Dropped, it waits for the last lines, but not for ever.
pub struct Log {
    lines: Lines,
    end: Receiver<()>,
}

impl Drop for Log {
    fn drop(&mut self) {
        // An empty line is the last one. A stderr that nobody reads is left behind.
        if self.lines.sender.try_send(Vec::new()).is_ok() {
            let _ = self.end.recv_timeout(FLUSH_TIME);
        }
    }
}

/// Takes each event as one write and hands it to the thread.
#[derive(Clone)]
struct Lines {
    sender: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    fn new() -> (Self, Receiver<()>) {
        let (sender, lines) = sync_channel::<Vec<u8>>(LINES_MAX);
        let (done, end) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        let write = move || {
            let mut stderr = io::stderr();
            for line in lines {
                if line.is_empty() {
                    break;
                }
                // A stderr that is closed loses its lines, and nothing else.
                let _ = stderr.write_all(&line);
                let lost = counted.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ =
                        writeln!(stderr, "sosplice: {lost} log lines dropped: nobody read them");
                }
            }
            let _ = done.send(());
        };
        // Without the thread nothing is logged; the relay itself says if there are none.
        let _ = std::thread::Builder::new().name("log".to_owned()).spawn(write);
        (Self { sender, dropped }, end)
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !line.is_empty() && self.sender.try_send(line.to_vec()).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> tracing_subscriber::fmt::MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}
