//! `tollgate dev` as a newcomer uses it: every line that it prints is run as it was printed.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A running `tollgate dev` with what it has printed; killed when dropped.
struct Dev {
    child: Child,
    output: BufReader<ChildStdout>,
    banner: String,
}

impl Dev {
    /// Starts it on free ports with `temp` as the temporary folder, and reads to the last line to paste.
    fn start(temp: &Path) -> Self {
        let mut child = command(temp).stdout(Stdio::piped()).spawn().expect("starts");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut banner = String::new();
        while !banner.contains("\nStop it with Ctrl-C") {
            assert_ne!(output.read_line(&mut banner).expect("reads"), 0, "it ended after: {banner}");
        }
        Self { child, output, banner }
    }

    /// The lines to paste.
    fn commands(&self) -> Vec<&str> {
        self.banner.lines().filter_map(|line| line.strip_prefix("    ")).collect()
    }

    fn terminate(mut self) -> (String, bool) {
        let pid = self.child.id();
        assert!(shell(Path::new("/"), &format!("kill -TERM {pid}")).status.success());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("reads");
        (rest, self.child.wait().expect("ends").success())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(temp: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("dev").env("TMPDIR", temp);
    for option in ["--listen", "--admin-listen", "--api-listen", "--heartbeat-listen"] {
        command.args([option, "127.0.0.1:0"]);
    }
    command
}

fn shell(folder: &Path, script: &str) -> Output {
    Command::new("sh").args(["-c", script]).current_dir(folder).output().expect("runs")
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).expect("lists").next().is_none()
}

#[test]
fn every_line_works_as_it_is_printed() {
    // A space in the path, so that quoting counts.
    let temp = tempfile::Builder::new().prefix("temporary files ").tempdir().expect("a folder");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(temp.path());
    for signal in ["HUP", "QUIT", "USR1", "USR2"] {
        let pid = dev.child.id();
        assert!(shell(elsewhere.path(), &format!("kill -{signal} {pid}")).status.success());
    }

    let commands = dev.commands();
    let [agent, owner, fetch, beat, by_alias, denied, listed, managed, revoke, refused, telegraf] = commands.as_slice()
    else {
        panic!("{}", dev.banner)
    };
    assert!(telegraf.contains(" telegraf --config 'http://"), "{telegraf}");
    let run = |line: &str| {
        let output = shell(elsewhere.path(), &format!("{agent}\n{owner}\n{line}"));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let expect = |line: &str, expected: &[&str]| {
        let output = run(line).replace("Last-Modified", "last-modified");
        for text in expected {
            assert!(output.contains(text), "{line}: {text} is not in {output}");
        }
    };
    expect(fetch, &["200 OK", "application/toml", "last-modified: ", "instance_id = \"web-1\""]);
    expect(by_alias, &["200 OK", "application/toml", "last-modified: ", "instance_id = \"web-1\""]);
    expect(beat, &["200 OK", r#""status": "ok""#]);
    expect(denied, &["403 Forbidden"]);
    expect(
        listed,
        &["200 OK", r#""id": "web-1""#, r#""address": "127.0.0.1""#, r#""user": "fleet""#, r#""heartbeats": 1"#],
    );
    expect(managed, &["200 OK", r#""user":"fleet","description":"agents of the demo""#]);
    run(revoke);
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut answer = run(refused);
    while !answer.contains("401 Unauthorized") {
        assert!(Instant::now() < deadline, "still {answer}");
        answer = run(refused);
    }
    assert!(answer.contains("Invalid token"), "{answer}");

    let (rest, succeeded) = dev.terminate();
    assert!(succeeded);
    assert_eq!(rest.trim_start().lines().count(), 1, "{rest}");
    assert!(is_empty(temp.path()), "the throwaway store is removed");
}

/// The lines to paste of docs/api.md, in their order.
#[test]
fn every_line_of_the_page_on_the_api_works() {
    let temp = tempfile::tempdir().expect("a folder");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let dev = Dev::start(temp.path());
    let owner = *dev.commands().iter().find(|line| line.starts_with("OWNER=")).expect("the owner's token");
    let admin = dev.banner.split_whitespace().find(|word| word.ends_with("/api/v1")).expect("the admin API");
    let page = include_str!("../../docs/api.md").lines().filter_map(|line| line.strip_prefix("    "));
    let lines: Vec<_> = page.filter(|line| line.contains("tollgate_api")).collect();
    let [define, calls @ ..] = lines.as_slice() else { panic!("{lines:?}") };
    assert!(calls.len() >= 8, "{calls:?}");
    for call in calls {
        let output = shell(elsewhere.path(), &format!("{owner}\nAPI={admin}\n{define}\n{call}"));
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success() && !said.contains("urn:tollgate:problem"), "{call}: {said}");
    }
    let made = fs::read_to_string(elsewhere.path().join("token.json")).expect("written");
    assert!(made.contains(r#""complete":true"#), "{made}");
}

#[test]
fn what_a_kill_left_behind_is_swept_up_at_the_next_start() {
    let temp = tempfile::tempdir().expect("a folder");
    drop(Dev::start(temp.path()));
    assert!(!is_empty(temp.path()), "nothing could clean up");
    assert!(Dev::start(temp.path()).terminate().1);
    assert!(is_empty(temp.path()));
}

#[test]
fn a_port_in_use_ends_it_with_the_option_for_another() {
    let temp = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("bound").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    let output = command
        .args(["dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--heartbeat-listen", "127.0.0.1:0"])
        .args(["--api-listen", &address])
        .env("TMPDIR", temp.path())
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains(&address) && error.contains("--api-listen"), "{error}");
    assert!(is_empty(temp.path()));
}
