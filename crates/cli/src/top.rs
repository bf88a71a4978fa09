//! `sosplice top`: a running service, again and again, in the terminal.
//!
//! What is seen is a pure function of the last two answers of the control socket ([`page`]). A
//! thread of its own asks, each time over a new connection, so that keys are heard while a
//! service is slow to answer, and one that was restarted is seen again.

mod page;
mod screen;

use crate::ctl::{Error, Place, ended};
use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use page::Sight;
use screen::Screen;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use sosplice_relay::control::Client;
use sosplice_relay::control::protocol::{Answer, Request};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant};

/// Arguments of `sosplice top`.
#[derive(clap::Args)]
#[command(after_help = "Keys: q quits.")]
pub struct Args {
    #[command(flatten)]
    place: Place,

    /// Between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// How soon a signal, or an answer, is noticed.
const NOTICE: Duration = Duration::from_millis(100);

/// Runs `sosplice top`.
pub fn run(args: &Args) -> ExitCode {
    ended(args.place.path().and_then(|path| watch(path, Duration::from_secs(args.interval))))
}

fn watch(path: PathBuf, interval: Duration) -> Result<(), Error> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::NoTerminal);
    }
    // What is wrong from the beginning is said where it stays.
    let mut last = look(&path)?;
    let mut before = None;
    let mut problem = None;
    let signalled = signals()?;
    let (wishes, wished) = sync_channel::<()>(1);
    let (sights, seen) = channel();
    std::thread::spawn(move || {
        for () in wished {
            if sights.send(look(&path)).is_err() {
                return;
            }
        }
    });
    let mut screen = Screen::open()?;
    let mut next = Instant::now() + interval;
    let mut changed = true;
    loop {
        if changed {
            let size = screen.size()?;
            screen.draw(&page::lines(before.as_ref(), &last, problem.as_deref(), size))?;
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
            // One that is still waited for will do.
            let _ = wishes.try_send(());
        }
        changed = match heard()? {
            Heard::Quit => return Ok(()),
            Heard::Resized => true,
            Heard::Nothing => false,
        };
        if signalled.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Some(sight) = take(&seen)? {
            changed = true;
            match sight {
                Ok(sight) => {
                    before = Some(std::mem::replace(&mut last, sight));
                    problem = None;
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
    }
}

fn take<T>(seen: &Receiver<T>) -> Result<Option<T>, Error> {
    match seen.try_recv() {
        Ok(sight) => Ok(Some(sight)),
        Err(TryRecvError::Empty) => Ok(None),
        Err(TryRecvError::Disconnected) => {
            Err(std::io::Error::other("the thread that asks has failed").into())
        }
    }
}

/// True from the first signal on that would end the process.
fn signals() -> Result<Arc<AtomicBool>, Error> {
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::clone(&signalled))?;
    }
    Ok(signalled)
}

enum Heard {
    Quit,
    Resized,
    Nothing,
}

/// What the terminal says within a moment.
fn heard() -> Result<Heard, Error> {
    if !crossterm::event::poll(NOTICE)? {
        return Ok(Heard::Nothing);
    }
    Ok(match crossterm::event::read()? {
        Event::Resize(..) => Heard::Resized,
        Event::Key(KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. }) => Heard::Quit,
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. })
            if modifiers.contains(KeyModifiers::CONTROL) =>
        {
            Heard::Quit
        }
        _ => Heard::Nothing,
    })
}

/// All that is shown.
fn look(path: &Path) -> Result<Sight, Error> {
    let mut client = Client::connect(path)?;
    let stats = client.ask(Request::Stats)?;
    let servers = client.ask(Request::Upstreams)?;
    let sessions = client.ask(Request::Sessions)?;
    match (stats, servers, sessions) {
        (Answer::Stats(stats), Answer::Servers(servers), Answer::Sessions(sessions)) => {
            Ok(Sight { stats: *stats, servers, sessions })
        }
        _ => Err(client.foreign("an answer to another question".to_owned()).into()),
    }
}
