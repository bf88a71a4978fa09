//! Where the preload library is, and how a program gets it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

const LIBRARY: &str = "libsosplice.so";

/// Names the library where it is not beside this command.
const VARIABLE: &str = "SOSPLICE_LIBRARY";

/// In front of what is preloaded already.
pub fn preload(library: &Path, before: Option<OsString>) -> OsString {
    let mut all = OsString::from(library);
    if let Some(before) = before.filter(|before| !before.is_empty()) {
        all.push(":");
        all.push(before);
    }
    all
}

/// By the environment, beside this command, or in the `lib` next to its `bin`.
pub fn find() -> Result<PathBuf, String> {
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
