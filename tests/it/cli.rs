//! The command line as scripts and people see it: the real binary, a SQLite store in a temporary folder.

mod audit;
mod find;
mod moving;
mod own_value;
mod rotation;
mod selections;
mod surprises;
mod taking;
mod twice;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");

/// A folder with a store of its own.
struct Folder {
    directory: TempDir,
}

/// How a command finished.
#[derive(Debug)]
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Finished {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Standard output of a command that did what it should.
    #[track_caller]
    fn done(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// Standard error of a command that failed, and printed nothing else.
    #[track_caller]
    fn failed(&self) -> &str {
        assert_eq!((self.code, self.stdout.as_str()), (Some(1), ""), "{self:?}");
        assert!(self.stderr.starts_with("tollgate: ") || self.stderr.contains("\ntollgate: "), "{self:?}");
        &self.stderr
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Folder {
    /// Without a store yet.
    fn empty() -> Self {
        Self { directory: tempfile::tempdir().expect("a folder") }
    }

    /// With the owner, an administrator and a manager.
    fn new() -> Self {
        let folder = Self::empty();
        folder.run(["init"]).done();
        folder.run(["user", "add", "anna", "--role", "administrator"]).done();
        folder.run(["user", "add", "max", "--role", "manager"]).done();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A program that sees nothing of the environment the tests run in.
    fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LOGNAME", "tester").env("HOME", self.directory.path()).env("TERM", "xterm");
        command.env("PATH", "/usr/bin:/bin").current_dir(self.directory.path()).stdin(Stdio::null());
        command
    }

    fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.program(TOLLGATE);
        command.args(["--store", "sqlite:tollgate.db"]).args(arguments);
        command
    }

    /// Runs a command that has to find the store by itself.
    fn run_without_store<'a>(
        &self,
        variables: &[(&str, &str)],
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Finished {
        let mut command = self.program(TOLLGATE);
        command.envs(variables.iter().copied()).args(arguments).output().expect("runs").into()
    }

    fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        self.command(arguments).output().expect("runs").into()
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Finished {
        self.run_anywhere(&[&["--store", "sqlite:tollgate.db"], arguments].concat(), input)
    }

    /// A command that names its store.
    fn run_anywhere(&self, arguments: &[&str], input: &str) -> Finished {
        let mut command = self.program(TOLLGATE);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("runs");
        let mut stdin = child.stdin.take().expect("piped");
        std::thread::scope(|scope| {
            // A command that has read enough closes its end.
            scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
            child.wait_with_output().expect("ends").into()
        })
    }

    /// Runs a command on a terminal, with these keys typed. `None` where there is no `script` to make a terminal.
    fn run_on_terminal(&self, arguments: &str, keys: &str) -> Option<Finished> {
        let line = format!("'{TOLLGATE}' --store sqlite:tollgate.db {arguments}");
        let mut command = self.program("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take().expect("piped").write_all(keys.as_bytes()).expect("types");
        Some(child.wait_with_output().expect("ends").into())
    }

    /// A token's id.
    fn create(&self, user: &str, description: &str) -> String {
        let created = self.run(["token", "create", "--user", user, "--description", description, "--json"]).json();
        text(&created["id"]).to_owned()
    }

    fn state_of(&self, id: &str) -> String {
        text(&self.run(["token", "show", id, "--json"]).json()["state"]).to_owned()
    }

    fn descriptions<'a>(&self, options: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let list = self.run(["token", "list", "--json"].into_iter().chain(options)).json();
        let list = list.as_array().expect("an array");
        list.iter().map(|token| text(&token["description"]).to_owned()).collect()
    }
}

#[track_caller]
fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[track_caller]
fn text_of(value: &Value, field: &str) -> String {
    text(&value[field]).to_owned()
}

/// Whether any file below this folder has these bytes in it.
fn is_on_disk(folder: &Path, needle: &str) -> bool {
    let holds =
        |path: PathBuf| fs::read(path).expect("reads").windows(needle.len()).any(|part| part == needle.as_bytes());
    fs::read_dir(folder).expect("reads").any(|entry| holds(entry.expect("reads").path()))
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

const TOKEN_KEYS: [&str; 16] = [
    "created_at",
    "created_by",
    "description",
    "digest_prefix",
    "expired",
    "expires_at",
    "hint",
    "id",
    "last_used_at",
    "permissions",
    "predecessor",
    "revoked_at",
    "revoked_by",
    "state",
    "successor",
    "user",
];

#[test]
fn init_prints_the_owners_token_alone_and_only_once() {
    let folder = Folder::empty();
    let first = folder.run(["init", "--owner", "olga"]);
    let token = first.done().strip_suffix('\n').expect("a line");
    assert!(token.parse::<tollgate::token::RawToken>().is_ok());
    assert_eq!(first.stderr, "");
    assert!(!is_on_disk(folder.directory.path(), token));
    assert!(is_on_disk(folder.directory.path(), "olga"), "the search finds what is there");

    let second = folder.run(["init"]);
    assert!(second.failed().contains("has an Owner already"));
    assert_eq!(folder.run(["user", "list", "--json"]).json().as_array().map(Vec::len), Some(1));
}

#[test]
fn created_tokens_are_printed_alone_or_with_their_record() {
    let folder = Folder::new();
    let plain = folder.run(["token", "create", "--user", "max", "--description", "a", "--permission", "labels:read"]);
    assert!(plain.done().trim_end().parse::<tollgate::token::RawToken>().is_ok());
    assert_eq!(plain.stderr, "");

    let options = ["--preset", "telegraf-agent", "--expires", "30d", "--json"];
    let created = ["token", "create", "--user", "max", "--description", "plant 7"].into_iter().chain(options);
    let created = folder.run(created).json();
    let token = text(&created["token"]);
    assert!(token.ends_with(text(&created["hint"])) && token.parse::<tollgate::token::RawToken>().is_ok());
    let mut expected = TOKEN_KEYS.to_vec();
    expected.extend(["token", "controller"]);
    expected.sort_unstable();
    assert_eq!(keys(&created), expected);
    assert_eq!(created["permissions"], json!(["configs:read", "heartbeat:write"]));
    assert_eq!((&created["user"], &created["created_by"]), (&json!("max"), &json!("cli:tester")));
    let time = |key: &str| text(&created[key]).parse::<jiff::Timestamp>().expect("a time").as_second();
    assert_eq!(time("expires_at") - time("created_at"), 30 * 86_400);

    let list = folder.run(["token", "list", "--json"]);
    let mut expected = TOKEN_KEYS.to_vec();
    expected.push("usage");
    expected.sort_unstable();
    assert_eq!(keys(&list.json()[0]), expected);
    assert!(!list.stdout.contains(token) && !is_on_disk(folder.directory.path(), token));
}

#[test]
fn permissions_the_role_lacks_are_left_out_and_named() {
    let folder = Folder::new();
    let requested = ["--permission", "configs:read,users:read", "--permission", "license:read"];
    let arguments = ["token", "create", "--user", "max", "--description", "a"].into_iter().chain(requested);
    let created = folder.run(arguments);
    assert_eq!(created.done().lines().count(), 1);
    assert_eq!(created.stderr, "left out, because the role manager does not permit it: users:read, license:read\n");
    assert_eq!(folder.run(["token", "list", "--json"]).json()[0]["permissions"], json!(["configs:read"]));

    let arguments = ["token", "create", "--user", "max", "--description", "a", "--permission", "users:read"];
    assert!(folder.run(arguments).failed().contains("none of the requested permissions"));
}

#[test]
fn lists_are_newest_first_and_cut_by_state_user_limit_and_cursor() {
    let folder = Folder::new();
    let [a, b] = ["a", "b"].map(|description| folder.create("max", description));
    folder.create("anna", "c");
    folder.run(["token", "revoke", &a]).done();
    let expiring = ["token", "create", "--user", "max", "--description", "d", "--expires", "1s"];
    folder.run(expiring).done();
    let expires = jiff::Timestamp::now().as_second() + 1;
    while jiff::Timestamp::now().as_second() <= expires {
        std::thread::yield_now(); // only the clock can make it expire
    }

    let owners = folder.descriptions(["--user", "owner"]);
    let owners = owners.first().map(String::as_str).expect("the owner's token");
    assert_eq!(folder.descriptions([]), ["d", "c", "b", "a", owners]);
    assert_eq!(folder.descriptions(["--user", "max"]), ["d", "b", "a"]);
    assert_eq!(folder.descriptions(["--state", "active"]), ["c", "b", owners]);
    assert_eq!(folder.descriptions(["--state", "revoked"]), ["a"]);
    assert_eq!(folder.descriptions(["--state", "expired", "--user", "max"]), ["d"]);
    assert_eq!(folder.descriptions(["--limit", "2"]), ["d", "c"]);
    assert_eq!(folder.descriptions(["--limit", "1", "--after", &b]), ["a"]);

    let table = folder.run(["token", "list", "--limit", "2"]);
    let rows: Vec<_> = table.done().lines().collect();
    assert!(rows[0].starts_with("ID") && rows[0].ends_with("DIGEST"), "{table:?}");
    assert!(rows[1].contains("expired") && rows[1].contains("all of manager"), "{table:?}");
    assert!(rows[2].contains("anna") && rows.len() == 3, "{table:?}");
    assert!(table.stderr.starts_with("more records follow: --after "), "{table:?}");
    assert!(!table.stdout.contains('\x1b'), "colour is for terminals");
    assert_eq!(folder.run(["token", "list", "--limit", "5"]).stderr, "");
    assert_eq!(folder.run(["token", "list", "--limit", "500"]).stderr, "");
}

#[test]
fn an_empty_list_is_an_empty_array_or_a_sentence() {
    let folder = Folder::new();
    let empty = folder.run(["token", "list", "--user", "max"]);
    assert_eq!((empty.done(), empty.stderr.as_str()), ("", "no matching tokens\n"));
    assert_eq!(folder.run(["token", "list", "--user", "max", "--json"]).done(), "[]\n");
}

#[test]
fn one_token_is_revoked_without_asking_and_for_good() {
    let folder = Folder::new();
    let id = folder.create("max", "a");
    let revoked = folder.run(["token", "revoke", &id, "--json"]).json();
    assert_eq!((&revoked[0]["state"], &revoked[0]["revoked_by"]), (&json!("revoked"), &json!("cli:tester")));
    assert_eq!(folder.run(["token", "revoke", &id]).code, Some(0), "what is revoked already is no failure");
    assert!(folder.run(["token", "reassign", &id, "--to", "anna"]).failed().contains("revocation is final"));

    let shown = folder.run(["token", "show", &id]);
    for part in ["revoked", "by cli:tester", "tc-apiv1_...", "created", "configs:read", "max (manager, active)"] {
        assert!(shown.done().contains(part), "{part}: {shown:?}");
    }
    let history = &folder.run(["token", "show", &id, "--json"]).json()["history"];
    assert_eq!((&history[0]["event"], &history[1]["event"]), (&json!("created"), &json!("revoked")));
}

#[test]
fn without_sidecars_there_is_no_receipt() {
    let folder = Folder::new();
    let (a, b) = (folder.create("max", "a"), folder.create("max", "b"));
    let finished = folder.run(["token", "revoke", &a, "--wait", "--timeout", "50ms"]);
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(1), format!("revoked {a}: a (max)\n").as_str()));
    assert!(finished.stderr.contains("no sidecar reports to this store"), "{finished:?}");
    let finished = folder.run(["token", "revoke", &a, &b, "--yes", "--wait", "--timeout", "50ms", "--json"]);
    let said: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert_eq!((finished.code, said["tokens"].as_array().map(Vec::len)), (Some(1), Some(2)));
    assert_eq!((&said["wait"]["sidecars"], &said["wait"]["slowest"]), (&json!(0), &Value::Null));
    assert!(folder.run(["status"]).done().contains("none report to this store"));
}

#[test]
fn several_tokens_need_a_yes() {
    let folder = Folder::new();
    let ids = ["a", "b", "c"].map(|description| folder.create("max", description));
    let [a, b, c] = ids.each_ref().map(String::as_str);
    for command in [
        vec!["token", "revoke", a, b, c],
        vec!["token", "delete", a, b, c],
        vec!["token", "reassign", a, b, c, "--to", "anna"],
    ] {
        let refused = folder.run(command);
        assert!(refused.failed().contains("3 tokens") && refused.stderr.contains("--yes"), "{refused:?}");
    }
    assert_eq!(folder.descriptions(["--user", "max", "--state", "active"]), ["c", "b", "a"]);

    let given = folder.run(["token", "reassign", a, b, "--to", "anna", "--yes", "--json"]).json();
    assert_eq!((&given[0]["user"], &given[1]["id"]), (&json!("anna"), &json!(b)));
    let revoked = folder.run(["token", "revoke", a, b, "--yes"]);
    assert_eq!(revoked.done().lines().filter(|line| line.starts_with("revoked")).count(), 2, "{revoked:?}");
    let deleted = folder.run(["token", "delete", a, c, "--yes", "--json"]).json();
    assert_eq!((&deleted[0]["state"], &deleted[1]["state"]), (&json!("revoked"), &json!("active")));
    assert!(folder.run(["token", "show", c]).failed().contains("there is no token"));
    assert_eq!(folder.descriptions(["--user", "max"]), Vec::<String>::new());
}

#[test]
fn what_was_revoked_long_ago_is_purged_by_its_count() {
    let folder = Folder::new();
    let [a, b] = ["a", "b"].map(|description| folder.create("max", description));
    folder.create("max", "c");
    folder.run(["token", "revoke", &a, &b, "--yes"]).done();
    let which = folder.run(["token", "purge", "--yes"]);
    assert_eq!(which.code, Some(2), "it is said what to delete");
    assert!(which.stderr.contains("--expired-for <DURATION>|--revoked-for <DURATION>"), "{which:?}");
    let old = ["token", "purge", "--expired-for", "90d", "--revoked-for", "1y"];
    assert_eq!(folder.run(old).done(), "deleted 0 tokens\n", "there is nothing to ask about");
    let all = ["token", "purge", "--revoked-for", "0s"];
    let found = folder.run([&all[..], &["--dry-run"]].concat());
    assert_eq!(found.done(), "2 tokens to delete (2 revoked)\n");
    let found = folder.run([&all[..], &["--dry-run", "--json"]].concat()).json();
    assert_eq!(found, json!({ "expired": 0, "revoked": 2, "dry_run": true }));
    let refused = folder.run(all);
    assert!(
        refused.failed().contains("Delete 2 tokens (2 revoked)?") && refused.stderr.contains("--yes"),
        "{refused:?}"
    );
    assert_eq!(folder.descriptions(["--user", "max"]), ["c", "b", "a"]);

    let waited = folder.run([&all[..], &["--yes", "--wait", "--timeout", "50ms", "--json"]].concat());
    let said: Value = serde_json::from_str(&waited.stdout).expect("JSON");
    assert_eq!((waited.code, &said["revoked"], &said["wait"]["sidecars"]), (Some(1), &json!(2), &json!(0)));
    assert_eq!(folder.descriptions(["--user", "max"]), ["c"]);
    let nothing = folder.run([&all[..], &["--yes", "--wait", "--json"]].concat()).json();
    assert_eq!(nothing, json!({ "expired": 0, "revoked": 0, "dry_run": false }), "needs no receipt");
}

#[test]
fn a_selection_with_a_wrong_id_changes_nothing() {
    let folder = Folder::new();
    let id = folder.create("max", "a");
    let unknown = folder.run(["token", "revoke", &id, "0000000000001", "--yes"]);
    assert!(unknown.failed().contains("there is no token 0000000000001"));

    assert_eq!(folder.state_of(&id), "active");
}

#[test]
fn on_a_terminal_the_question_is_answered_there() {
    let folder = Folder::new();
    let [a, b] = ["a", "b"].map(|description| folder.create("max", description));
    let Some(declined) = folder.run_on_terminal(&format!("token revoke {a} {b}"), "n\n") else { return };
    let question = "Revoke 2 tokens? They stop working at once and this cannot be undone. [y/N]";
    assert!(declined.stdout.contains(question) && declined.stdout.contains("nothing was changed"), "{declined:?}");
    assert_eq!((declined.code, folder.state_of(&a).as_str()), (Some(1), "active"), "{declined:?}");

    let confirmed = folder.run_on_terminal(&format!("token revoke {a} {b}"), "y\n").expect("a terminal");
    assert_eq!((confirmed.code, folder.state_of(&a).as_str()), (Some(0), "revoked"), "{confirmed:?}");
    let list = folder.run_on_terminal("token list", "").expect("a terminal");
    assert!(list.stdout.contains("\x1b[31mrevoked\x1b[0m"), "{list:?}");
}

#[test]
fn the_owner_keeps_a_token_unless_forced() {
    let folder = Folder::new();
    let id = text(&folder.run(["token", "list", "--user", "owner", "--json"]).json()[0]["id"]).to_owned();
    for command in ["revoke", "delete"] {
        assert!(folder.run(["token", command, &id]).failed().contains("--force"));
    }
    assert!(folder.run(["token", "reassign", &id, "--to", "anna"]).failed().contains("--force"));
    folder.run(["token", "revoke", &id, "--force"]).done();
}

#[test]
fn users_are_added_changed_and_deleted() {
    let folder = Folder::new();
    let added = folder.run(["user", "add", "vera", "--role", "Viewer", "--json"]).json();
    assert_eq!(keys(&added), ["created_at", "id", "name", "role", "status"]);
    assert_eq!((&added["role"], &added["status"]), (&json!("viewer"), &json!("active")));
    let listed = folder.run(["user", "list", "--json", "--limit", "2"]).json();
    assert_eq!((&listed[0]["name"], &listed[1]["name"], &listed[2]), (&json!("vera"), &json!("max"), &Value::Null));

    let id = folder.create("max", "a");
    folder.run(["user", "disable", "max", "--yes"]).done();
    assert!(folder.run(["token", "list", "--user", "max"]).done().contains("user disabled"));
    assert!(folder.run(["user", "show", "max"]).done().contains("disabled"));
    assert_eq!(folder.run(["user", "enable", "max", "--json"]).json()["status"], "active");
    assert_eq!(
        folder.run(["user", "set-role", "max", "viewer", "--yes"]).done(),
        "max is viewer now; 1 token revoked\n"
    );
    assert_eq!(folder.state_of(&id), "revoked");

    let refused = folder.run(["user", "delete", "max"]);
    assert!(refused.failed().contains("Delete max and 1 token"), "{refused:?}");
    folder.run(["user", "delete", "max", "--yes"]).done();
    assert!(folder.run(["user", "show", "max"]).failed().contains("there is no user `max`"));
    assert!(folder.run(["token", "show", &id]).failed().contains("there is no token"));
}

#[test]
fn ownership_moves_to_an_administrator_only() {
    let folder = Folder::new();
    assert!(folder.run(["user", "transfer-ownership", "anna"]).failed().contains("Make anna the owner?"));
    assert!(folder.run(["user", "transfer-ownership", "max", "--yes"]).failed().contains("Administrator"));
    let moved = folder.run(["user", "transfer-ownership", "anna", "--yes"]);
    assert_eq!(moved.done(), "anna is the owner now, and owner an administrator; 1 token of owner lost permissions\n");
    assert_eq!(folder.run(["user", "show", "owner", "--json"]).json()["role"], "administrator");
    assert!(folder.run(["user", "delete", "anna", "--yes"]).failed().contains("is the Owner"));
}

#[test]
fn what_does_not_exist_is_named_with_the_way_out() {
    let folder = Folder::new();
    for (arguments, part) in [
        (vec!["user", "show", "ana"], "there is no user `ana`; `tollgate user list`"),
        (vec!["token", "list", "--user", "ana"], "there is no user `ana`"),
        (vec!["token", "create", "--user", "ana", "--description", "x"], "there is no user `ana`"),
        (vec!["token", "show", "0000000000001"], "there is no token 0000000000001; `tollgate token list`"),
        (vec!["user", "add", "anna", "--role", "viewer"], "exists already"),
        (vec!["user", "add", "a b", "--role", "viewer"], "is not a user name"),
        (vec!["user", "add", "otto", "--role", "owner"], "exactly one Owner"),
        (vec!["token", "create", "--user", "max", "--description", ""], "a description has 1 to 200 characters"),
        (vec!["token", "create", "--user", "max", "--description", "x", "--expires", "2001-01-01T00:00:00Z"], "past"),
        (vec!["token", "import", "missing.jsonl"], "reading missing.jsonl: No such file"),
        (vec!["user", "list", "--store", "sqlite:typo.db"], "typo.db does not exist: run `tollgate init`"),
    ] {
        let finished = folder.run(arguments);
        assert!(finished.failed().contains(part), "{part}: {finished:?}");
    }
    assert!(!folder.path("typo.db").exists());
}

#[test]
fn usage_errors_exit_with_2_and_repeat_no_secret() {
    let folder = Folder::new();
    for arguments in [
        vec!["user", "list", "--store", "mysql://root:secret@host/db"],
        vec!["user", "list", "--store", "secret"],
        vec!["token", "create", "--user", "max", "--description", "x", "--expires", "9999999d"],
        vec!["token", "show", "tc-apiv1_secretsecretsecret"],
        vec!["token", "list", "--frob"],
        vec!["frob"],
    ] {
        let finished = folder.run(arguments.iter().copied());
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{arguments:?}: {finished:?}");
        let is_scheme = arguments.contains(&"secret"); // without a colon all of it is the scheme
        assert!(is_scheme || !finished.stderr.contains("secret"), "{finished:?}");
    }
    let version = folder.run(["--version"]);
    assert_eq!(version.done(), concat!("tollgate ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(folder.run(["token", "create", "--help"]).done().contains("Examples:"));
}

#[test]
fn who_called_sudo_is_recorded() {
    let folder = Folder::new();
    let mut command = folder.command(["token", "create", "--user", "max", "--description", "a", "--json"]);
    let finished = Finished::from(command.env("SUDO_USER", "olga").output().expect("runs"));
    assert_eq!(finished.json()["created_by"], "cli:olga");
    let mut command = folder.command(["token", "create", "--user", "max", "--description", "a", "--json"]);
    let finished = Finished::from(command.env_remove("LOGNAME").output().expect("runs"));
    let own = std::process::Command::new("id").arg("-un").output().expect("id is there").stdout;
    let own = String::from_utf8(own).expect("text");
    assert_eq!(finished.json()["created_by"], format!("cli:{}", own.trim()), "as the password database has it");
}

#[test]
fn a_new_token_that_nobody_saw_is_a_failure() {
    let folder = Folder::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = folder.command(["token", "create", "--user", "max", "--description", "a"]);
    let finished = Finished::from(command.stdout(writer).stderr(Stdio::piped()).output().expect("runs"));
    let id = text(&folder.run(["token", "list", "--json"]).json()[0]["id"]).to_owned();
    assert!(
        finished.failed().contains(&format!("the token {id} was created, but could not be printed")),
        "{finished:?}"
    );
}

/// Whoever reads only the beginning, or nothing, of what is printed does not turn a failure into success.
#[test]
fn a_receipt_that_is_none_is_a_failure_also_for_who_does_not_read() {
    let folder = Folder::new();
    for form in [&[][..], &["--json"]] {
        let id = folder.create("max", "a");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let line = ["token", "revoke", id.as_str(), "--yes", "--wait", "--timeout", "50ms"];
        let mut command = folder.command(line.iter().chain(form).copied());
        let finished = Finished::from(command.stdout(writer).stderr(Stdio::piped()).output().expect("runs"));
        assert!(finished.failed().contains("no sidecar reports to this store"), "{finished:?}");
    }
}

/// A change that was made is not taken for one that was not, because of a full disk behind standard output.
#[test]
fn what_was_done_is_said_where_it_cannot_be_written() {
    let folder = Folder::new();
    let id = folder.create("max", "a");
    let lines: [(&[&str], &str); 3] = [
        (&["user", "add", "bob", "--role", "manager"], "added bob"),
        (&["token", "revoke", &id, "--yes"], "revoked "),
        (&["user", "delete", "bob", "--yes"], "deleted bob"),
    ];
    for (line, done) in lines {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
        let finished = Finished::from(
            folder.command(line.iter().copied()).stdout(full).stderr(Stdio::piped()).output().expect("runs"),
        );
        let said = finished.failed();
        assert!(
            said.contains(done) && said.contains("the change was made, but the result could not be written"),
            "{finished:?}"
        );
    }
    assert_eq!(folder.run(["token", "show", &id, "--json"]).json()["state"], "revoked");
}

#[test]
fn the_store_is_found_in_the_configuration_or_the_state_directory() {
    let folder = Folder::empty();
    fs::write(folder.path("t.toml"), "[store]\nurl = \"sqlite:file.db\"\n").expect("writes");
    for (variables, options, database) in [
        (vec![], vec![], ".local/state/tollgate/tollgate.db"),
        (vec![("STATE_DIRECTORY", "state")], vec![], "state/tollgate.db"),
        (vec![("STATE_DIRECTORY", "unused")], vec!["--config", "t.toml"], "file.db"),
        (vec![("TOLLGATE_STORE__URL", "sqlite:variable.db")], vec!["--config", "t.toml"], "variable.db"),
        (vec![("TOLLGATE_CONFIG", "missing.toml")], vec!["--store", "sqlite:flag.db"], "flag.db"),
    ] {
        let finished = folder.run_without_store(&variables, options.into_iter().chain(["init"]));
        finished.done();
        assert!(folder.path(database).exists(), "{database}: {finished:?}");
    }
    let refused = folder.run_without_store(&[("TOLLGATE_CONFIG", "missing.toml")], ["user", "list"]);
    assert!(refused.failed().contains("missing.toml"), "{refused:?}");
}

#[test]
fn check_prints_a_configuration_that_means_the_same() {
    let folder = Folder::empty();
    let first = folder.run(["check", "--listen", "127.0.0.1:1234", "--api-upstream", "http://c.example:8888"]);
    assert!(first.done().contains("127.0.0.1:1234") && first.stdout.contains("http://c.example:8888"), "{first:?}");
    fs::write(folder.path("t.toml"), first.done()).expect("writes");
    assert_eq!(folder.run(["check", "--config", "t.toml"]).done(), first.done());

    let mistyped = folder.run(["check", "--listen", "localhost"]);
    assert_eq!((mistyped.code, mistyped.stdout.as_str()), (Some(2), ""), "{mistyped:?}");
    fs::write(folder.path("t.toml"), "\n[[listener]]\nadress = \"127.0.0.1:1\"\n").expect("writes");
    for command in ["check", "serve"] {
        let wrong = folder.run([command, "--config", "t.toml"]);
        assert!(wrong.failed().contains("t.toml:3:1: ") && wrong.stderr.contains("address"), "{wrong:?}");
    }
}

#[test]
fn serve_runs_until_a_signal() {
    let folder = Folder::new();
    let mut command = folder.command(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("ready")), "the log finished before it was ready");
    let stop = folder.program("kill").arg(child.id().to_string()).status().expect("runs");
    assert!(stop.success());
    let rest: Vec<_> = log.collect();
    let finished = Finished::from(child.wait_with_output().expect("ends"));
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(0), ""), "{rest:?}");
}

#[test]
fn dev_refuses_a_store() {
    let refused = Folder::new().run(["dev"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
}
