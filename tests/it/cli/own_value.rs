//! `token create --token-file`: a value that somebody brings, and what installs it at the Controller too.

use std::fs;

use serde_json::{Value, json};

use super::Folder;

const CREATE: [&str; 6] = ["token", "create", "--user", "max", "--description", "plant 7"];

fn value(digit: char) -> String {
    format!("tc-apiv1_{}", String::from(digit).repeat(64))
}

impl Folder {
    /// How many tokens there are, and the position: what a refused command leaves as it is.
    fn state(&self) -> (usize, Value) {
        let tokens = self.run(["token", "list", "--json"]).json().as_array().expect("a list").len();
        (tokens, self.run(["status", "--json"]).json()["revision"].clone())
    }
}

#[test]
fn a_value_from_a_file_or_standard_input_is_the_tokens() {
    let folder = Folder::new();
    for (end, digit) in [("", 'a'), ("\n", 'b'), ("\r\n", 'c')] {
        fs::write(folder.path("value"), value(digit) + end).expect("writes");
        let created = folder.run(CREATE.into_iter().chain(["--token-file", "value", "--json"])).json();
        assert_eq!(created["token"], value(digit).as_str());
        assert_eq!(created["hint"], String::from(digit).repeat(6).as_str());
    }
    let created = folder.run_with_input(&[&CREATE[..], &["--token-file", "-"]].concat(), &(value('d') + "\n"));
    let (done, id) = (created.done(), created.done().split([' ', ':']).nth(1).expect("an id"));
    assert_eq!(done, format!("created {id}: plant 7 (max)\n"), "whoever brought the value has it");
    assert_eq!(folder.run(["token", "show", id, "--json"]).json()["hint"], "dddddd");
    // Descriptions need not be unique here.
    assert_eq!(folder.state().0, 5);
}

#[test]
fn json_has_the_request_that_installs_the_token_at_the_controller() {
    let folder = Folder::new();
    let agent = ["--preset", "telegraf-agent", "--json"];
    let created = folder.run(CREATE.into_iter().chain(agent)).json();
    let body = json!({
        "name": "plant 7", "permissions": ["configs:read", "heartbeat:write"], "rawToken": created["token"],
    });
    assert_eq!(created["controller"], body);
    let secret = created["token"].as_str().and_then(|token| token.strip_prefix("tc-apiv1_")).expect("a token");
    assert!(secret.len() == 64 && secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{secret}");
    let shown = folder.run(["token", "show", created["id"].as_str().expect("an id"), "--json"]).json();
    assert_eq!((shown.get("token"), shown.get("controller")), (None, None), "and never again");
}

#[test]
fn a_value_of_another_form_is_refused_with_the_reason_and_without_the_value() {
    let folder = Folder::new();
    let before = folder.state();
    let digits = "5ec4e7".repeat(11);
    for (text, reason) in [
        (String::new(), "does not start with `tc-apiv1_`"),
        (digits[..64].to_owned(), "does not start with `tc-apiv1_`"),
        (format!(" tc-apiv1_{}", &digits[..64]), "does not start with `tc-apiv1_`"),
        (format!("tc-apiv1_{}", &digits[..63]), "it has 63 digits after the prefix"),
        (format!("tc-apiv1_{}", &digits[..65]), "it has 65 digits after the prefix"),
        (format!("tc-apiv1_{}", digits[..64].to_uppercase()), "it has capital letters"),
        (format!("tc-apiv1_{}-", &digits[..63]), "something else than hexadecimal digits"),
        (format!("tc-apiv1_{}\n\n", &digits[..64]), "something else than hexadecimal digits"),
        (format!("tc-apiv1_{0}\ntc-apiv1_{0}", &digits[..64]), "something else than hexadecimal digits"),
        ("x".repeat(100_000), "does not start with `tc-apiv1_`"),
    ] {
        let refused = folder.run_with_input(&[&CREATE[..], &["--token-file", "-"]].concat(), &text);
        let message = refused.failed();
        assert!(message.contains(reason) && message.contains("standard input"), "{message}");
        assert!(!message.to_lowercase().contains("5ec4e7"), "{message}");
    }
    let missing = folder.run(CREATE.into_iter().chain(["--token-file", "nowhere"]));
    assert!(missing.failed().contains("reading the token's value from nowhere"), "{missing:?}");
    assert_eq!(folder.state(), before, "nothing was changed");
}

#[test]
fn a_value_that_a_token_has_or_had_is_a_conflict_and_changes_nothing() {
    let folder = Folder::new();
    let create = || folder.run_with_input(&[&CREATE[..], &["--token-file", "-", "--json"]].concat(), &value('e'));
    let id = create().json()["id"].as_str().expect("an id").to_owned();
    let refused = |expected: &str| {
        let (before, refused) = (folder.state(), create());
        assert!(refused.failed().contains(expected) && !refused.stderr.contains(&value('e')), "{refused:?}");
        assert_eq!(folder.state(), before, "nothing was changed");
    };
    refused("this token is registered already");
    folder.run(["token", "revoke", &id]).done();
    refused("this token is registered already");
    folder.run(["token", "delete", &id]).done();
    refused("this token was deleted");
}
