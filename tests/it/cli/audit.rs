//! `audit list` and `audit verify`, and what commands do with the trail.

use std::fs;

use serde_json::{Value, json};

use super::{Folder, text};

impl Folder {
    fn trail(&self, options: &[&str]) -> Vec<Value> {
        let list = self.run(["audit", "list", "--json"].into_iter().chain(options.iter().copied())).json();
        list.as_array().expect("an array").clone()
    }
}

fn actions(trail: &[Value]) -> Vec<&str> {
    trail.iter().map(|entry| text(&entry["action"])).collect()
}

#[test]
fn each_command_chains_its_own_entries_and_lists_find_them() {
    let folder = Folder::new();
    let id = folder.create("max", "plant 7");
    folder.run(["token", "revoke", &id]).done();
    let refused = folder.run(["user", "delete", "owner", "--yes"]);
    assert!(refused.failed().contains("cannot be deleted"), "{refused:?}");
    let trail = folder.trail(&[]);
    let newest_first =
        ["user.delete", "token.revoke", "token.create", "user.create", "user.create", "token.create", "user.create"];
    assert_eq!(actions(&trail), newest_first);
    assert!(trail.iter().all(|entry| entry["chained"] == true && entry["actorId"] == "cli:tester"), "{trail:?}");
    assert_eq!((&trail[0]["outcome"], &trail[1]["tokens"]), (&json!("Failure"), &json!([id])));

    let found = |options: &[&str]| folder.trail(options).iter().map(|entry| entry["seq"].clone()).collect::<Vec<_>>();
    assert_eq!(found(&["--subject", &id]), [6, 5]);
    assert_eq!(found(&["--subject", "max"]), [5, 4]);
    assert_eq!(found(&["--action", "user.create", "--limit", "2"]), [4, 3]);
    assert_eq!(found(&["--outcome", "failure"]), [7]);
    assert_eq!(found(&["--after", "3"]), [2, 1]);
    assert_eq!(found(&["--actor", "nobody"]), [0; 0]);
    assert_eq!(found(&["--since", "1h", "--until", "0s", "--limit", "1"]), [7]);
    assert_eq!(found(&["--until", "1h"]), [0; 0]);
    let shown = folder.run(["audit", "list", "--subject", &id]);
    let shown = shown.done();
    assert!(shown.contains("token.revoke") && shown.contains("cli:tester") && shown.contains(&id), "{shown}");
    assert!(!shown.contains("plant 7"), "an entry has no description");
}

#[test]
fn verify_says_what_is_wrong_and_ends_with_exit_code_1() {
    let folder = Folder::new();
    let whole = folder.run(["audit", "verify", "--json"]).json();
    assert_eq!((&whole["whole"], &whole["entries"], &whole["not_chained"]), (&json!(true), &json!(4), &json!(0)));
    let head = format!("{}:{}", whole["head"]["seq"], text(&whole["head"]["hash"]));
    assert!(folder.run(["audit", "verify", "--head", &head]).done().contains(&format!("the head is {head}")));

    let database = rusqlite::Connection::open(folder.path("tollgate.db")).expect("opens");
    database
        .execute("UPDATE audit SET line = CAST(replace(line, 'anna', 'otto') AS BLOB) WHERE seq = 3", [])
        .expect("changes it");
    database.execute("DELETE FROM audit WHERE seq = 4", []).expect("cuts it off");
    drop(database);
    let broken = folder.run(["audit", "verify", "--head", &head, "--json"]);
    assert_eq!(broken.code, Some(1), "{broken:?}");
    let found: Value = serde_json::from_str(&broken.stdout).expect("JSON");
    assert_eq!(found["findings"], json!([{ "finding": "changed", "seq": 3 }]));
    assert_eq!(found["elsewhere"], json!(["entry 4 is not in the store: the end of its trail was cut off"]));
    let said = folder.run(["audit", "verify"]);
    assert!(said.stdout.contains("entry 3 was changed") && said.stderr.contains("is not whole: 1 finding"), "{said:?}");
}

#[test]
fn the_configured_file_gets_the_trail_and_is_verified_with_it() {
    let folder = Folder::new();
    fs::write(folder.path("t.toml"), "[audit]\nfile = \"audit.jsonl\"\nrequired = true\n").expect("writes");
    let run = |arguments: &[&str]| folder.run([&["--config", "t.toml"], arguments].concat());
    run(&["user", "add", "eve", "--role", "viewer"]).done();
    let file = folder.path("audit.jsonl");
    assert_eq!(fs::read_to_string(&file).expect("is there").lines().count(), 5, "with what was there before");
    assert!(run(&["audit", "verify"]).done().contains("5 entries, 1 to 5"));

    // A tail that is cut off in the store shows by the file.
    rusqlite::Connection::open(folder.path("tollgate.db"))
        .and_then(|database| database.execute("DELETE FROM audit WHERE seq = 5", []))
        .expect("cuts it off");
    assert!(folder.run(["audit", "verify"]).done().contains("4 entries"), "nothing else knows");
    let cut = run(&["audit", "verify"]);
    assert!(cut.stdout.contains("entry 5 is not in the store") && cut.code == Some(1), "{cut:?}");
    let refused = run(&["user", "delete", "eve", "--yes"]);
    assert!(refused.failed().contains("audit.required is set") && refused.stderr.contains("move the file away"));

    // And what is not required is said, and done.
    fs::write(folder.path("t.toml"), "[audit]\nfile = \"audit.jsonl\"\n").expect("writes");
    let done = run(&["user", "delete", "eve", "--yes"]);
    assert!(done.code == Some(0) && done.stderr.contains("audit entries are not written"), "{done:?}");
}
