//! What takes something away says how much before it does, and a dry run says what the command itself would.

use std::fs;

use super::Folder;

#[test]
fn who_takes_from_a_user_is_asked_with_the_number_of_tokens() {
    let folder = Folder::new();
    let ids = ["a", "b"].map(|name| folder.create("max", name));
    let revoked = folder.create("max", "gone");
    folder.run(["token", "revoke", &revoked]).done();
    let revision = || folder.run(["status", "--json"]).json()["revision"].clone();
    let before = revision();
    let commands = [
        ("user set-role max viewer", "Make max viewer, and revoke 2 tokens?"),
        ("user disable max", "Disable max, and stop 2 tokens until max is enabled again?"),
        ("user delete max", "Delete max and 3 tokens?"),
        // Of the Owner's tokens, the one of `init` has what no administrator has.
        ("user transfer-ownership anna", "1 token of theirs"),
    ];
    for (command, question) in commands {
        let refused = folder.run(command.split(' '));
        assert!(refused.failed().contains(question) && refused.stderr.contains("pass --yes"), "{refused:?}");
        let Some(declined) = folder.run_on_terminal(command, "n\n") else { continue };
        assert!(declined.code == Some(1) && declined.stdout.contains(question), "{declined:?}");
    }
    assert_eq!(revision(), before);
    // Nobody is asked about what is not allowed, or takes nothing.
    assert!(folder.run(["user", "set-role", "owner", "viewer"]).failed().contains("Owner"));
    assert!(!folder.run(["user", "disable", "owner"]).stderr.contains('?'));
    folder.run(["user", "add", "new", "--role", "manager"]).done();
    folder.run(["user", "set-role", "new", "viewer"]).done();
    folder.run(["user", "disable", "new"]).done();
    folder.run(["user", "set-role", "max", "administrator"]).done();
    let narrowed = folder.run(["user", "set-role", "max", "manager"]);
    assert!(narrowed.code == Some(0) && narrowed.stderr.is_empty(), "they have a manager's permissions: {narrowed:?}");

    if let Some(confirmed) = folder.run_on_terminal("user disable max", "y\n") {
        assert_eq!(confirmed.code, Some(0), "{confirmed:?}");
        folder.run(["user", "enable", "max"]).done();
    }
    folder.run(["user", "disable", "max", "--yes"]).done();
    folder.run(["user", "disable", "max"]).done();
    let done = folder.run(["user", "set-role", "max", "viewer", "--yes"]);
    assert_eq!(done.done(), "max is viewer now; 2 tokens revoked\n");
    assert_eq!(ids.map(|id| folder.state_of(&id)), ["revoked", "revoked"]);
}

#[test]
fn a_dry_run_fails_where_the_command_does() {
    let folder = Folder::new();
    let (id, revoked) = (folder.create("max", "a"), folder.create("max", "b"));
    folder.run(["token", "revoke", &revoked]).done();
    folder.run(["user", "add", "dora", "--role", "manager"]).done();
    folder.run(["user", "disable", "dora"]).done();
    let owners = folder.run(["token", "list", "--user", "owner", "--json"]).json();
    let last = owners[0]["id"].as_str().expect("an id");
    for command in [
        &["reassign", &id, "--to", "nobody"][..],
        &["reassign", &id, "--to", "dora"],
        &["reassign", &revoked, "--to", "anna"],
        &["reassign", last, "--to", "anna"],
        &["revoke", last],
        &["delete", last],
        &["delete", last, &id],
        &["revoke", "0000000000001"],
    ] {
        let run = |option: &str| folder.run(["token"].iter().chain(command).copied().chain([option]));
        let (dry, real) = (run("--dry-run"), run("--yes"));
        assert_eq!((dry.failed(), dry.stdout.as_str()), (real.failed(), ""), "{command:?}");
        // Before anybody is asked.
        assert_eq!(folder.run(["token"].iter().chain(command).copied()).failed(), real.failed(), "{command:?}");
    }
    assert!(folder.run(["token", "revoke", last, "--force", "--dry-run"]).done().starts_with("would revoke "));
}

#[test]
fn a_token_that_does_not_work_is_not_there_for_a_script() {
    let folder = Folder::new();
    let create = |name: &str, expires: &str, option: Option<&str>| {
        let line =
            ["token", "create", "--user", "max", "--description", "a", "--expires", expires, "--token-file", name];
        folder.run(line.into_iter().chain(option))
    };
    let value = |name: &str, digit: &str| {
        fs::write(folder.path(name), format!("tc-apiv1_{}", digit.repeat(64))).expect("writes");
    };
    value("short", "a");
    value("long", "b");
    create("short", "1s", None).done();
    create("long", "1h", None).done();
    while folder.run(["token", "list", "--state", "expired", "--json"]).json() == serde_json::json!([]) {}
    let expired = create("short", "30d", Some("--if-not-exists"));
    assert!(expired.failed().contains("but expired at 20") && expired.stdout.is_empty(), "{expired:?}");
    assert!(create("long", "30d", Some("--if-not-exists")).done().starts_with("exists "));
    folder.run(["user", "disable", "max", "--yes"]).done();
    let disabled = create("long", "30d", Some("--if-not-exists"));
    assert!(disabled.failed().contains("disabled"), "{disabled:?}");
    // The user is there, and that somebody disabled them is for people to know.
    let user = folder.run(["user", "add", "max", "--role", "manager", "--if-not-exists"]);
    assert_eq!(user.done(), "max is there already, manager\n");
    assert!(user.stderr.contains("max is disabled") && user.stderr.contains("tollgate user enable max"), "{user:?}");
    folder.run(["user", "enable", "max"]).done();
    folder.run(["token", "revoke", "--user", "max", "--yes"]).done();
    assert!(create("long", "30d", Some("--if-not-exists")).failed().contains("but was revoked"));
}
