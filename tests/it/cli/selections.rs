//! What `revoke`, `delete` and `reassign` are done to: ids, a file of them, or what the tokens are.

use std::fs;

use super::{Folder, text_of};

impl Folder {
    fn states(&self, ids: &[String]) -> Vec<String> {
        ids.iter().map(|id| self.state_of(id)).collect()
    }
}

#[test]
fn a_user_and_a_state_choose_and_the_count_is_asked() {
    let folder = Folder::new();
    let [a, b, other] = ["a", "b", "c"].map(|name| folder.create(if name == "c" { "anna" } else { "max" }, name));
    let ids = [a.clone(), b.clone(), other.clone()];
    folder.run(["token", "revoke", &a]).done();
    let refused = folder.run(["token", "revoke", "--user", "max"]);
    assert!(refused.failed().contains("Revoke 1 token?"), "what nobody named is asked about: {refused:?}");
    let refused = folder.run(["token", "delete", "--user", "max"]);
    assert!(refused.failed().contains("Delete 2 tokens?"), "{refused:?}");
    let refused = folder.run(["token", "delete", "--user", "max", "--state", "revoked"]);
    assert!(refused.failed().contains("Delete 1 token?"), "{refused:?}");
    assert_eq!(folder.states(&ids), ["revoked", "active", "active"]);

    // Revoked ones cannot be given to anybody.
    let moved = folder.run(["token", "reassign", "--user", "max", "--to", "anna", "--yes", "--json"]).json();
    assert_eq!(
        (text_of(&moved[0], "id"), text_of(&moved[0], "user"), moved.as_array().map(Vec::len)),
        (b, "anna".to_owned(), Some(1))
    );
    folder.run(["token", "delete", "--state", "revoked", "--yes"]).done();
    assert_eq!(folder.run(["token", "list", "--user", "max", "--json"]).json(), serde_json::json!([]));
    let nothing = folder.run(["token", "revoke", "--user", "max", "--yes"]);
    assert_eq!((nothing.code, nothing.stdout.as_str(), nothing.stderr.as_str()), (Some(0), "", "no matching tokens\n"));
    assert!(folder.run(["token", "revoke", "--user", "bob", "--yes"]).failed().contains("there is no user `bob`"));
}

#[test]
fn a_file_has_ids_as_a_list_prints_them() {
    let folder = Folder::new();
    let ids = ["a", "b", "c"].map(|name| folder.create("max", name));
    let list = folder.run(["token", "list", "--user", "max"]).done().to_owned();
    let without_last = list.lines().filter(|line| !line.starts_with(&ids[2])).collect::<Vec<_>>().join("\n");
    fs::write(folder.path("ids"), format!("{without_last}\n# {}\n\n{}\n", ids[2], ids[0])).expect("writes");
    let refused = folder.run(["token", "revoke", "--ids-from", "ids"]);
    assert!(refused.failed().contains("Revoke 2 tokens?"), "one that is named twice counts once: {refused:?}");
    folder.run(["token", "revoke", "--ids-from", "ids", "--yes"]).done();
    assert_eq!(folder.states(&ids), ["revoked", "revoked", "active"]);
    let input = format!("{}\n", ids[2]);
    folder.run_with_input(&["token", "revoke", "--ids-from", "-", "--yes"], &input).done();
    assert_eq!(folder.state_of(&ids[2]), "revoked");
    let wrong = folder.run_with_input(&["token", "revoke", "--ids-from", "-", "--yes"], "a-secret\n");
    assert!(wrong.failed().contains("line 1 does not begin with the id of a token"), "{wrong:?}");
    assert!(!wrong.stderr.contains("a-secret"), "{wrong:?}");
    assert!(folder.run(["token", "revoke", "--ids-from", "nowhere", "--yes"]).failed().contains("nowhere"));
}

#[test]
fn an_id_that_is_named_twice_counts_once() {
    let folder = Folder::new();
    let id = folder.create("max", "a");
    let revoked = folder.run(["token", "revoke", &id, &id, "--json"]).json();
    assert_eq!(revoked.as_array().map(Vec::len), Some(1), "and one is not asked about: {revoked}");
}

#[test]
fn a_dry_run_shows_the_tokens_and_changes_nothing() {
    let folder = Folder::new();
    let ids = ["a", "b"].map(|name| folder.create("max", name));
    let revision = || folder.run(["status", "--json"]).json()["revision"].clone();
    let before = revision();
    for command in [&["revoke"][..], &["delete"], &["reassign", "--to", "anna"]] {
        let line = [&["token"], command, &["--user", "max", "--dry-run"]].concat();
        let shown = folder.run(line.iter().copied());
        let would = format!("would {} {}: b (max)\nwould {0} {}: a (max)\n", command[0], ids[1], ids[0]);
        assert_eq!((shown.done(), shown.stderr.as_str()), (would.as_str(), "2 tokens; nothing was changed\n"));
        let shown = folder.run(line.into_iter().chain(["--json"])).json();
        assert_eq!(shown.as_array().map(Vec::len), Some(2));
    }
    assert_eq!(revision(), before);
    let unknown = folder.run(["token", "revoke", "0000000000001", "--dry-run"]);
    assert!(unknown.failed().contains("there is no token 0000000000001"));
}

#[test]
fn a_script_can_be_run_again() {
    let folder = Folder::new();
    let value = format!("tc-apiv1_{}", "ab".repeat(32));
    fs::write(folder.path("value"), &value).expect("writes");
    let create = ["token", "create", "--user", "max", "--description", "a", "--token-file", "value", "--if-not-exists"];
    let again = || -> [serde_json::Value; 2] {
        let user = folder.run(["user", "add", "max", "--role", "manager", "--if-not-exists", "--json"]).json();
        let token = folder.run(create.into_iter().chain(["--json"])).json();
        [user["id"].clone(), token["id"].clone()]
    };
    assert_eq!(again(), again());
    let id = again()[1].as_str().expect("an id").to_owned();
    assert!(folder.run(create).done().starts_with(&format!("exists {id}: a (max)")));
    let init = folder.run(["init", "--if-not-exists"]);
    assert_eq!((init.done(), init.stderr.contains("an owner already")), ("", true), "{init:?}");
    // What is there and is another is no success.
    let other = folder.run(["user", "add", "max", "--role", "viewer", "--if-not-exists"]);
    assert!(other.failed().contains("max is there already, and is manager"), "{other:?}");
    let mut other = create;
    other[3] = "anna";
    assert!(folder.run(other).failed().contains("registered already"), "another user's");

    for _ in 0..2 {
        folder.run(["token", "revoke", &id, "--if-exists", "--yes"]).done();
    }
    folder.run(create).failed();
    for command in ["revoke", "delete", "delete"] {
        folder.run(["token", command, &id, "0000000000001", "--if-exists", "--yes"]).done();
    }
    for _ in 0..2 {
        folder.run(["user", "delete", "max", "--if-exists", "--yes"]).done();
    }
}
