//! The lines of an import, read from a file or a body, and what kind of lines they are.

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::csv::CsvHeader;
use super::line::{LineError, parse_line};
use super::past::Aside;
use super::{Numbered, RefusedLine};
use crate::token::PermissionSet;

/// Longest line, in bytes. A record is well under 2 KiB, the longest history that is exported under 1 MiB.
const MAX_LINE: usize = 1024 * 1024;

/// Lines whose pasts are held. Those of a million would be most of what they take.
const PASTS_HELD: usize = 10_000;

/// The lines of an import, before the registry has seen them.
#[derive(Debug, Default)]
pub struct Lines {
    /// Those that can be read, by number from 1.
    pub good: Vec<Numbered>,
    /// Those that cannot.
    pub bad: Vec<RefusedLine>,
}

impl Lines {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.good.len() + self.bad.len()
    }
}

/// What the lines of an input are. The first one that is not empty tells.
enum Form {
    Json,
    Csv(CsvHeader),
}

/// Why an input cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It breaks off.
    #[error(transparent)]
    Input(#[from] io::Error),
    /// There is no room for what lines tell of the past.
    #[error("putting histories into a temporary file (in TMPDIR, or /tmp)")]
    Aside(#[source] io::Error),
    /// The header of CSV is wrong, and so every line below would be.
    #[error("line {line}, the header of CSV: {reason}")]
    Header {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        reason: LineError,
    },
    /// There are more lines than are taken at once.
    #[error("more than {0} lines; import them in several parts")]
    TooMany(usize),
}

/// Reads the lines of an input, at most so many; `otherwise` are the permissions of those that give none.
///
/// # Errors
/// When it cannot be read, when it begins with the header of CSV and that is wrong, and when there are more.
pub fn read_lines(input: &mut impl BufRead, otherwise: Option<PermissionSet>, most: usize) -> Result<Lines, ReadError> {
    let mut lines = Lines::default();
    let mut form = None;
    // A million lines may have the names of a few users: each is held once.
    let mut users: HashSet<Arc<str>> = HashSet::new();
    let mut aside = Aside::after(PASTS_HELD);
    // Long enough from the start: growing would leave copies of raw tokens behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE + 1));
    for number in 1.. {
        if lines.count() > most {
            return Err(ReadError::TooMany(most));
        }
        if !read_line(input, &mut line)? {
            break;
        }
        if line.len() > MAX_LINE {
            lines.bad.push(RefusedLine { line: number, reason: LineError::TooLong(MAX_LINE) });
            continue;
        }
        let text = line.as_slice();
        // Some editors on Windows begin a file with a byte order mark.
        let text = if number == 1 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        let Ok(text) = std::str::from_utf8(text) else {
            lines.bad.push(RefusedLine { line: number, reason: LineError::NotUtf8 });
            continue;
        };
        // The last fields of CSV may be empty, and what is between them a tab.
        let text = if let Some(Form::Csv(_)) = form { text } else { text.trim() };
        if text.trim().is_empty() {
            continue;
        }
        let parsed = match &form {
            Some(Form::Csv(header)) => header.parse_line(text, otherwise),
            Some(Form::Json) => parse_line(text, otherwise),
            None => match CsvHeader::read(text).map_err(|reason| ReadError::Header { line: number, reason })? {
                Some(header) => {
                    form = Some(Form::Csv(header));
                    continue;
                }
                None => {
                    form = Some(Form::Json);
                    parse_line(text, otherwise)
                }
            },
        };
        match parsed {
            Ok(mut good) => {
                if let Some(past) = &mut good.past {
                    aside.put(past).map_err(ReadError::Aside)?;
                }
                match users.get(&good.user) {
                    Some(user) => good.user = user.clone(),
                    None => _ = users.insert(good.user.clone()),
                }
                lines.good.push((number, good));
            }
            Err(reason) => lines.bad.push(RefusedLine { line: number, reason }),
        }
    }
    Ok(lines)
}

/// Reads a line, of which nothing after a byte more than [`MAX_LINE`] is retained; `false` at the end of the input. It ends
/// with LF, CR LF, or CR alone, as some spreadsheets end it: what follows a CR is no part of it, and must not be lost.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut is_empty = true;
    loop {
        let buffered = input.fill_buf()?;
        if buffered.is_empty() {
            return Ok(!is_empty);
        }
        is_empty = false;
        let end = buffered.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
        let length = end.unwrap_or(buffered.len());
        line.extend_from_slice(&buffered[..length.min(MAX_LINE + 1 - line.len())]);
        let is_return = end.is_some_and(|end| buffered[end] == b'\r');
        input.consume(length + usize::from(end.is_some()));
        if is_return && input.fill_buf()?.first() == Some(&b'\n') {
            input.consume(1);
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::line::ImportLine;
    use super::*;

    fn numbers(input: &[u8]) -> (Vec<usize>, Vec<(usize, LineError)>) {
        let lines = read_lines(&mut BufReader::with_capacity(7, input), None, usize::MAX).expect("reads");
        let bad = lines.bad.into_iter().map(|refused| (refused.line, refused.reason)).collect();
        (lines.good.into_iter().map(|(number, _)| number).collect(), bad)
    }

    #[test]
    fn lines_of_one_user_share_the_name() {
        let line = good_line();
        let (one, other) = (line.replace("anna", "olga"), line.replace("anna", "otto"));
        let lines = read_lines(&mut format!("{one}\n{other}\n{one}").as_bytes(), None, usize::MAX).expect("reads").good;
        let users: Vec<_> = lines.iter().map(|(_, line)| &line.user).collect();
        assert!(Arc::ptr_eq(users[0], users[2]) && !Arc::ptr_eq(users[0], users[1]), "{users:?}");
        assert_eq!((&**users[0], &**users[1]), ("olga", "otto"));
    }

    /// A million of them and what is found out about them are to fit into 300 MiB.
    #[test]
    fn a_line_takes_little() {
        assert!(size_of::<ImportLine>() <= 128, "{}", size_of::<ImportLine>());
    }

    fn good_line() -> String {
        format!(r#"{{"digest":"{}","user":"anna","description":"x","permissions":["configs:read"]}}"#, "0".repeat(64))
    }

    #[test]
    fn no_more_lines_are_read_than_were_asked_for() {
        let lines = format!("{}\nnonsense\n\n", good_line());
        let read = |most| read_lines(&mut lines.as_bytes(), None, most);
        assert_eq!(read(2).expect("reads").count(), 2);
        assert!(matches!(read(1), Err(ReadError::TooMany(1))));
    }

    #[test]
    fn lines_are_numbered_as_in_the_file() {
        let line = good_line();
        let input = format!("\u{feff}{line}\n\n  \r\n{line}\r\nnonsense\n{line}");
        let (good, bad) = numbers(input.as_bytes());
        assert_eq!(good, [1, 4, 6]);
        assert_eq!(bad.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [5]);
        assert!(matches!(numbers(b""), (good, bad) if good.is_empty() && bad.is_empty()));
    }

    #[test]
    fn a_line_too_long_or_not_utf8_is_bad_and_the_next_is_read() {
        let line = good_line();
        for long in [MAX_LINE + 1, MAX_LINE + 2, 3 * MAX_LINE] {
            let mut input = vec![b'x'; long];
            input.extend_from_slice(format!("\n{line}\n\u{e9}").as_bytes());
            input.pop(); // cuts the last character in half
            let (good, bad) = numbers(&input);
            assert_eq!(good, [2], "{long}");
            assert!(matches!(bad[..], [(1, LineError::TooLong(MAX_LINE)), (3, LineError::NotUtf8)]), "{bad:?}");
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_read() {
        let line = good_line() + &" ".repeat(MAX_LINE - good_line().len());
        assert_eq!(numbers(format!("{line}\n{line}").as_bytes()).0, [1, 2]);
    }

    #[test]
    fn the_first_line_tells_whether_it_is_csv() {
        let row = format!("{},anna,x,configs:read,", "0".repeat(64));
        let csv = format!("\u{feff}\r\ndigest,user,description,permissions,expires_at\r\n{row}\r\n\r\n{row}\n,,\n");
        let (good, bad) = numbers(csv.as_bytes());
        assert_eq!(good, [3, 5]);
        assert!(matches!(bad[..], [(6, LineError::Cells(5, 3))]), "{bad:?}");
        let (good, bad) = numbers(format!("{row}\n{}", good_line()).as_bytes());
        assert_eq!((good, bad.len()), (vec![2], 1), "no header, so not CSV");
        let input = "\ndigest,user,desc\n";
        let error = read_lines(&mut input.as_bytes(), None, usize::MAX).expect_err("refused").to_string();
        assert!(error.starts_with("line 2, the header of CSV: unknown field `desc`, column 3"), "{error}");
    }

    #[test]
    fn a_line_ends_with_a_return_too() {
        let row = format!("{},anna,x,configs:read", "0".repeat(64));
        let header = "digest,user,description,permissions";
        let (good, bad) = numbers(format!("{header}\r{row}\r\r{row}\r").as_bytes());
        assert_eq!((good, bad.len()), (vec![2, 4], 0));
        let (good, bad) = numbers(format!("{header}\r\n{row}\r{row}\n{row}\r\n\r\n{row}").as_bytes());
        assert_eq!((good, bad.len()), (vec![2, 3, 4, 6], 0));
        let (good, bad) = numbers(format!("{}\r{}", good_line(), good_line()).as_bytes());
        assert_eq!((good, bad.len()), (vec![1, 2], 0));
        // It ends a line within quotes too, which is an error, and loses nothing.
        let (good, bad) = numbers(format!("{header}\n{}\n", row.replace(",x,", ",\"x\ry\",")).as_bytes());
        assert!(good.is_empty() && bad.iter().all(|(_, reason)| matches!(reason, LineError::OpenQuote)), "{bad:?}");
        assert_eq!(bad.len(), 2);
    }
}
