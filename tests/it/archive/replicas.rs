//! A freeze and a restored registry are commits: replicas that could be promoted have them, or it is said that they have not.

use tollgate_harness::pair::Pair;

use super::*;

/// With and without a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replicas_have_not_confirmed_is_no_plain_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, file) = (sqlite(&folder.path().join("source.db")), folder.path().join("backup"));
    filled(&source).await;
    done(&tollgate(&source, &["store", "backup", text(&file)]));
    let pair = Pair::start().await;
    let quorum = |number: &'static str| [("TOLLGATE_STORE__QUORUM_REPLICAS", number)];
    let restored = format!("{}/1", pair.primary.url());
    let url = pair.primary.url();
    done(&tollgate(&url, &["init"]));
    // In step, all is well.
    for number in ["0", "1"] {
        done(&run(&["--store", &url, "store", "freeze", "--reason", "moving"], &quorum(number)));
        done(&run(&["--store", &url, "store", "unfreeze"], &quorum(number)));
    }
    pair.part().await;
    for number in ["0", "1"] {
        for arguments in [
            ["store", "freeze", "--reason", "moving"].to_vec(),
            ["store", "unfreeze"].to_vec(),
            ["store", "restore", text(&file)].to_vec(),
        ] {
            let url = if arguments[1] == "restore" { &restored } else { &url };
            let output = run(&[&["--store", url], &arguments[..]].concat(), &quorum(number));
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "quorum {number}, {arguments:?}: {output:?}");
            assert!(said.contains("replicas"), "{said}");
        }
        assert_eq!(pair.primary.cli(&["-n", "1", "flushdb"]), "OK");
    }
    let output = run(&["store", "copy", &url, &sqlite(&folder.path().join("copy.db")), "--freeze"], &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("confirmed by 0 of 1 replicas only"), "{output:?}");
}
