//! Somebody who can write the store changes the trail: that shows.

use tollgate::audit::{Finding, Head};

use super::*;

impl Place {
    /// Puts another text in the place of a line, or takes the line out.
    fn put_line(&self, seq: u64, text: Option<&[u8]>) {
        match self {
            Self::Sqlite(directory) => {
                let database = rusqlite::Connection::open(directory.path().join("tollgate.db")).expect("opens");
                let changed = match text {
                    Some(text) => {
                        database.execute("UPDATE audit SET line = ? WHERE seq = ?", (text, seq.cast_signed()))
                    }
                    None => database.execute("DELETE FROM audit WHERE seq = ?", [seq.cast_signed()]),
                };
                assert_eq!(changed.expect("writes"), 1);
            }
            Self::Redis(server) => self.put_in_stream(server, seq, text),
        }
    }

    /// Entries of a stream cannot be changed: all of it is written anew.
    fn put_in_stream(&self, server: &RedisServer, seq: u64, text: Option<&[u8]>) {
        let key = "{tollgate}:audit";
        let Some(text) = text else {
            assert_eq!(server.cli(&["xdel", key, &format!("{seq}-0")]), "1");
            return;
        };
        let text = std::str::from_utf8(text).expect("text");
        let found = server.cli(&["--json", "xrange", key, "-", "+"]);
        let found: Vec<(String, Vec<String>)> = serde_json::from_str(&found).expect("entries");
        server.cli(&["del", key]);
        for (id, fields) in &found {
            let line = if *id == format!("{seq}-0") { text } else { &fields[1] };
            assert_eq!(server.cli(&["xadd", key, id, "l", line]), *id);
        }
    }
}

/// A chained trail of `count` entries.
async fn chained(place: &Place, count: usize) -> Registry {
    let registry = place.made().await;
    while trail(&registry).await.len() < count {
        create(&registry, "max").await;
    }
    registry.tend_audit().await.expect("chains");
    registry
}

#[tokio::test]
async fn a_changed_line_a_missing_line_and_a_line_made_anew_are_found() {
    for place in Place::both() {
        let registry = chained(&place, 8).await;
        let lines = registry.store().trail_after(0, 100).await.expect("reads");
        let findings = async || verify(&registry).await.findings;
        assert_eq!(findings().await, []);

        let text = String::from_utf8(lines[4].text.clone()).expect("text");
        place.put_line(5, Some(text.replace("Success", "Failure").as_bytes()));
        assert_eq!(findings().await, [Finding::Changed { seq: 5 }]);

        // With a hash of its own it is no longer what the next one names.
        let entry = br#"{"timestamp":"2026-11-26T12:00:00Z","action":"token.create"}"#;
        place.put_line(5, Some(&Head::of(&lines[3]).next(entry).0.text));
        assert_eq!(findings().await, [Finding::Unlinked { seq: 6 }]);

        place.put_line(5, Some(&lines[4].text));
        assert_eq!(findings().await, []);
        place.put_line(5, None);
        assert_eq!(findings().await, [Finding::Missing { from: 5, to: 5 }]);
        place.put_line(1, None);
        assert_eq!(findings().await, [Finding::Missing { from: 1, to: 1 }, Finding::Missing { from: 5, to: 5 }]);

        // What follows is chained all the same, and found sound.
        create(&registry, "max").await;
        assert_eq!(registry.tend_audit().await.expect("chains").linked.added, 1);
        assert_eq!(findings().await.len(), 2);
    }
}

#[tokio::test]
async fn a_last_line_that_is_damaged_or_taken_out_does_not_end_the_trail() {
    for place in Place::both() {
        let registry = chained(&place, 6).await;
        place.put_line(6, Some(b"rubbish"));
        create(&registry, "max").await;
        registry.tend_audit().await.expect("chains");
        let verdict = verify(&registry).await;
        assert_eq!((verdict.entries, verdict.findings), (7, vec![Finding::Changed { seq: 6 }]));
        let shown = trail(&registry).await;
        assert_eq!(shown[5].text("damaged"), Some("rubbish"), "it is shown as what it is");

        // A tail that is cut off shows only to who knows the head; the trail goes on from what is there.
        place.put_line(7, None);
        create(&registry, "max").await;
        registry.tend_audit().await.expect("chains");
        let verdict = verify(&registry).await;
        assert_eq!((verdict.head.map(|head| head.seq), verdict.findings), (Some(7), vec![Finding::Changed { seq: 6 }]));
    }
}
