//! What the program could not read, it does not repeat: keys, tokens and passwords in the wrong place or form are fed to
//! the real binary by every way in, and all that it says is searched for them.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{Program, Upstream, eventually};
use tollgate_harness::authority::Authority;

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");

/// A password that no message of ours has a piece of.
const PASSWORD: &str = "Xq7zKv9wJ2bNfR5y";

/// A token in its usual form, with a secret of its own.
const TOKEN: &str = "tc-apiv1_Wm4kZx8vQ3hTgB6nLp2dYs7rFj5c";

/// Fewest characters of a secret that count as a piece of it.
const PIECE: usize = 6;

/// Whether the text has a piece of the secret: as it is, with white space or escapes in between, as a list of its bytes in
/// decimal or hexadecimal, or in base64.
fn shows(text: &str, secret: &str) -> Option<String> {
    let plain = text.replace("\\n", "").replace(char::is_whitespace, "");
    let decoded = |radix: u32| {
        let numbers = text.split(|symbol: char| !symbol.is_ascii_alphanumeric());
        let bytes = numbers.filter_map(|number| u8::from_str_radix(number.trim_start_matches("0x"), radix).ok());
        bytes.map(char::from).filter(|symbol| !symbol.is_whitespace()).collect::<String>()
    };
    let texts = [plain, decoded(10), decoded(16)];
    let secret = secret.strip_prefix("tc-apiv1_").unwrap_or(secret); // the rest of it is everybody's
    let secret: String = secret.replace("\\n", "").split_whitespace().collect();
    let in_base64 = (0..3).map(|skip| base64(secret.as_bytes().get(skip..).unwrap_or_default()));
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let forms: Vec<String> = in_base64.chain([hex, secret.clone()]).collect();
    forms.iter().find_map(|form| {
        let pieces = (0..form.len().saturating_sub(PIECE - 1)).map(|at| &form[at..at + PIECE]);
        pieces.filter(|piece| texts.iter().any(|text| text.contains(piece))).map(str::to_owned).next()
    })
}

/// RFC 4648 section 4, without what the last characters depend on.
fn base64(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3).map(|group| u32::from_be_bytes([0, group[0], group[1], group[2]]));
    let symbols = groups.flat_map(|group| [18, 12, 6, 0].map(|shift| SYMBOLS[(group >> shift & 63) as usize]));
    symbols.map(char::from).collect()
}

#[test]
fn the_search_finds_what_it_is_for() {
    let bytes = format!("{:?}", &PASSWORD.as_bytes()[3..12]);
    let hex = PASSWORD.bytes().map(|byte| format!("{byte:x} ")).collect::<String>();
    for text in [&PASSWORD[2..9], "Xq7\n zKv9w", "Xq7\\nzKv9", &bytes, &hex, &base64(&PASSWORD.as_bytes()[1..])] {
        assert!(shows(&format!("a {text} b"), PASSWORD).is_some(), "{text}");
    }
    assert_eq!(shows("the password in [1, 2, 300] is not valid", PASSWORD), None);
}

/// A folder to run the program in.
struct Folder {
    directory: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), text).expect("writes");
        self.path(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(TOLLGATE);
        command.env_clear().env("HOME", self.directory.path()).env("LOGNAME", "tester");
        command.current_dir(self.directory.path()).stdin(Stdio::null()).args(arguments);
        command
    }

    /// Runs what must fail, and must not show the secret.
    #[track_caller]
    fn refused(&self, command: &mut Command, secret: &str) -> String {
        let output = command.output().expect("runs");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!output.status.success(), "{command:?}: {said}");
        assert!(said.trim().len() > 20, "{command:?} says why: {said}");
        assert_eq!(shows(&said, secret), None, "{command:?}: {said}");
        said
    }

    /// With this configuration, the program does not start, and does not show the secret.
    #[track_caller]
    fn bad_configuration(&self, toml: impl AsRef<[u8]>, secret: &str) -> String {
        let file = self.write("tollgate.toml", toml);
        self.refused(&mut self.command(&["check", "--config", &file]), secret)
    }
}

/// A private key, in files that are wrong in all the ways in which such files are.
fn mangled(key: &str) -> Vec<(&'static str, String)> {
    let body: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
    vec![
        ("no line breaks", key.replace('\n', "")),
        ("escaped line breaks", key.replace('\n', "\\n")),
        ("spaces", key.replace('\n', " ")),
        ("one line with a break after it", key.replace('\n', "") + "\n"),
        ("carriage returns only", key.replace('\n', "\r")),
        ("no end", key.split("-----END").next().expect("the beginning").to_owned()),
        ("a broken end", key.replace("-----END", "----END")),
        ("a broken beginning", key.replace("KEY-----\nMI", "KEY----\nMI")),
        ("the key behind its label", key.replacen("KEY-----\n", "KEY-----", 1)),
        ("not base64", key.replacen("MI", "M!I", 1)),
        ("quoted", format!("{key:?}")),
        ("in base64 once more", base64(key.as_bytes())),
        ("only the base64", body.clone()),
        ("cut", key.replace(&body[20..], &body[24..])),
        ("a certificate's label", key.replace("PRIVATE KEY", "CERTIFICATE")),
    ]
}

fn body(key: &str) -> String {
    key.lines().filter(|line| !line.starts_with("-----")).collect()
}

#[test]
fn a_private_key_that_cannot_be_read_is_not_repeated() {
    let (folder, authority) = (Folder::new(), Authority::create());
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let (certificate, key) = (certificate.display().to_string(), fs::read_to_string(key).expect("reads"));
    let secret = body(&key);
    for (at, (how, text)) in mangled(&key).into_iter().enumerate() {
        let file = folder.write("server.key", &text);
        let uses = format!(
            "[[listener]]\naddress = '127.0.0.1:1'\ntls.certificate = '{certificate}'\ntls.key = '{file}'\n\
             [[listener]]\naddress = '127.0.0.1:2'\ntls.certificate = '{file}'\ntls.key = '{file}'\n\
             [store]\nurl = 'rediss://h'\ncertificate = '{certificate}'\nkey = '{file}'\n\
             [upstream.api]\nurl = 'https://h'\ntls.ca = '{file}'\n\
             credential.mode = 'replace'\ncredential.token_file = '{file}'\n"
        );
        let said = folder.bad_configuration(&uses, &secret);
        assert!(said.contains("server.key"), "{how}: {said}");
        let config = folder.path("tollgate.toml").display().to_string();
        folder.refused(folder.command(&["serve"]).env("TOLLGATE_CONFIG", config), &secret);
        if at % 3 != 0 {
            continue;
        }
        // The key itself where its file should be named.
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\r', "\\r");
        for line in
            [format!("key = \"{quoted}\""), format!("key = '''{text}'''"), format!("key = {text}"), text.clone()]
        {
            let listener =
                format!("[[listener]]\naddress = '127.0.0.1:1'\n[listener.tls]\ncertificate = '{certificate}'\n");
            folder.bad_configuration(listener + &line, &secret);
        }
        let tls = format!("[{{ tls = {{ certificate = '{certificate}', key = \"{quoted}\" }} }}]");
        let mut command = folder.command(&["check"]);
        command.env("TOLLGATE_LISTENER", tls).env("TOLLGATE_STORE__PASSWORD_FILE", &text);
        folder.refused(command.env("TOLLGATE_STORE__URL", &text), &secret);
        if text.contains("-----BEGIN") {
            folder.refused(&mut folder.command(&["check", &text]), &secret);
        }
    }
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    let folder = Folder::new();
    let urls = [
        "redis://:PW",
        "redis://user:PW",
        "redis://user:PW/0",
        "redis:user:PW@h",
        "redis//user:PW@h",
        "redis://user:PW@",
        "PW",
        "user:PW@h",
        "redis://user:PW@h:0",
        "redis://user:PW@h:x",
        "redis://user:PW@h/x",
        "redis://user:PW@h?x",
        "redis://PW:x",
        "redis://h?password=PW",
        "redis://h#PW",
        "redis://user:PW%zz@h",
        "redis://user:PW/a@h:0",
        "redis://user:PW@a,b",
        "PW://h",
        "redis-sentinel://user:PW@h",
        "redis-cluster://user:PW@h/1",
        "redis-sentinel://h/PW!",
        "http://user:PW@h",
        "h:PW",
        "PW:h",
        "http://:PW",
        "http://h/PW",
        "http://h:PW",
        "http://user:PW",
        "sqlite:a?key=PW",
        "sqlite://user:PW@h?x",
        "redis://h/PW",
        "redis://[PW]",
        "redis://[::1]PW",
        "redis://h:1PW",
        "mysql://user:PW@h",
        "redis://user:PW@h h",
        "redis://h,:PW",
    ];
    for url in urls {
        let url = url.replace("PW", PASSWORD);
        let uses = format!(
            "listener = '{url}x x'\ntrusted_proxies = '{url}x x'\n[store]\nurl = '{url}'\n[upstream.api]\nurl = '{url}x x'\n\
             [upstream.heartbeat]\nurl = ['{url}']\n[admin]\naddress = '{url}'\n"
        );
        folder.bad_configuration(uses, PASSWORD);
        let mut command = folder.command(&["serve", "--store", &url, "--api-upstream", &format!("{url} x")]);
        command.args(["--listen", &url, "--admin-listen", &url]);
        folder.refused(command.env("TOLLGATE_UPSTREAM__HEARTBEAT__URL", format!("{url} x")), PASSWORD);
        if url.contains("://h/") {
            continue; // the name of a database, or of a primary, can be anything
        }
        folder.refused(&mut folder.command(&["token", "list", &format!("--store={url}")]), PASSWORD);
        folder.refused(folder.command(&["status"]).env("TOLLGATE_STORE__URL", &url), PASSWORD);
    }
    for url in ["redis://user:PW@h", "redis://:PW", "redis://user:PW", "redis://user:PW/0", "redis://h?password=PW"] {
        let url = url.replace("PW", PASSWORD);
        let misspelt = format!("--strore={url}");
        let forms = [
            &["serve", &url][..],
            &["serve", "--strore", &url],
            &["serve", &misspelt],
            &[&url],
            &["token", "list", "--limit", &url],
        ];
        for arguments in forms {
            folder.refused(&mut folder.command(arguments), PASSWORD);
        }
    }
}

#[test]
fn a_secret_in_the_wrong_place_of_the_configuration_is_not_repeated() {
    let folder = Folder::new();
    for secret in [PASSWORD, TOKEN] {
        for line in [
            "[store]\npassword = S",
            "[store]\npassword = 'S",
            "[store]\npassword = 'S'\npassword = 'S'",
            "S",
            "S = 1",
            "'S' = 1",
            "[S]",
            "[store.S]",
            "S.S = 1",
            "[store]\nS = S",
            "store = 'S",
            "store = \"S\\q\"",
            "store = {S",
            "[[S",
            "a = [S]",
            "[store]\nurl = 'redis://h'\npassword_file = 'S'",
            "[store]\npassword_file = S",
            "[store]\npassword = 1S",
            "[store]\nurl = 'redis-sentinel://h/m'\nsentinel_password_file = 'S'",
            "[store]\nurl = ['S']",
            "[store]\nurl = 2S",
            "[upstream.api.credential]\nmode = 'replace'\ntoken_file = 'S'",
            "[upstream.api.credential]\nmode = 'S S'",
            "[upstream.api]\ntoken = 'S'",
            "[upstream.api.credential]\nmode = 'replace'\ntoken = 'S'",
            "[upstream.api]\nurl = 'S'",
            "[freshness.per_permission]\n'S' = '5s'",
            "[freshness.per_permission]\n'S:read' = '5s'",
            "[log]\nfilter = 'x=S'",
            "[[route]]\nmethods = ['GET']\npath = '/a'\npermission = 'S'",
            "[[route]]\nmethods = ['GET']\npath = '/a'\npermission = 'S:read'",
        ] {
            folder.bad_configuration(line.replace('S', secret), secret);
        }
        folder.bad_configuration([b"a = '", secret.as_bytes(), b"\xff'"].concat(), secret);
        for name in ["STORE__PASSWORD_FILE", "STORE__URL", "UPSTREAM__API__URL", "LISTENER"] {
            let variable = format!("TOLLGATE_{name}");
            let url = ("TOLLGATE_STORE__URL", "redis://h");
            folder.refused(folder.command(&["check"]).envs([url]).env(&variable, secret), secret);
            folder
                .refused(folder.command(&["check"]).envs([url]).env(&variable, format!("[{{ x = '{secret}' ")), secret);
        }
        folder.refused(folder.command(&["check"]).env("TOLLGATE_STORE__PASSWORD", secret), secret);
    }
    folder.refused(&mut folder.command(&["token", "show", TOKEN]), TOKEN);
}

#[test]
fn a_credential_file_that_cannot_be_used_is_not_repeated() {
    let folder = Folder::new();
    let texts =
        [format!("Bearer {TOKEN}"), format!("{TOKEN} {TOKEN}"), format!("{TOKEN}\u{e9}"), format!("{TOKEN}\n{TOKEN}")];
    for text in texts {
        let file = folder.write("service-token", &text);
        let toml = format!("[upstream.api.credential]\nmode = 'replace'\ntoken_file = '{file}'\n");
        assert!(folder.bad_configuration(toml, TOKEN).contains("service-token"));
    }
    let file = folder.write("password", [PASSWORD.as_bytes(), b"\xff"].concat());
    let said = folder.bad_configuration(format!("[store]\nurl = 'redis://h'\npassword_file = '{file}'\n"), PASSWORD);
    assert!(said.contains("is not text"), "{said}");
}

#[test]
fn lines_of_an_import_are_not_repeated() {
    let folder = Folder::new();
    let store = ["--store", "sqlite:t.db"];
    assert!(folder.command(&store).arg("init").output().expect("runs").status.success());
    for secret in [TOKEN, PASSWORD] {
        let lines = [
            "S",
            "{S",
            "{\"S",
            "{\"S\"",
            "{\"S\": 1}",
            "[\"S\"]",
            "\"S\"",
            "{\"token\": S}",
            "{\"token\": \"S",
            "{\"token\": [\"S\"]}",
            "{\"token\": {\"S\": 1}}",
            "{\"token\": \"S\" \"S\"}",
            "{\"token\": \"S\\q\"}",
            "{\"token\": \"S\", \"token\": \"S\"}",
            "{\"digest\": \"S\"}",
            "{\"user\": [\"S\"]}",
            "{\"user\": {\"S\": \"S\"}}",
            "{\"permissions\": \"S\"}",
            "{\"digest\": [\"S\"]}",
            "{\"token\": \" S\", \"user\": \"owner\", \"description\": \"x\"}",
            "{\"expires_at\": {\"S\": 1}}",
            "{\"token\": \"S\", \"user\": \"owner\", \"description\": \"x\", \"permissions\": [\"S\", \"S:read\", \"configs:S\"]}",
            "{\"token\": \"S S\", \"user\": \"owner\", \"description\": \"x\", \"expires_at\": \"S\"}",
            "{\"description\": {\"a, expected S\": 1}}",
            "{\"unknown field `, expected S\": 1}",
            "{\"S`, expected a\": 1}",
        ];
        let text = lines.map(|line| line.replace('S', secret)).join("\n");
        let file = folder.write("tokens.jsonl", &text);
        let all = format!("{} of {} lines", lines.len(), lines.len());
        for more in [&["--json"][..], &["--keep-going"]] {
            let arguments = [&store[..], &["token", "import", &file], more].concat();
            let said = folder.refused(&mut folder.command(&arguments), secret);
            assert!(said.contains(&all), "{said}");
        }
        let mut command = folder.command(&[&store[..], &["token", "import"]].concat());
        command.stdin(fs::File::open(&file).expect("opens"));
        let said = folder.refused(&mut command, secret);
        assert!(said.contains(&all), "{said}");
    }
}

/// What has the form of a secret is one, whatever it stands in for.
#[test]
fn a_token_without_its_prefix_is_not_repeated_as_a_name() {
    let folder = Folder::new();
    let store = ["--store", "sqlite:t.db"];
    assert!(folder.command(&store).arg("init").output().expect("runs").status.success());
    let secret = "0123456789abcdef".repeat(4);
    let line = format!(r#"{{"digest":"{}","user":"{secret}","description":"x","permissions":[]}}"#, "ab".repeat(32));
    let file = folder.write("tokens.jsonl", &line);
    for more in [&["--json"][..], &[]] {
        folder.refused(&mut folder.command(&[&store[..], &["token", "import", &file], more].concat()), &secret);
    }
    folder.refused(&mut folder.command(&[&store[..], &["user", "show", &secret]].concat()), &secret);
}

#[tokio::test]
async fn files_that_were_damaged_later_are_not_repeated_in_the_log() {
    let authority = Authority::create();
    let (certificate, key) = authority.issue("server", &["localhost"]);
    let (certificate, text) = (certificate.display().to_string(), fs::read_to_string(&key).expect("reads"));
    let token_file = authority.path("service-token");
    fs::write(&token_file, TOKEN).expect("writes");
    let tls = format!("[{{ tls = {{ certificate = '{certificate}', key = '{}' }} }}]", key.display());
    let (api, heartbeat) = (Upstream::start().await, Upstream::start().await);
    let variables = [
        ("LISTENER", tls.as_str()),
        ("UPSTREAM__API__CREDENTIAL__MODE", "replace"),
        ("UPSTREAM__API__CREDENTIAL__TOKEN_FILE", token_file.to_str().expect("plain")),
    ];
    let program = Program::start(&api, &heartbeat, &variables);
    for (at, (how, damaged)) in mangled(&text).into_iter().take(3).enumerate() {
        let token = format!("{TOKEN} {}{TOKEN}", "x".repeat(at));
        for (file, damaged) in [(&key, damaged), (&token_file, token)] {
            replace(file, &damaged);
            let name = file.file_name().and_then(|name| name.to_str()).expect("plain");
            let is_failure = |line: &String| line.contains("cannot be used") && line.contains(name);
            let failures = || program.log().into_iter().filter(is_failure).count();
            eventually(&format!("{name} is found unusable, {how}"), || async { failures() > at }).await;
        }
        let log = program.log().join("\n");
        for secret in [body(&text).as_str(), TOKEN] {
            assert_eq!(shows(&log, secret), None, "{how}: {log}");
        }
    }
}

/// Writes a file in one step: who looks at it sees it before or after, and once.
fn replace(file: &Path, text: &str) {
    let next = file.with_extension("next");
    fs::write(&next, text).expect("writes");
    fs::rename(&next, file).expect("renames");
}

/// A Redis of old, or something else that repeats what it does not understand, and with it the password.
#[test]
fn what_a_server_repeats_of_a_password_is_not_repeated() {
    let folder = Folder::new();
    let file = folder.write("password", PASSWORD);
    for answer in [
        "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `user`, `PW`, \r\n",
        "-ERR unknown command 'AUTH', with args beginning with: 'user' 'PW' \r\n",
        "-ERR HELLO 3 AUTH user PW\r\n",
        "-PW is no password\r\n",
        "!21\r\nSYNTAX HELLO PW is it\r\n",
        "HELLO 3 AUTH user PW\r\n",
    ] {
        let answer = answer.replace("PW", PASSWORD);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        // Ends with the process: nobody connects after the command has ended.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                std::thread::spawn(move || {
                    let mut connection = connection;
                    let mut buffer = [0; 4096];
                    while connection.read(&mut buffer).is_ok_and(|read| read > 0) {
                        if connection.write_all(answer.as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let mut command = folder.command(&["status"]);
        command.env("TOLLGATE_STORE__URL", format!("redis://user@{address}"));
        command.env("TOLLGATE_STORE__PASSWORD_FILE", &file);
        folder.refused(&mut command, PASSWORD);
    }
}
