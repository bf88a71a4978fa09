//! Which rendezvous directory, and that a broker runs for it.

use sosplice_local::broker::{ControlError, Scope, directory, expect};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long it may take until a new broker listens.
pub const START_WITHIN: Duration = Duration::from_secs(2);

/// How often somebody else's start is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What a new broker says when it listens; otherwise it says why it does not.
pub const READY: &str = "ready";

/// The flag that names a directory.
#[derive(clap::Args)]
pub struct Rendezvous {
    /// Where programs meet. A directory that is named makes all who can reach it one network:
    /// mount it into the containers of one network and no other. Without it only programs in one
    /// network namespace meet [default: /run/sosplice/local for root, else sosplice/local in
    /// XDG_RUNTIME_DIR, or /tmp/sosplice-UID/local without it]
    #[arg(long, value_name = "DIR")]
    pub rendezvous: Option<PathBuf>,
}

/// A rendezvous directory.
pub struct Place {
    /// Absolute.
    pub dir: PathBuf,
    /// Of a broker that is started for it.
    scope: Scope,
}

/// Why no broker runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--rendezvous: {0}")]
    Path(std::io::Error),
    #[error(transparent)]
    Directory(#[from] sosplice_local::broker::Error),
    #[error("{dir}: {error}", dir = .dir.display())]
    Control { dir: PathBuf, error: ControlError },
    #[error("no broker could be started: {0}")]
    Spawn(std::io::Error),
    #[error("no broker could be started: {0}")]
    Refused(String),
    #[error("{dir}: no broker listens after {} s", START_WITHIN.as_secs(), dir = .dir.display())]
    Late { dir: PathBuf },
}

impl Place {
    /// The one that was named, or the user's.
    pub fn of(flag: &Rendezvous) -> Result<Self, StartError> {
        let uid = rustix::process::geteuid().as_raw();
        let default = directory::default_for(uid, std::env::var_os("XDG_RUNTIME_DIR"));
        let dir = match &flag.rendezvous {
            Some(dir) => std::path::absolute(dir).map_err(StartError::Path)?,
            None => default.clone(),
        };
        let scope = if dir == default { Scope::Namespace } else { Scope::Network };
        Ok(Self { dir, scope })
    }

    /// Makes sure that a broker runs, and goes on to run as long as this process does: started
    /// if need be, and waited for within limits.
    pub fn ensure(&self) -> Result<(), StartError> {
        directory::prepare(&self.dir)?;
        let deadline = Instant::now() + START_WITHIN;
        let mut started = false;
        loop {
            match expect(&self.dir) {
                Ok(()) => return Ok(()),
                // One that is ending hangs up.
                Err(ControlError::NoBroker | ControlError::HungUp | ControlError::Silent(_)) => {}
                Err(error) => {
                    return Err(StartError::Control { dir: self.dir.clone(), error });
                }
            }
            if Instant::now() >= deadline {
                return Err(StartError::Late { dir: self.dir.clone() });
            }
            if started {
                std::thread::sleep(LOOK_AGAIN);
            }
            // Of several at once one gets the directory.
            self.start()?;
            started = true;
        }
    }

    /// The process started here starts another and ends, so that the broker is nobody's
    /// child: the program that this process becomes may wait for its own.
    fn start(&self) -> Result<(), StartError> {
        let own = std::env::current_exe().map_err(StartError::Spawn)?;
        let mut command = Command::new(own);
        command.args(["local", "broker", "--detach", "--rendezvous"]).arg(&self.dir);
        if self.scope == Scope::Network {
            command.arg("--one-network");
        }
        // The broker is no such program itself.
        command.env_remove("LD_PRELOAD").env_remove(sosplice_local::settings::VARIABLE);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(StartError::Spawn)?;
        let mut said = String::new();
        let read = child.stdout.take().map(|mut stdout| stdout.read_to_string(&mut said));
        child.wait().map_err(StartError::Spawn)?;
        read.transpose().map_err(StartError::Spawn)?;
        match said.trim() {
            READY => Ok(()),
            "" => Err(StartError::Late { dir: self.dir.clone() }),
            why => Err(StartError::Refused(why.to_owned())),
        }
    }
}
