//! `token find`: whose token it is, by what an agent has or the log says.

use tollgate::token::RawToken;

use super::{Folder, text};

#[test]
fn a_raw_token_on_standard_input_and_the_digits_of_its_digest_show_the_same_record() {
    let folder = Folder::new();
    let created = folder.run(["token", "create", "--user", "max", "--description", "plant 7", "--json"]).json();
    folder.create("max", "plant 8");
    let (id, raw) = (text(&created["id"]), text(&created["token"]));
    folder.run(["token", "revoke", id, "--yes"]).done();
    let digest = raw.parse::<RawToken>().expect("a token").digest().to_string();
    let digits = &digest[..12];
    let shown = folder.run(["token", "show", id, "--json"]).json();
    assert_eq!(shown["digest_prefix"], digits);
    for found in [
        folder.run_with_input(&["token", "find", "--json"], &format!("{raw}\n")),
        folder.run(["token", "find", digits, "--json"]),
        folder.run(["token", "find", &digest.to_uppercase(), "--json"]),
    ] {
        assert_eq!(found.json(), serde_json::json!([shown]));
        assert!(!found.stdout.contains(raw));
    }
    let found = folder.run(["token", "find", digits]);
    for said in [id, "plant 7", "max (manager, active)", "revoked", &format!("{digits}...")] {
        assert!(found.done().contains(said), "{said}: {found:?}");
    }
    let listed = folder.run(["token", "list"]);
    assert!(listed.done().lines().any(|line| line.starts_with(id) && line.ends_with(digits)), "{listed:?}");
}

#[test]
fn what_is_not_found_is_said_with_what_is_known_of_it() {
    let folder = Folder::new();
    let created = folder.run(["token", "create", "--user", "max", "--description", "plant 7", "--json"]).json();
    let raw = text(&created["token"]);
    folder.run(["token", "delete", text(&created["id"]), "--yes"]).done();
    let find = |input: &str| folder.run_with_input(&["token", "find"], input);
    assert!(find(raw).failed().contains("was deleted, and its record"), "a token that was deleted");
    let digest = raw.parse::<RawToken>().expect("a token").digest().to_string();
    let found = folder.run(["token", "find", &digest]);
    assert!(found.failed().contains("was deleted, and its record"), "{found:?}");
    // That it was just now is not known by a few digits, so nothing else is said either.
    let found = folder.run(["token", "find", &digest[..12]]);
    assert!(found.failed().contains("or it was deleted (") && !found.stderr.contains("long ago"), "{found:?}");
    let never = RawToken::generate().expect("entropy");
    assert!(find(never.reveal()).failed().contains("no token of this registry"), "one that never was");
    assert!(find(never.reveal()).failed().contains("deleted long ago"));
    let digits = &never.digest().to_string()[..12];
    assert!(folder.run(["token", "find", digits]).failed().contains(digits));
    let other = find("a-secret-of-something-else");
    assert!(other.failed().contains("tc-apiv1_") && !other.stderr.contains("something-else"), "{other:?}");
    assert_eq!(folder.run(["token", "find", "3f9"]).code, Some(2), "too few");
    assert_eq!(folder.run(["token", "find", never.reveal()]).code, Some(2), "never as an argument");
}
