//! How a line is written.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{AccessLogFormat, Line};

/// Longest text of a field, as it is written. A line is shorter than what a pipe takes at once.
const MAX_TEXT: usize = 512;

/// Appends the line.
pub(super) fn render(format: AccessLogFormat, line: &Line<'_>, out: &mut Vec<u8>) {
    let Line { time, client, method, path, route, status, outcome, token, user, .. } = line;
    let Line { bytes, own, upstream, total, request_id, subject, trace_id, .. } = line;
    let mut pen = Pen { format, out };
    pen.time("time", *time);
    pen.address("client", *client);
    pen.text("method", *method);
    pen.text("path", *path);
    pen.text("route", *route);
    pen.number("status", u64::from(*status));
    pen.text("outcome", Some(outcome));
    match token {
        Some(token) => pen.plain("token", &token.to_ascii()),
        None => pen.text("token", None),
    }
    pen.text("user", *user);
    pen.number("bytes", *bytes);
    pen.milliseconds("own_ms", Some(*own));
    pen.milliseconds("upstream_ms", *upstream);
    pen.milliseconds("total_ms", Some(*total));
    pen.text("request_id", Some(request_id));
    pen.text("subject", *subject);
    pen.text("trace_id", *trace_id);
    pen.end();
}

struct Pen<'a> {
    format: AccessLogFormat,
    out: &'a mut Vec<u8>,
}

impl Pen<'_> {
    fn name(&mut self, name: &str) {
        match self.format {
            AccessLogFormat::Text if self.out.is_empty() => self.put(&[name.as_bytes(), b"="]),
            AccessLogFormat::Text => self.put(&[b" ", name.as_bytes(), b"="]),
            AccessLogFormat::Json if self.out.is_empty() => self.put(&[b"{\"", name.as_bytes(), b"\":"]),
            AccessLogFormat::Json => self.put(&[b",\"", name.as_bytes(), b"\":"]),
        }
    }

    fn put(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
    }

    fn end(&mut self) {
        self.put(if self.format == AccessLogFormat::Json { &[b"}\n"] } else { &[b"\n"] });
    }

    /// What needs no escape.
    fn plain(&mut self, name: &str, text: &[u8]) {
        self.name(name);
        match self.format {
            AccessLogFormat::Text => self.put(&[text]),
            AccessLogFormat::Json => self.put(&[b"\"", text, b"\""]),
        }
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        let Some(text) = text else {
            self.name(name);
            return self.put(if self.format == AccessLogFormat::Json { &[b"null"] } else { &[b"-"] });
        };
        // `-` alone, or nothing, would be read as that there is none.
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        if text.len() <= MAX_TEXT && text.bytes().all(is_plain) && !matches!(text, "" | "-") {
            return self.plain(name, text.as_bytes());
        }
        self.name(name);
        self.put(&[b"\""]);
        escape(text, self.out);
        self.put(&[b"\""]);
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        decimal(self.out, number);
    }

    fn milliseconds(&mut self, name: &str, duration: Option<Duration>) {
        let Some(duration) = duration else { return self.text(name, None) };
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.number(name, micros / 1000);
        let rest = micros % 1000;
        self.out.push(b'.');
        digits(self.out, rest, 3);
    }

    fn address(&mut self, name: &str, address: IpAddr) {
        let IpAddr::V4(v4) = address else {
            return self.plain(name, address.to_string().as_bytes());
        };
        self.name(name);
        let quote: &[u8] = if self.format == AccessLogFormat::Json { b"\"" } else { b"" };
        self.put(&[quote]);
        for (at, octet) in v4.octets().into_iter().enumerate() {
            if at > 0 {
                self.out.push(b'.');
            }
            decimal(self.out, u64::from(octet));
        }
        self.put(&[quote]);
    }

    /// RFC 3339, to the millisecond.
    fn time(&mut self, name: &str, time: SystemTime) {
        // The second that was written last, and its text.
        thread_local!(static SECOND: RefCell<(u64, Vec<u8>)> = const { RefCell::new((u64::MAX, Vec::new())) });
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.name(name);
        let quote: &[u8] = if self.format == AccessLogFormat::Json { b"\"" } else { b"" };
        self.put(&[quote]);
        SECOND.with_borrow_mut(|(second, text)| {
            if *second != since.as_secs() {
                *second = since.as_secs();
                text.clear();
                let stamp = jiff::Timestamp::from_second(second.cast_signed()).unwrap_or_default();
                // Writing to a Vec cannot fail.
                drop(write!(text, "{}", stamp.strftime("%Y-%m-%dT%H:%M:%S.")));
            }
            self.out.extend_from_slice(text);
        });
        digits(self.out, u64::from(since.subsec_millis()), 3);
        self.put(&[b"Z", quote]);
    }
}

/// As JSON escapes, ASCII only: nothing in it can end the line, move a cursor, or turn a line's direction round. Cut at
/// [`MAX_TEXT`].
fn escape(text: &str, out: &mut Vec<u8>) {
    let end = out.len() + MAX_TEXT - 3;
    for character in text.chars() {
        let before = out.len();
        match character {
            '"' | '\\' => out.extend_from_slice(&[b'\\', u8::try_from(character).unwrap_or(b'?')]),
            ' '..='~' => out.push(u8::try_from(character).unwrap_or(b'?')),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    drop(write!(out, "\\u{unit:04x}"));
                }
            }
        }
        if out.len() > end {
            out.truncate(before);
            return out.extend_from_slice(b"...");
        }
    }
}

/// Without the machinery of formatting.
fn decimal(out: &mut Vec<u8>, number: u64) {
    digits(out, number, number.checked_ilog10().unwrap_or(0) as usize + 1);
}

fn digits(out: &mut Vec<u8>, mut number: u64, count: usize) {
    let start = out.len();
    out.resize(start + count, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit += u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn line<'a>(path: Option<&'a str>, subject: Option<&'a str>) -> Line<'a> {
        Line {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_007),
            client: "192.0.2.10".parse().expect("an address"),
            method: Some("GET"),
            path,
            route: Some("/api/configs/{any}/toml"),
            status: 200,
            outcome: "served",
            token: Some("0000000000001".parse().expect("an id")),
            user: Some("olga"),
            bytes: 1234,
            own: Duration::from_micros(56),
            upstream: Some(Duration::from_micros(12_034)),
            total: Duration::from_secs(2),
            request_id: "ab",
            subject,
            trace_id: None,
        }
    }

    fn written(format: AccessLogFormat, line: &Line<'_>) -> String {
        let mut out = Vec::new();
        render(format, line, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn a_line_of_text_has_every_field() {
        assert_eq!(
            written(AccessLogFormat::Text, &line(Some("/api/configs/1/toml"), Some("CN=edge 1"))),
            "time=2023-11-14T22:13:20.007Z client=192.0.2.10 method=GET path=/api/configs/1/toml \
             route=/api/configs/{any}/toml status=200 outcome=served token=0000000000001 user=olga bytes=1234 own_ms=0.056 \
             upstream_ms=12.034 total_ms=2000.000 request_id=ab subject=\"CN=edge 1\" trace_id=-\n"
        );
    }

    #[test]
    fn a_line_of_json_has_every_field_in_its_type() {
        let text = written(AccessLogFormat::Json, &line(None, None));
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["time"], "2023-11-14T22:13:20.007Z");
        assert_eq!((&json["path"], &json["subject"]), (&Value::Null, &Value::Null));
        assert_eq!((json["status"].as_u64(), json["bytes"].as_u64()), (Some(200), Some(1234)));
        assert_eq!((json["own_ms"].as_f64(), json["upstream_ms"].as_f64()), (Some(0.056), Some(12.034)));
        assert_eq!(json.as_object().expect("an object").len(), 16);
    }

    proptest! {
        #[test]
        fn whatever_a_text_has_a_line_is_one_short_line_and_can_be_read(path: String, subject in "\\PC{0,900}") {
            let line = line(Some(&path), Some(&subject));
            for format in AccessLogFormat::ALL {
                let text = written(format, &line);
                prop_assert!(text.len() < 4096 && text.is_ascii() && text.matches('\n').count() == 1, "{}", text);
                prop_assert!(!text.trim_end().bytes().any(|byte| byte.is_ascii_control()), "{}", text);
            }
            let json: Value = serde_json::from_str(&written(AccessLogFormat::Json, &line)).expect("JSON");
            let read = json["path"].as_str().expect("a text");
            prop_assert!(read == path || read.strip_suffix("...").is_some_and(|read| path.starts_with(read)));
        }
    }
}
