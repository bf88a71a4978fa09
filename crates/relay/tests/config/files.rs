//! Files that are none, or no text, or too much of it.

use sosplice_relay::config::load;
use std::path::PathBuf;

/// A file of the test's own, which goes with it.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("sosplice-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    /// The one line that it earns, without its name.
    #[track_caller]
    fn error(&self) -> String {
        let error = load(&self.0).unwrap_err().to_string();
        let name = self.0.display().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error.strip_prefix(&name).unwrap().to_owned()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load("/nowhere/at-all.toml".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/at-all.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn a_directory_is_no_file() {
    let error = load(&std::env::temp_dir()).unwrap_err().to_string();
    assert!(error.contains(": cannot be read: Is a directory"), "{error}");
}

#[test]
fn an_empty_file_has_nothing_to_do() {
    let missing = "relay: missing: there is nothing to do without a [[relay]]";
    assert_eq!(Temporary::new("empty", b"").error(), format!(":1:1: {missing}"));
    assert_eq!(Temporary::new("blank", b"\n\n  \n").error(), format!(":1:1: {missing}"));
    assert_eq!(Temporary::new("comment", b"# later\n").error(), format!(":1:1: {missing}"));
}

#[test]
fn what_is_not_utf8_is_shown_where_it_begins() {
    let file = Temporary::new("latin1", b"workers = 2\n# caf\xe9\n");
    assert_eq!(file.error(), ":2:6: not UTF-8: TOML is");
    let file = Temporary::new("binary", b"\xff\xfe\0\0");
    assert_eq!(file.error(), ":1:1: not UTF-8: TOML is");
    let file = Temporary::new("line", b"workers = 2\n\xff");
    assert_eq!(file.error(), ":2:1: not UTF-8: TOML is");
}

#[test]
fn a_file_of_any_size_is_read_as_far_as_it_may_be() {
    let file = Temporary::new("large", &vec![b'x'; 10 << 20]);
    assert_eq!(file.error(), ": larger than 4 MiB, which no configuration is");
    let error = load("/dev/zero".as_ref()).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: larger than 4 MiB, which no configuration is");
    let file = Temporary::new("just", &vec![b'['; 4 << 20]);
    assert!(file.error().starts_with(":1:"), "{}", file.error());
}

#[test]
fn a_file_full_of_mistakes_gets_so_many_lines_and_no_more() {
    let file = Temporary::new("mistakes", "[[relay]]\nnam = \"x\"\n".repeat(20_000).as_bytes());
    let error = load(&file.0).unwrap_err().to_string();
    assert_eq!(error.lines().count(), 51);
    let last = error.lines().last().unwrap();
    assert!(last.ends_with(": and 950 more, or further ones behind these"), "{last}");
}
