//! What commands say of what nobody asked for, or might not expect.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use super::{Finished, Folder, TOLLGATE, text};

const CREATE: [&str; 6] = ["token", "create", "--user", "max", "--description", "a"];

#[test]
fn what_a_token_got_that_nobody_named_is_said_with_its_end() {
    let folder = Folder::new();
    let created = folder.run(CREATE);
    assert!(created.done().starts_with("tc-apiv1_") && created.done().lines().count() == 1);
    for said in ["all that the role manager permits", "permissions)", "it expires: never", "--preset telegraf-agent"] {
        assert!(created.stderr.contains(said), "{said}: {created:?}");
    }
    let created = folder.run(CREATE.into_iter().chain(["--expires", "30d", "--json"]));
    created.json();
    assert!(created.stderr.contains("it expires: in 30 d (") || created.stderr.contains("in 29 d ("), "{created:?}");
    let named = folder.run(CREATE.into_iter().chain(["--preset", "telegraf-agent"]));
    assert_eq!((named.done().lines().count(), named.stderr.as_str()), (1, ""));
}

#[test]
fn a_date_is_the_end_of_that_day() {
    let folder = Folder::new();
    let created = folder.run(CREATE.into_iter().chain(["--expires", "2099-12-31", "--json"])).json();
    assert_eq!(created["expires_at"], "2100-01-01T00:00:00Z");
}

#[test]
fn a_new_token_that_cannot_be_seen_is_said_with_how_to_revoke_it() {
    let folder = Folder::new();
    let newest = || text(&folder.run(["token", "list", "--json"]).json()[0]["id"]).to_owned();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("opens");
    let finished = Finished::from(folder.command(CREATE).stdout(full).stderr(Stdio::piped()).output().expect("runs"));
    let remedy = format!("tollgate token revoke {}", newest());
    assert!(finished.failed().contains(&remedy), "{finished:?}");
    // The same where standard output is closed: then it is /dev/null.
    let finished = Finished::from(folder.command(CREATE).stdout(Stdio::null()).output().expect("runs"));
    let remedy = format!("tollgate token revoke {}", newest());
    assert!(finished.code == Some(0) && finished.stderr.contains(&remedy), "{finished:?}");
}

#[test]
fn completions_and_manual_pages_are_of_all_commands() {
    let folder = Folder::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = folder.run(["completions", shell]);
        assert!(script.done().contains("ids-from") && script.done().contains("transfer-ownership"), "{shell}");
    }
    let page = folder.run(["man", "token", "revoke"]);
    assert!(page.done().contains(".TH tollgate-token-revoke 1") && page.done().contains("dry\\-run"), "{page:?}");
    assert!(folder.run(["man"]).done().contains(".TH tollgate 1"));
    assert_eq!(folder.run(["man", "token", "lose"]).code, Some(2));
    fs::create_dir(folder.path("man1")).expect("makes");
    folder.run(["man", "--all", "man1"]).done();
    for page in ["tollgate.1", "tollgate-serve.1", "tollgate-token.1", "tollgate-token-create.1"] {
        assert!(fs::read_to_string(folder.path("man1").join(page)).expect(page).starts_with(".ie"), "{page}");
    }
}

/// As an unprivileged user; whoever runs the tests may be one to whom nothing is forbidden.
#[test]
fn a_directory_that_cannot_be_written_is_called_that() {
    let folder = Folder::new();
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("allows");
    allow(folder.directory.path(), 0o755);
    let locked = folder.path("locked");
    fs::create_dir(&locked).expect("makes");
    fs::copy(folder.path("tollgate.db"), locked.join("tollgate.db")).expect("copies");
    allow(&locked.join("tollgate.db"), 0o666);
    allow(&locked, 0o555);
    let program = folder.path("tollgate");
    if fs::hard_link(TOLLGATE, &program).is_err() {
        fs::copy(TOLLGATE, &program).expect("copies");
    }
    let run = |arguments: &[&str]| -> Finished {
        let mut command = folder.program(program.to_str().expect("text"));
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command.args(arguments).output().expect("runs").into()
    };
    let said = format!("this user may not write to the directory {}", locked.display());
    for arguments in [
        &["--store", "sqlite:locked/new.db", "init"][..],
        &["--store", "sqlite:locked/below/new.db", "init"],
        &["--store", "sqlite:locked/tollgate.db", "token", "list"],
    ] {
        let finished = run(arguments);
        assert!(finished.failed().contains(&said), "{arguments:?}: {finished:?}");
    }
}

#[test]
fn no_new_token_lives_longer_than_the_policy_has_it() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| -> Finished {
        let mut command = folder.command(arguments.iter().copied());
        command.env("TOLLGATE_REGISTRY__MAX_TOKEN_LIFETIME", "30d").output().expect("runs").into()
    };
    let lives = |token: &serde_json::Value| {
        let time = |name: &str| text(&token[name]).parse::<jiff::Timestamp>().expect("a time");
        time("expires_at").duration_since(time("created_at")).as_secs()
    };
    let before = folder.create("max", "before");
    let created = run(&[&CREATE[..], &["--preset", "telegraf-agent", "--json"]].concat());
    assert!((30 * 86_400 - 1..=30 * 86_400).contains(&lives(&created.json())), "{created:?}");
    assert!(created.stderr.contains("registry.max_token_lifetime"), "{created:?}");
    let shorter = run(&[&CREATE[..], &["--expires", "1d", "--json"]].concat());
    assert!(lives(&shorter.json()) <= 86_400);
    let longer = run(&[&CREATE[..], &["--expires", "31d"]].concat());
    assert!(longer.failed().contains("registry.max_token_lifetime"), "{longer:?}");
    // What is there stays; its successor is a new token.
    assert_eq!(folder.run(["token", "show", &before, "--json"]).json()["expires_at"], json!(null));
    let rotated = run(&["token", "rotate", &before, "--overlap", "1h", "--json"]).json();
    assert!(lives(&rotated) <= 30 * 86_400, "{rotated}");
    let longer = run(&["token", "rotate", text(&rotated["id"]), "--overlap", "1h", "--expires", "31d"]);
    assert!(longer.failed().contains("registry.max_token_lifetime"), "{longer:?}");
    fs::write(folder.path("tollgate.toml"), "[registry]\nmax_token_lifetime = \"1d\"\n").expect("writes");
    let named = folder.run([&["--config", "tollgate.toml"], &CREATE[..], &["--json"]].concat()).json();
    assert!(lives(&named) <= 86_400, "{named}");
}

#[test]
fn why_something_was_done_stays_with_the_token() {
    let folder = Folder::new();
    let id = folder.create("max", "laptop");
    folder.run(["token", "reassign", &id, "--to", "max", "--reason", "a move"]);
    folder.run(["token", "revoke", &id, "--reason", "INC-17, \"lost\""]).done();
    let shown = folder.run(["token", "show", &id, "--json"]).json();
    let history = shown["history"].as_array().expect("a list");
    assert_eq!(history[0]["operator_reason"], json!(null));
    let last = history.last().expect("an entry");
    assert_eq!((&last["event"], &last["operator_reason"]), (&json!("revoked"), &json!("INC-17, \"lost\"")));
    assert!(folder.run(["token", "show", &id]).done().contains("INC-17, \"lost\""));
    let trail = folder.run(["audit", "list", "--json"]);
    assert!(!trail.done().contains("INC-17"), "it outlives the token");
    let too_long = "x".repeat(201);
    for refused in ["", " ", "two\nlines", "\u{1b}[2J", &too_long] {
        assert_eq!(folder.run(["token", "revoke", &id, "--reason", refused]).code, Some(2), "{refused:?}");
    }
    // What follows for tokens from a command about their owner.
    let other = folder.create("max", "other");
    folder.run(["user", "set-role", "max", "viewer", "--yes", "--reason", "left"]).done();
    let shown = folder.run(["token", "show", &other, "--json"]).json();
    assert_eq!(shown["history"].as_array().and_then(|all| all.last()).expect("one")["operator_reason"], "left");
}

/// In a container, or under cron.
#[test]
fn who_acts_without_a_login_is_known_by_the_password_database() {
    let folder = Folder::new();
    let named = std::process::Command::new("id").arg("-un").output().expect("runs");
    let named = String::from_utf8(named.stdout).expect("text");
    let mut command = folder.command(CREATE.into_iter().chain(["--json"]));
    let created = command.env_remove("LOGNAME").env_remove("USER").env_remove("SUDO_USER").output().expect("runs");
    assert_eq!(Finished::from(created).json()["created_by"], format!("cli:{}", named.trim()));
}
