//! `sosplice generate`: man pages and completions, from the same table as the parser.

use crate::Command;
use clap::CommandFactory;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of `sosplice generate`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Completions for a shell, to stdout
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Man pages, one a command, into a directory
    Man {
        /// An existing directory
        dir: PathBuf,
    },
}

/// Runs `sosplice generate`.
pub fn run(args: Args) -> ExitCode {
    let mut command = Command::command();
    let done = match args.what {
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command, "sosplice", &mut script);
            std::io::stdout().write_all(&script).map_err(|error| ("stdout".into(), error))
        }
        What::Man { dir } => clap_mangen::generate_to(command, &dir)
            .map_err(|error| (dir.display().to_string(), error)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((place, error)) => {
            let _ = writeln!(std::io::stderr(), "sosplice: cannot write to {place}: {error}");
            ExitCode::FAILURE
        }
    }
}
