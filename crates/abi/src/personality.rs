//! Which of the two systems is followed where they contradict each other.

use std::sync::atomic::{AtomicU8, Ordering};

/// The system whose rules hold, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Personality {
    OpenBsd,
    FreeBsd,
}

const UNREAD: u8 = 0;
const OPENBSD: u8 = 1;
const FREEBSD: u8 = 2;

static CHOSEN: AtomicU8 = AtomicU8::new(UNREAD);

impl Personality {
    /// `SOSPLICE_PERSONALITY`, read once: `freebsd`, and anything else is `openbsd`.
    pub fn current() -> Self {
        match CHOSEN.load(Ordering::Relaxed) {
            OPENBSD => Self::OpenBsd,
            FREEBSD => Self::FreeBsd,
            _ => {
                let freebsd = std::env::var_os("SOSPLICE_PERSONALITY")
                    .is_some_and(|name| name.eq_ignore_ascii_case("freebsd"));
                CHOSEN.store(if freebsd { FREEBSD } else { OPENBSD }, Ordering::Relaxed);
                if freebsd { Self::FreeBsd } else { Self::OpenBsd }
            }
        }
    }
}
