//! Rows as text for a terminal of 100 columns, or as JSON.

use super::judge::{Level, Row};

/// Where a line ends at the latest, a command aside: those are never broken.
const COLUMNS: usize = 98;

/// Where what is said about a name begins.
const INDENT: usize = 6 + 21;

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Warn => "warn",
        Level::Stop => "stop",
    }
}

/// A line for each row, what it means and the command below where it is not
/// well, and the verdict at the end.
pub(super) fn text(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        let head = format!("{:<6}{:<width$}", word(row.level), row.name, width = INDENT - 6);
        wrap(&mut out, &head, &row.value);
        if let Some(why) = &row.why {
            wrap(&mut out, &" ".repeat(INDENT), why);
        }
        if let Some(change) = &row.change {
            out.push_str(&format!("{}$ {change}\n", " ".repeat(INDENT)));
        }
    }
    let count = |level| rows.iter().filter(|row| row.level == level).count();
    let verdict = match count(Level::Stop) {
        0 => "Nothing prevents the relay from running",
        _ => "The relay cannot run here",
    };
    let (warn, note) = (count(Level::Warn), count(Level::Note));
    out.push_str(&format!("\n{verdict}: {warn} to mend, {note} to know.\n"));
    out
}

/// Appends `head` and `text` broken at spaces, the rest of it indented.
fn wrap(out: &mut String, head: &str, text: &str) {
    let mut at = head.chars().count();
    out.push_str(head);
    for (index, word) in text.split(' ').enumerate() {
        let len = word.chars().count();
        if index > 0 && at + 1 + len > COLUMNS {
            out.push('\n');
            out.push_str(&" ".repeat(INDENT));
            at = INDENT;
        } else if index > 0 {
            out.push(' ');
            at += 1;
        }
        out.push_str(word);
        at += len;
    }
    out.push('\n');
}

/// A list of objects; `why` and `change` are null where there is nothing to say.
pub(super) fn json(rows: &[Row]) -> String {
    let list: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "name": row.name,
                "level": word(row.level),
                "value": row.value,
                "why": row.why,
                "change": row.change,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(level: Level, change: Option<&str>) -> Row {
        Row {
            name: "SO_PREFER_BUSY_POLL",
            level,
            value: "many words ".repeat(20).trim().to_owned(),
            why: change.map(|_| "more words".to_owned()),
            change: change.map(str::to_owned),
        }
    }

    #[test]
    fn text_fits_the_terminal_and_keeps_commands_whole() {
        let command = format!("sysctl -w {}", "long ".repeat(30));
        let text = text(&[row(Level::Ok, None), row(Level::Warn, Some(&command))]);
        assert!(text.contains(&command));
        for line in text.lines().filter(|line| !line.contains("$ ")) {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
        assert!(text.starts_with("ok    SO_PREFER_BUSY_POLL  many"), "{text}");
        assert!(text.ends_with("Nothing prevents the relay from running: 1 to mend, 0 to know.\n"));
    }

    #[test]
    fn a_row_that_stops_is_the_verdict() {
        assert!(text(&[row(Level::Stop, None)]).contains("cannot run here"));
    }

    #[test]
    fn json_is_a_list_of_objects() {
        let text = json(&[row(Level::Note, Some("x \"y\"")), row(Level::Ok, None)]);
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list[0]["level"], "note");
        assert_eq!(list[0]["change"], "x \"y\"");
        assert!(list[1]["why"].is_null());
    }
}
