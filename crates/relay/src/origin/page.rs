//! The page at `/`: what just happened to the bytes of this connection, and
//! what to try next, as plain text or as HTML.

use super::Passage;

/// Bytes that the next line to try moves: enough for the pipe engine to come in.
const EXAMPLE_BYTES: u64 = 100_000_000;

/// What the page says, apart from how it looks.
struct Content {
    title: &'static str,
    account: String,
    explanation: &'static str,
    steps: [(&'static str, String); 3],
}

/// The page as plain text.
pub(super) fn text(passage: Option<&Passage>, host: Option<&str>) -> String {
    let page = content(passage, host);
    let mut out = format!("{}\n\n{}\n{}\n", page.title, indent(&page.account), page.explanation);
    for (what, line) in &page.steps {
        out.push_str(&format!("\n{what}\n\n  {line}\n"));
    }
    out
}

/// The page as HTML.
pub(super) fn html(passage: Option<&Passage>, host: Option<&str>) -> String {
    let page = content(passage, host);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem}}\
         pre{{background:#8881;padding:.8rem;overflow:auto}}</style>\n\
         <h1>{title}</h1>\n<pre>{account}</pre>\n<p>{explanation}</p>\n",
        title = escape(page.title),
        account = escape(&page.account),
        explanation = escape(page.explanation).replace("\n\n", "</p>\n<p>"),
    );
    for (what, line) in &page.steps {
        out.push_str(&format!("<p>{}</p>\n<pre>{}</pre>\n", escape(what), escape(line)));
    }
    out.push_str("</html>\n");
    out
}

fn content(passage: Option<&Passage>, host: Option<&str>) -> Content {
    // Only HTTP/1.0 without a Host leaves us without an address to name.
    let host = host.unwrap_or("HOST:PORT");
    let bytes = format!("http://{host}/bytes/{EXAMPLE_BYTES}");
    let (title, account, explanation) = match passage {
        Some(passage) => (
            "This page came to you through sosplice.",
            account(passage),
            "copy: through a buffer of the relay's worker, the cheaper way for small messages.\n\
             pipe: moved by splice(2); the payload never left the kernel.\n\n\
             The relay chooses by what the connection does now, and changes its mind. These\n\
             are its counts up to this answer, which is not in them yet.",
        ),
        None => (
            "This page did not come through the relay.",
            "no relayed connection is known at your address and port\n".to_owned(),
            "This is the origin that stands behind `sosplice relay` when no target is given.\n\
             Connect to the address on which the relay listens to see it at work.",
        ),
    };
    Content {
        title,
        account,
        explanation,
        steps: [
            (
                "Move something large, then ask again on the same connection:",
                format!("curl -s {bytes} -o /dev/null http://{host}/"),
            ),
            (
                "See only its head, with the checksum of what follows:",
                format!("curl -s -o /dev/null -D- {bytes}"),
            ),
            (
                "Compute that checksum from what arrives:",
                format!("curl -s {bytes} | gzip -1 | tail -c8 | head -c4 | od -An -tx4"),
            ),
        ],
    }
}

fn account(passage: &Passage) -> String {
    let rows = [
        ("you to origin", passage.up_copy, passage.up_pipe),
        ("origin to you", passage.down_copy, passage.down_pipe),
    ];
    let mut out =
        format!("you are {}\n\n{:14}{:>17}{:>17}\n", passage.client, "bytes", "copy", "pipe");
    for (way, copy, pipe) in rows {
        out.push_str(&format!("{way:14}{:>17}{:>17}\n", grouped(copy), grouped(pipe)));
    }
    out
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn indent(text: &str) -> String {
    text.lines()
        .map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("  {line}\n"),
        })
        .collect()
}

/// For text and for attributes in double or single quotes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGE: Passage = Passage {
        client: std::net::SocketAddr::new(
            std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)),
            40_000,
        ),
        up_copy: 81,
        up_pipe: 0,
        down_copy: 65_536,
        down_pipe: 99_934_628,
    };

    #[test]
    fn text_says_who_how_much_and_by_which_engine() {
        let page = text(Some(&PASSAGE), Some("relay.example:8080"));
        for part in [
            "you are 192.0.2.7:40000",
            "you to origin                81                0\n",
            "origin to you            65,536       99,934,628\n",
            "curl -s http://relay.example:8080/bytes/100000000 -o /dev/null http://relay.example:8080/",
        ] {
            assert!(page.contains(part), "{part:?} in\n{page}");
        }
        assert!(text(None, None).contains("did not come through"));
        assert!(text(None, None).contains("http://HOST:PORT/"));
    }

    #[test]
    fn html_escapes_what_it_quotes() {
        let page = html(Some(&PASSAGE), Some("\"><script>&'"));
        assert!(!page.contains("<script>"));
        assert!(page.contains("&quot;&gt;&lt;script&gt;&amp;&#39;"));
        assert!(page.contains("99,934,628"));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
    }
}
