//! `token import` and `token export`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::harness::RedisServer;

/// Import lines for that many tokens of max's.
fn import_lines(count: usize) -> String {
    let line = |number: usize| {
        format!(
            "{{\"token\":\"tc-apiv1_imported{number:012}\",\"user\":\"max\",\"description\":\"agent {number}\",\
             \"permissions\":[\"configs:read\",\"heartbeat:write\"]}}\n"
        )
    };
    (1..=count).map(line).collect()
}

#[test]
fn an_import_is_all_or_none() {
    let folder = Folder::new();
    let mut lines = import_lines(5_000);
    lines.push_str("{\"token\":\"tc-apiv1_x\",\"user\":\"nobody\",\"description\":\"x\"}\n");
    fs::write(folder.path("tokens.jsonl"), &lines).expect("writes");
    let refused = folder.run(["token", "import", "tokens.jsonl"]);
    assert!(
        refused
            .failed()
            .ends_with("tollgate: nothing imported: 1 of 5001 lines is bad; pass --keep-going to import the others\n")
    );
    assert!(refused.stderr.starts_with("line 5001: "), "{}", &refused.stderr[..200.min(refused.stderr.len())]);
    assert_eq!(folder.run(["token", "list", "--user", "max", "--json"]).done(), "[]\n");

    let partly = folder.run(["token", "import", "--keep-going", "tokens.jsonl"]);
    assert!(partly.failed().ends_with("tollgate: imported 5000 tokens, but 1 of 5001 lines is bad\n"));
    assert_eq!(folder.descriptions(["--user", "max"]).len(), 5_000);

    // A list longer than the pipe holds, whose reader goes away.
    let mut child =
        folder.command(["token", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut heading = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut heading).expect("reads");
    let finished = Finished::from(child.wait_with_output().expect("ends"));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
}

#[test]
fn bad_lines_are_named_by_number_without_their_tokens() {
    let folder = Folder::new();
    let good = import_lines(2);
    let long = format!("{{\"token\":\"tc-apiv1_longlonglong{}\"}}", "x".repeat(1_100_000));
    let input = format!(
        "{good}\nnonsense\n{{\"token\":\"tc-apiv1_secretsecret\",\"user\":\"max\",\"description\":\"x\",\"x\":1}}\n\
         {long}\n{good}{{\"digest\":\"00\",\"user\":\"max\",\"description\":\"x\"}}"
    );
    let none = folder.run_with_input(&["token", "import", "--json"], &input);
    assert_eq!(none.code, Some(1), "{none:?}");
    let outcome: Value = serde_json::from_str(&none.stdout).expect("JSON");
    let lines = |outcome: &Value| -> Vec<u64> {
        let refused = outcome["refused"].as_array().expect("an array");
        refused.iter().map(|refused| refused["line"].as_u64().expect("a number")).collect()
    };
    assert_eq!((&outcome["imported"], lines(&outcome)), (&json!(0), vec![4, 5, 6, 9]));
    assert!(!none.stderr.contains("secretsecret") && !none.stderr.contains("longlong"), "{none:?}");

    let partly = folder.run_with_input(&["token", "import", "--json", "--keep-going", "-"], &input);
    assert_eq!(partly.code, Some(1), "{partly:?}");
    let outcome: Value = serde_json::from_str(&partly.stdout).expect("JSON");
    assert_eq!((&outcome["imported"], lines(&outcome)), (&json!(2), vec![4, 5, 6, 7, 8, 9]), "7 and 8 repeat 1 and 2");
    let nothing = folder.run_with_input(&["token", "import"], "\n\n");
    assert_eq!(nothing.done(), "imported 0 tokens (the input is empty)\n");
}

#[test]
fn an_import_that_was_done_can_be_repeated() {
    let folder = Folder::new();
    let lines = import_lines(3);
    folder.run_with_input(&["token", "import"], &lines).done();
    let import = |input: &str| folder.run_with_input(&["token", "import", "--skip-existing"], input);
    assert!(folder.run_with_input(&["token", "import"], &lines).failed().contains("registered already"));
    assert_eq!(import(&lines).done(), "imported 0 tokens, skipped 3 that existed\n");
    let ids: Vec<_> = folder.run(["token", "list", "--json"]).json().as_array().expect("an array").clone();
    folder.run(["token", "reassign", text(&ids[2]["id"]), "--to", "anna"]).done();
    let more = import_lines(4).replace("agent 2\"", "agent two\"");
    assert_eq!(
        import(&more).done(),
        "imported 1 token, skipped 3 that existed (2 of them with another user, description, expiry or other permissions)\n"
    );
    assert_eq!(folder.run(["token", "show", text(&ids[2]["id"]), "--json"]).json()["user"], "anna", "left as it was");

    let (revoked, deleted) = (text(&ids[1]["id"]), text(&ids[0]["id"]));
    folder.run(["token", "revoke", revoked]).done();
    folder.run(["token", "delete", deleted]).done();
    let refused = import(&import_lines(5));
    let said = refused.failed();
    assert!(
        said.contains(&format!("line 2: this token was revoked here and stays so (its id is {revoked})")),
        "{said}"
    );
    assert!(said.contains("line 3: this token was deleted"), "{said}");
    assert!(said.contains("nothing imported: 2 of 5 lines are bad"), "{said}");
    let options = ["token", "import", "--skip-existing", "--keep-going"];
    let said = folder.run_with_input(&options, &import_lines(5));
    assert!(
        said.failed().ends_with("imported 1 token, skipped 2 that existed, but 2 of 5 lines are bad\n"),
        "{said:?}"
    );
}

/// Killed wherever it is, it leaves whole commits, and the same command does the rest.
#[test]
fn an_import_that_was_killed_goes_on_where_it_was() {
    let folder = Folder::new();
    let count = 3_000;
    fs::write(folder.path("tokens.jsonl"), import_lines(count)).expect("writes");
    let import = ["token", "import", "tokens.jsonl", "--skip-existing", "--json"];
    let length = || folder.run(["token", "list", "--json", "--user", "max"]).json().as_array().expect("an array").len();
    let mut child = folder.command(import).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    while length() == 0 && child.try_wait().expect("asks").is_none() {}
    child.kill().expect("kills");
    child.wait().expect("ends");
    let before = length();
    assert!(before > 0 && before.is_multiple_of(500), "{before}");
    let rest = folder.run(import).json();
    assert_eq!((&rest["imported"], &rest["skipped"]), (&json!(count - before), &json!(before)));
    assert_eq!(length(), count);
}

#[test]
fn rows_of_csv_may_end_as_some_spreadsheets_end_them() {
    let folder = Folder::new();
    let row = |number: usize| format!("{number:064x},max,agent {number},configs:read");
    let rows = |numbers: std::ops::Range<usize>, end: &str| numbers.map(row).collect::<Vec<_>>().join(end);
    let header = "digest,user,description,permissions";
    for csv in [format!("{header}\r{}\r", rows(0..5, "\r")), format!("{header}\r\n{}\r\n", rows(5..10, "\r"))] {
        assert_eq!(folder.run_with_input(&["token", "import"], &csv).done(), "imported 5 tokens\n");
    }
    assert_eq!(folder.descriptions(["--user", "max"]).len(), 10);
}

/// Refused in its midst, it says what is in by then, and under which ids.
#[test]
fn an_import_that_was_interrupted_gives_the_ids_of_what_is_in() {
    let folder = Folder::new();
    let count = 30_000;
    fs::write(folder.path("tokens.jsonl"), import_lines(count) + "nonsense\n").expect("writes");
    let import = ["token", "import", "tokens.jsonl", "--keep-going", "--json"];
    let ids = || {
        let listed = folder.run(["token", "list", "--json", "--user", "max"]).json();
        let listed = listed.as_array().expect("an array").iter();
        listed.map(|token| text(&token["id"]).to_owned()).collect::<BTreeSet<_>>()
    };
    let mut child = folder.command(import).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    while ids().is_empty() && child.try_wait().expect("asks").is_none() {}
    folder.run(["store", "freeze", "--reason", "moving"]).done();
    let interrupted = Finished::from(child.wait_with_output().expect("ends"));
    let there = ids();
    assert!(!there.is_empty() && there.len() < count, "{}", there.len());
    assert!(
        interrupted.stderr.contains(&format!("interrupted after {} of {count} lines", there.len())),
        "{interrupted:?}"
    );
    assert_eq!(interrupted.code, Some(1));
    let outcome: Value = serde_json::from_str(&interrupted.stdout).expect("JSON");
    let said = outcome["tokens"].as_array().expect("an array").iter();
    assert_eq!(said.map(|new| text(&new["id"]).to_owned()).collect::<BTreeSet<_>>(), there);
    assert_eq!(outcome["imported"], there.len());
    assert_eq!(outcome["refused"][0]["line"], count + 1);
}

#[test]
fn a_thousand_bad_lines_are_ten_and_a_count() {
    let folder = Folder::new();
    let lines = import_lines(1_000).replace("\"user\":\"max\"", "\"user\":\"nobody\"");
    let refused = folder.run_with_input(&["token", "import"], &format!("{lines}nonsense\n"));
    assert_eq!(refused.failed().lines().count(), 2, "what cannot be read is said first: {refused:?}");
    let refused = folder.run_with_input(&["token", "import"], &lines);
    let said: Vec<_> = refused.failed().lines().map(str::to_owned).collect();
    assert_eq!(said.len(), 12, "{said:?}");
    assert!(said[9].starts_with("line 10: there is no user `nobody`"), "{said:?}");
    assert_eq!(said[10], "and 990 more of this kind: lines 11 to 1000");
    let json = folder.run_with_input(&["token", "import", "--json"], &lines);
    let outcome: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(outcome["refused"].as_array().map(Vec::len), Some(1_000), "a program gets all");
}

#[test]
fn csv_is_imported_and_permissions_are_given_for_all() {
    let folder = Folder::new();
    let csv = "User;Token;Description;Expires_At\r\nmax;tc-apiv1_0123456789012345678901csv1;\"hall 2; left\";2099-01-01T00:00:00Z\r\n\
               max;tc-apiv1_0123456789012345678901csv2;hall 3;\r\n";
    fs::write(folder.path("tokens.csv"), csv).expect("writes");
    let refused = folder.run(["token", "import", "tokens.csv"]);
    assert!(refused.failed().starts_with("line 2: give `permissions`, or --preset or --permission"), "{refused:?}");
    let preset = ["token", "import", "tokens.csv", "--preset", "telegraf-agent"];
    assert_eq!(folder.run(preset).done(), "imported 2 tokens\n");
    let list = folder.run(["token", "list", "--json"]).json();
    let shown =
        |at: usize| (&list[at]["description"], &list[at]["hint"], &list[at]["expires_at"], &list[at]["permissions"]);
    let agent = json!(["configs:read", "heartbeat:write"]);
    assert_eq!(shown(1), (&json!("hall 2; left"), &json!("01csv1"), &json!("2099-01-01T00:00:00Z"), &agent));
    assert_eq!(shown(0), (&json!("hall 3"), &json!("01csv2"), &Value::Null, &agent));
    let wrong = folder.run_with_input(&["token", "import"], "token,owner,description\ntc-apiv1_x,max,y\n");
    assert!(wrong.failed().contains("line 1, the header of CSV: unknown field `owner`, column 2"), "{wrong:?}");
    let mistyped = folder.run(["token", "import", "tokens.csv", "--permission", "config:read"]);
    assert_eq!(mistyped.code, Some(2), "{mistyped:?}");
}

/// Moved between the kinds of stores, and back.
#[test]
fn tokens_move_from_sqlite_to_redis_and_back() {
    let folder = Folder::new();
    folder.run_with_input(&["token", "import"], &import_lines(600)).done();
    folder.create("anna", "of a disabled user");
    let revoked = folder.create("max", "revoked");
    folder.run(["token", "revoke", &revoked]).done();
    folder.run(["user", "disable", "anna", "--yes"]).done();
    let expiring = ["token", "create", "--user", "max", "--description", "expired", "--expires", "1s"];
    folder.run(expiring).done();
    while folder.run(["token", "list", "--state", "expired", "--json"]).json() == json!([]) {}

    let redis = RedisServer::start();
    let there = |arguments: &[&str], input: &str| {
        let url = redis.url();
        let line = [&["--store", url.as_str()][..], arguments].concat();
        folder.run_anywhere(&line, input)
    };
    there(&["init", "--owner", "owner"], "").done();
    there(&["user", "add", "anna", "--role", "administrator"], "").done();
    there(&["user", "add", "max", "--role", "manager"], "").done();
    let plain = folder.run(["token", "export"]);
    assert_eq!(plain.done().lines().count(), 601, "{}", plain.stderr);
    assert!(plain.stderr.contains("exported 601 tokens; nothing was changed meanwhile (revision "), "{}", plain.stderr);
    assert!(plain.stderr.contains("left out: 3 that do not work"), "{}", plain.stderr);

    let full = folder.run(["token", "export", "--full"]);
    assert_eq!(there(&["token", "import"], full.done()).done(), "imported 604 tokens\n");
    let back = there(&["token", "export", "--full"], "");
    let by_digest = |text: &str| -> BTreeMap<String, Value> {
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|line| (text_of(&line, "digest"), line)).collect()
    };
    let (before, mut after) = (by_digest(full.done()), by_digest(back.done()));
    after.retain(|digest, _| before.contains_key(digest));
    for line in after.values_mut() {
        let history = line["history"].as_array_mut().expect("a list");
        assert_eq!(history.pop().expect("a line more")["event"], "imported");
    }
    assert_eq!(after, before);
    let skipped = folder.run_with_input(&["token", "import", "--skip-existing", "--keep-going"], back.done());
    assert_eq!(skipped.done(), "imported 1 token, skipped 604 that existed\n", "the Owner's of there");
    let shown = there(&["token", "show", &revoked, "--json"], "").json();
    assert_eq!((&shown["state"], &shown["revoked_by"]), (&json!("revoked"), &json!("cli:tester")));
}

/// A program may take its time with what it reads; what it cannot know, it is told.
#[test]
fn an_export_says_that_something_was_changed_meanwhile() {
    let folder = Folder::new();
    folder.run_with_input(&["token", "import"], &import_lines(3_000)).done();
    let mut command = folder.command(["token", "export"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut first = String::new();
    output.read_line(&mut first).expect("reads");
    // It is held up by the pipe that nobody empties.
    let ids = folder.run(["token", "list", "--user", "max", "--json"]).json();
    let oldest = text(&ids.as_array().expect("a list").last().expect("some")["id"]).to_owned();
    folder.run(["token", "revoke", &oldest]).done();
    let rest = output.lines().map_while(Result::ok).count();
    let finished = Finished::from(child.wait_with_output().expect("ends"));
    finished.done();
    assert!(finished.stderr.contains("the registry was changed meanwhile (revision "), "{}", finished.stderr);
    assert_eq!(1 + rest, 3_000, "with the Owner's, without the revoked one: it was not read yet");
}

/// As they are there, one after the other, on a new registry.
#[test]
fn the_commands_of_the_readme_that_make_a_registry_work_when_pasted() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("### 1. Create the registry").expect("the section");
    let (section, _) = section.split_once("\n### ").expect("the next section");
    let folder = Folder::empty();
    let bin = Path::new(TOLLGATE).parent().expect("a directory");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let lines: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(lines.iter().any(|line| line.contains("token import")), "{lines:?}");
    let finished: Finished =
        folder.program("sh").args(["-euc", &lines.join("\n")]).env("PATH", path).output().expect("runs").into();
    let printed = finished.done();
    assert!(printed.contains("imported 2 tokens\n"), "{finished:?}");
}

#[test]
fn imported_tokens_are_only_their_hints() {
    let folder = Folder::new();
    let outcome = folder.run_with_input(&["token", "import", "--json"], &format!("\n{}", import_lines(3))).json();
    let mut ids = folder.run(["token", "list", "--json", "--user", "max"]).json();
    let ids = ids.as_array_mut().expect("an array");
    assert_eq!(ids[0]["permissions"], json!(["configs:read", "heartbeat:write"]));
    ids.reverse();
    let tokens: Vec<_> = (2..).zip(ids).map(|(line, token)| json!({ "line": line, "id": token["id"] })).collect();
    assert_eq!(
        outcome,
        json!({ "imported": 3, "skipped": 0, "differing": 0, "tokens": tokens, "refused": [] }),
        "the ids in the order of the lines"
    );
    assert!(!is_on_disk(folder.directory.path(), "tc-apiv1_imported"));
}
