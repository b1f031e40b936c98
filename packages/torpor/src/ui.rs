//! How commands talk to people: colours only on a terminal, progress on one line, nothing else.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

/// Whether standard output is a terminal that takes colours.
fn coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// `text` in a colour, where colours are wanted.
fn paint(code: &str, text: &str) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// A heading.
pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

/// Something less important.
pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

/// Good.
pub(crate) fn good(text: &str) -> String {
    paint("32", text)
}

/// Bad.
pub(crate) fn bad(text: &str) -> String {
    paint("31", text)
}

/// A column of a table: its title, the field it shows, its width (0 for the last).
pub(crate) type Column = (&'static str, &'static str, usize);

/// A table, each cell as `cell` shows that field of that row.
pub(crate) fn table(columns: &[Column], rows: &[Value], cell: impl Fn(&Value, &str) -> String) {
    let line = |of: &dyn Fn(&Column) -> String| {
        let cells: Vec<_> = columns.iter().map(|column| format!("{:<width$}", of(column), width = column.2)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    println!("{}", dim(&line(&|column| column.0.to_owned())));
    for row in rows {
        println!("{}", line(&|column| cell(row, column.1)));
    }
}

/// A line on standard error that is overwritten as things go on; silent where that is no terminal.
#[derive(Default)]
pub(crate) struct Progress {
    shown: bool,
}

impl Progress {
    /// Shows the state of things.
    pub(crate) fn show(&mut self, text: &str) {
        let mut err = std::io::stderr();
        if err.is_terminal() {
            let _ = write!(err, "\r\x1b[K{text}");
            let _ = err.flush();
            self.shown = true;
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
