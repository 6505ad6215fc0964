//! `token rotate`: what is printed where, and what `token show` says of both tokens.

use std::fs;

use super::Folder;

#[test]
fn the_successor_is_printed_alone_and_both_tokens_name_each_other() {
    let folder = Folder::new();
    let old = folder.create("max", "plant 7");
    let rotated = folder.run(["token", "rotate", &old, "--overlap", "24h"]);
    let raw = rotated.done().strip_suffix('\n').expect("a line");
    assert!(raw.parse::<tollgate::token::RawToken>().is_ok());
    let new = rotated.stderr.split(' ').next().expect("an id").to_owned();
    assert!(rotated.stderr.contains(&format!("{new} is the successor of {old}, which ends in ")), "{rotated:?}");
    assert!(rotated.stderr.contains("install the new value there before any agent uses it"), "{rotated:?}");

    let shown = |id: &str| folder.run(["token", "show", id, "--json"]).json();
    let (first, second) = (shown(&old), shown(&new));
    assert_eq!((&first["successor"], &second["predecessor"]), (&new.as_str().into(), &old.as_str().into()));
    assert_eq!((&first["predecessor"], &second["successor"]), (&().into(), &().into()));
    for same in ["user", "description", "permissions"] {
        assert_eq!(first[same], second[same], "{same}");
    }
    assert_eq!((first["expires_at"].is_string(), &second["expires_at"]), (true, &().into()));
    assert_eq!(first["history"][1]["event"], "rotated");
    let text = folder.run(["token", "show", &old]);
    assert!(text.done().contains(&format!("{new} (active)")) && text.done().contains(&format!("rotated to {new}")));
    folder.run(["token", "delete", &old]).done();
    let text = folder.run(["token", "show", &new]);
    assert!(text.done().contains(&format!("{old} (deleted)")), "{text:?}");

    let again = folder.run(["token", "rotate", &old, "--overlap", "24h"]);
    assert!(again.failed().contains("there is no token"), "{again:?}");
}

#[test]
fn a_rotated_token_is_not_rotated_again_and_no_value_is_printed() {
    let folder = Folder::new();
    let old = folder.create("max", "plant 7");
    let rotate = || folder.run(["token", "rotate", &old, "--overlap", "24h", "--json"]);
    let new = rotate().json();
    let (id, raw) = (new["id"].as_str().expect("an id"), new["token"].as_str().expect("a token"));
    assert_eq!(new["controller"]["rawToken"], raw);
    let again = rotate();
    assert!(again.failed().contains(&format!("`tollgate token rotate {id}`")), "{again:?}");
    assert!(!again.stderr.contains("tc-apiv1_"), "{again:?}");
}

#[test]
fn a_value_from_a_file_is_not_printed() {
    let folder = Folder::new();
    let old = folder.create("max", "plant 7");
    let value = format!("tc-apiv1_{}", "c".repeat(64));
    fs::write(folder.path("value"), &value).expect("writes");
    let options = ["--overlap", "1h", "--expires", "30d", "--token-file", "value"];
    let rotated = folder.run(["token", "rotate", &old].into_iter().chain(options));
    let new = rotated.done().split([' ', ':']).nth(3).expect("an id").to_owned();
    assert_eq!(rotated.done(), format!("rotated {old} to {new}: plant 7 (max)\n"));
    assert!(!rotated.stderr.contains("install the new value"), "it is there already: {rotated:?}");
    assert_eq!(folder.run(["token", "show", &new, "--json"]).json()["hint"], "cccccc");
    let expiry = folder.run(["token", "show", &new, "--json"]).json()["expires_at"].clone();
    assert!(expiry.is_string(), "{expiry}");
}
