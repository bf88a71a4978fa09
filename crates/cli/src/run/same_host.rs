//! What a program gets whose same-host connections shall go through memory: a broker, the
//! settings, and no io_uring.

use super::seccomp;
use crate::local::start::{Place, Rendezvous};
use sosplice_local::settings::{
    AFTER_DEFAULT, BUSY_POLL_MAX, RING_BYTES_DEFAULT, Settings, VARIABLE, ring_bytes_are_sound,
};
use std::process::Command;
use std::time::Duration;

/// The names of [`Flags`], which go with no other way to run a program.
pub const FLAGS: [&str; 7] = [
    "busy_poll_us",
    "ring_kbytes",
    "ports",
    "loopback_only",
    "rendezvous",
    "pair_after",
    "allow_io_uring",
];

/// The flags of `sosplice run` without `--so-splice`.
#[derive(clap::Args)]
pub struct Flags {
    /// Let a wait for the other end look for so long before it sleeps: less latency for more CPU
    /// [default: 0]
    #[arg(long, value_name = "N", value_parser = busy_poll)]
    busy_poll_us: Option<Duration>,

    /// Memory each way of a connection: a power of two, 4 to 65536 [default: 64]
    #[arg(long, value_name = "N", value_parser = ring_bytes)]
    ring_kbytes: Option<usize>,

    /// Only connections with one of these ports at either end
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    ports: Vec<u16>,

    /// Only connections between loopback addresses
    #[arg(long)]
    loopback_only: bool,

    #[command(flatten)]
    rendezvous: Rendezvous,

    /// Socket calls on a connection before it looks for its other end [default: 4]
    #[arg(long, value_name = "N")]
    pair_after: Option<u32>,

    /// Let the program have io_uring, which by default it is told the kernel has not: its
    /// operations would pass the library by and read what is not data. Only for programs that
    /// use it for no sockets. Without this flag, and not as root, the program and what it
    /// starts run with no_new_privs: sudo and other set-user-ID programs gain nothing there
    #[arg(long)]
    allow_io_uring: bool,
}

fn busy_poll(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().map(Duration::from_micros);
    let sound = time.filter(|time| *time <= BUSY_POLL_MAX);
    sound.ok_or_else(|| "not a number of microseconds (0 to 1000000)".to_owned())
}

fn ring_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<u64>().ok().and_then(|kbytes| kbytes.checked_mul(1024));
    let sound = bytes.filter(|bytes| ring_bytes_are_sound(*bytes));
    sound.map(|bytes| bytes as usize).ok_or_else(|| "not a power of two, 4 to 65536".to_owned())
}

/// Everything but the library. The error is why the program must stay on plain TCP; the
/// command is as it was then.
pub fn prepare(flags: &Flags, command: &mut Command) -> Result<(), String> {
    command.env_remove(VARIABLE);
    let place = Place::of(&flags.rendezvous).map_err(|error| error.to_string())?;
    // By its number, which the program will have.
    place.ensure().map_err(|error| error.to_string())?;
    if !flags.allow_io_uring {
        seccomp::deny_io_uring()
            .map_err(|error| format!("cannot deny io_uring ({error}), see --allow-io-uring"))?;
    }
    let settings = Settings {
        dir: place.dir,
        busy_poll: flags.busy_poll_us.unwrap_or_default(),
        ring_bytes: flags.ring_kbytes.unwrap_or(RING_BYTES_DEFAULT),
        after: flags.pair_after.unwrap_or(AFTER_DEFAULT),
        ports: flags.ports.clone(),
        loopback_only: flags.loopback_only,
    };
    command.env(VARIABLE, settings.to_env());
    Ok(())
}
