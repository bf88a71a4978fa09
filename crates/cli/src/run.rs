//! `sosplice run --so-splice -- CMD`: a program that expects the socket option SO_SPLICE,
//! with the library that has it preloaded.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: &str = "libsosplice.so";

/// Names the library where it is not beside this command.
const VARIABLE: &str = "SOSPLICE_LIBRARY";

/// Run a program with what it expects of the system
#[derive(clap::Args)]
pub struct Args {
    /// Give it the socket option SO_SPLICE (setsockopt and getsockopt)
    #[arg(long, required = true)]
    so_splice: bool,

    /// Whose rules hold where the two systems differ (else SOSPLICE_PERSONALITY, else openbsd)
    #[arg(long, value_enum)]
    personality: Option<Personality>,

    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum Personality {
    OpenBsd,
    FreeBsd,
}

/// Becomes the program; returns only if that fails.
pub fn run(args: Args) -> ExitCode {
    debug_assert!(args.so_splice);
    let library = match find() {
        Ok(library) => library,
        Err(message) => return fail(&message, 2),
    };
    let [program, rest @ ..] = &args.command[..] else { return ExitCode::from(2) };
    let mut command = Command::new(program);
    command.args(rest).env("LD_PRELOAD", preload(&library, std::env::var_os("LD_PRELOAD")));
    match args.personality {
        // As the environment says.
        None => {}
        Some(Personality::OpenBsd) => drop(command.env("SOSPLICE_PERSONALITY", "openbsd")),
        Some(Personality::FreeBsd) => drop(command.env("SOSPLICE_PERSONALITY", "freebsd")),
    }
    let error = command.exec();
    // As shells have it: 127 for a program that is not there, 126 for one that does not run.
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    fail(&format!("{}: {error}", program.display()), status)
}

fn fail(message: &str, status: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sosplice: {message}");
    ExitCode::from(status)
}

/// In front of what is preloaded already.
fn preload(library: &Path, before: Option<OsString>) -> OsString {
    let mut all = OsString::from(library);
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        all.push(":");
        all.push(before);
    }
    all
}

/// By the environment, beside this command, or in the `lib` next to its `bin`.
fn find() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        let named = PathBuf::from(named);
        return if named.is_file() {
            absolute(&named)
        } else {
            Err(format!("{VARIABLE}: {} is no file", named.display()))
        };
    }
    let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let places = [beside.join(LIBRARY), beside.join("../lib").join(LIBRARY)];
    places.iter().find(|place| place.is_file()).map_or_else(
        || {
            Err(format!(
                "{LIBRARY} is neither in {} nor in the lib beside it; name it with {VARIABLE}",
                beside.display()
            ))
        },
        |place| absolute(place),
    )
}

/// LD_PRELOAD splits at colons and spaces.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
    if path.to_string_lossy().contains([':', ' ']) {
        return Err(format!("{}: LD_PRELOAD cannot name a path like this", path.display()));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_preloaded_already_stays_behind_it() {
        let library = Path::new("/lib/x.so");
        assert_eq!(preload(library, None), "/lib/x.so");
        assert_eq!(preload(library, Some("".into())), "/lib/x.so");
        assert_eq!(preload(library, Some("/a.so b.so".into())), "/lib/x.so:/a.so b.so");
    }
}
