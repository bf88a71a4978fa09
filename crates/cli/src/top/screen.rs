//! The terminal: taken over, drawn on, and given back as it was, whatever happens.

use super::page::{Line, Look};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, queue, terminal};
use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal is ours.
static OPEN: AtomicBool = AtomicBool::new(false);

/// The whole terminal, until it is dropped.
pub struct Screen(());

impl Screen {
    /// Takes the terminal over.
    pub fn open() -> io::Result<Self> {
        restore_at_panic();
        // Before the first change: what has been done by halves is undone as well.
        OPEN.store(true, Ordering::SeqCst);
        let screen = Self(());
        terminal::enable_raw_mode()?;
        let mut out = Vec::new();
        queue!(out, EnterAlternateScreen, cursor::Hide)?;
        write(&out)?;
        Ok(screen)
    }

    /// Columns and lines.
    pub fn size(&self) -> io::Result<(u16, u16)> {
        terminal::size()
    }

    /// Shows these lines, which fit.
    pub fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        let mut out = Vec::new();
        for (row, line) in (0..).zip(lines) {
            queue!(out, cursor::MoveTo(0, row))?;
            match line.look {
                Look::Plain => {}
                Look::Title => queue!(out, SetAttribute(Attribute::Bold))?,
                Look::Head => queue!(out, SetAttribute(Attribute::Reverse))?,
                Look::Bad => queue!(out, SetForegroundColor(Color::Red))?,
            }
            queue!(
                out,
                Print(&line.text),
                SetAttribute(Attribute::Reset),
                ResetColor,
                Clear(ClearType::UntilNewLine)
            )?;
        }
        // What an earlier, longer page has left.
        if let Ok(rows) = u16::try_from(lines.len()) {
            queue!(out, cursor::MoveTo(0, rows), Clear(ClearType::FromCursorDown))?;
        }
        write(&out)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// In one piece, so that nobody sees half a page.
fn write(out: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(out)?;
    stdout.flush()
}

/// Once for each time that it was taken over.
fn restore() {
    if !OPEN.swap(false, Ordering::SeqCst) {
        return;
    }
    // A terminal that is gone needs none of it.
    let mut out = Vec::new();
    let _ = queue!(out, cursor::Show, LeaveAlternateScreen);
    let _ = write(&out);
    let _ = terminal::disable_raw_mode();
}

/// The message of a panic is to stand where it can be read.
fn restore_at_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            earlier(panic);
        }));
    });
}
