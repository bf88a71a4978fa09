//! What can be asked for.

use super::content::BYTES_MAX;
use crate::pages::{Refusal, decimal};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The page that explains this connection.
    Page,
    /// So many bytes.
    Bytes(u64),
}

/// What there is at a path.
///
/// # Errors
/// The answer where there is nothing.
pub(super) fn find(path: &str) -> Result<Target, Refusal> {
    if path.is_empty() || path == "/" {
        return Ok(Target::Page);
    }
    let Some(count) = path.strip_prefix("/bytes/") else {
        let reason = "there is / and /bytes/N here, and nothing else";
        return Err(Refusal::keep("404 Not Found", reason));
    };
    match decimal(count.as_bytes()) {
        Some(count) if count <= BYTES_MAX => Ok(Target::Bytes(count)),
        _ => Err(Refusal::keep(
            "400 Bad Request",
            format!("the N of /bytes/N is a whole number of bytes from 0 to {BYTES_MAX} (1 TiB)"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_targets_and_their_limits() {
        assert_eq!(find("/bytes/0"), Ok(Target::Bytes(0)));
        assert_eq!(find("/bytes/1099511627776"), Ok(Target::Bytes(BYTES_MAX)));
        assert_eq!(find("/"), Ok(Target::Page));
        assert_eq!(find(""), Ok(Target::Page), "of an absolute form without a path");
        for path in [
            "/bytes/1099511627777",
            "/bytes/99999999999999999999999",
            "/bytes/",
            "/bytes/+1",
            "/bytes/-1",
            "/bytes/1k",
        ] {
            assert_eq!(find(path).expect_err(path).status, "400 Bad Request");
        }
        assert_eq!(find("/other").expect_err("404").status, "404 Not Found");
        assert_eq!(find("*").expect_err("404").status, "404 Not Found");
    }
}
