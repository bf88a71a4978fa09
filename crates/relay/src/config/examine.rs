//! What must hold for any text that is to be a configuration: what is read is printed and read
//! as the same plan, and what the reader complains of is on a line that is there.

use super::{parse, print};

/// Reads `bytes` as a file, if they are text.
///
/// # Panics
/// When something does not hold that must.
#[cfg_attr(not(fuzzing), allow(dead_code, reason = "the property tests have text"))]
pub fn file(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        self::text(text);
    }
}

/// What must hold for any text at all.
///
/// # Panics
/// When it does not.
pub fn text(text: &str) {
    match parse(text) {
        Ok(plan) => {
            let printed = print(&plan);
            let again = parse(&printed);
            assert_eq!(again.as_ref(), Ok(&plan), "from\n{text}\nthis was printed\n{printed}");
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            // As an editor counts them: nothing stands behind the last end of line.
            let mut lines: Vec<_> = text.split('\n').collect();
            if lines.len() > 1 && text.ends_with('\n') {
                lines.pop();
            }
            let mut last = (1, 1);
            for problem in problems {
                let line = problem.line.checked_sub(1).and_then(|line| lines.get(line));
                let line = line.unwrap_or_else(|| panic!("{problem}: no such line in\n{text}"));
                let columns = line.chars().count() + 1;
                assert!((1..=columns).contains(&problem.column), "{problem}: in\n{text}");
                assert!((problem.line, problem.column) >= last, "{problem}: out of order");
                last = (problem.line, problem.column);
                let told = problem.to_string();
                assert!(!told.contains(char::is_control), "{told:?}: one line each");
                assert!(told.len() < 2000, "{told}: short");
            }
        }
    }
}
