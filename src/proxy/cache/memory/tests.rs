use std::num::NonZeroUsize;

use http::StatusCode;
use http::header::{LAST_MODIFIED, VARY};

use super::super::unsaved::MAX_TOLD;
use super::*;
use crate::clock::Instant;

fn key(target: &str) -> Key {
    Key::new(target.to_owned(), Vec::new(), String::new(), None)
}

fn bounds(max_bytes: usize, max_entries: usize) -> CacheConfig {
    let number = |number| NonZeroUsize::new(number).expect("not zero");
    CacheConfig { max_bytes: number(max_bytes), max_entries: number(max_entries), ..CacheConfig::default() }
}

/// An answer with `Last-Modified: modified`, to a request with `X-Region: region`.
fn entry(key: &Key, region: &str, modified: &'static str, body: &[u8]) -> Arc<Entry> {
    let (mut asked, mut fields) = (HeaderMap::new(), HeaderMap::new());
    asked.insert("x-region", HeaderValue::from_str(region).expect("a value"));
    fields.insert(VARY, HeaderValue::from_static("X-Region"));
    fields.insert(LAST_MODIFIED, HeaderValue::from_static(modified));
    let entry = Entry::new(key, (Instant::now(), &asked), (StatusCode::OK, &fields), body);
    Arc::new(entry.expect("is for all"))
}

fn region(region: &str) -> HeaderMap {
    HeaderMap::from_iter([("x-region".parse().expect("a name"), HeaderValue::from_str(region).expect("a value"))])
}

/// What is counted is what is there, whatever happens.
fn assert_sound(memory: &Memory) {
    let bytes: usize = memory.entries.values().map(Slot::size).sum();
    assert_eq!(memory.bytes, bytes);
}

#[test]
fn bytes_and_number_are_bounded() {
    let (mut memory, few, small) = (Memory::default(), bounds(1 << 20, 3), bounds(20_000, 100));
    for at in 0..10 {
        let key = key(&format!("/c/{at}"));
        memory.insert(&key, entry(&key, "eu", "then", b"x"), &few);
        assert_sound(&memory);
    }
    assert_eq!(memory.sizes().0, 3);
    for at in 0..10 {
        let key = key(&format!("/c/large/{at}"));
        memory.insert(&key, entry(&key, "eu", "then", &[b'x'; 5000]), &small);
        assert!(memory.sizes().1 <= 20_000);
        assert_sound(&memory);
    }
    assert_eq!(memory.sizes().0, 3);
}

#[test]
fn what_was_used_longest_ago_goes_first() {
    let (mut memory, bounds) = (Memory::default(), bounds(1 << 20, 100));
    let keys: Vec<Key> = (0..300).map(|at| key(&format!("/c/{at}"))).collect();
    let mut used: Vec<usize> = Vec::new();
    for at in 0..keys.len() {
        memory.insert(&keys[at], entry(&keys[at], "eu", "then", b"x"), &bounds);
        used.push(at);
        // One of those that would go soon is used again.
        let again = used[used.len().saturating_sub(100) + at % 3 * usize::from(at >= 100)];
        assert!(memory.find(&keys[again], &region("eu"), &bounds).is_some(), "{again} at {at}");
        used.retain(|other| *other != again);
        used.push(again);
        for (at, key) in keys.iter().enumerate() {
            let is_used = used.iter().rev().take(100).any(|other| *other == at);
            assert_eq!(memory.has(key, &region("eu"), &bounds), is_used, "{at}");
        }
        assert_sound(&memory);
    }
}

#[test]
fn forms_are_bounded_and_of_one_time() {
    let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
    for at in 0..2 * MAX_FORMS {
        memory.insert(&key, entry(&key, &at.to_string(), "then", b"x"), &bounds);
        assert_sound(&memory);
    }
    assert_eq!(memory.sizes().0, MAX_FORMS);
    assert!(memory.find(&key, &region("31"), &bounds).is_some());
    assert!(memory.find(&key, &region("0"), &bounds).is_none());
    memory.insert(&key, entry(&key, "eu", "later", b"y"), &bounds);
    assert_eq!(memory.sizes().0, 1);
    assert_sound(&memory);
}

#[test]
fn what_was_asked_for_earlier_does_not_replace_what_came_meanwhile() {
    let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
    let slow = entry(&key, "eu", "then", b"old");
    memory.insert(&key, entry(&key, "eu", "later", b"new"), &bounds);
    memory.insert(&key, slow, &bounds);
    let found = memory.find(&key, &region("eu"), &bounds).expect("is there");
    assert_eq!(found.body().iter().collect::<Vec<_>>().concat(), b"new");
}

#[test]
fn what_was_forgotten_while_it_was_fetched_is_not_stored() {
    let (mut memory, bounds, key) = (Memory::default(), bounds(1 << 20, 100), key("/c/a"));
    for path in [Some(key.place.path), None] {
        let slow = entry(&key, "eu", "then", b"old");
        memory.forget(path);
        memory.insert(&key, slow, &bounds);
        assert!(!memory.has(&key, &region("eu"), &bounds));
    }
    memory.insert(&key, entry(&key, "eu", "then", b"new"), &bounds);
    assert!(memory.has(&key, &region("eu"), &bounds));
}

/// An answer was stored before the files of its other forms were read.
#[test]
fn a_file_of_another_time_than_what_came_meanwhile_is_removed_when_it_is_read() {
    let (mut memory, bounds, key) = (Memory::with_files(true), bounds(1 << 20, 100), key("/c/a"));
    let [same, old] = [("us", "later"), ("asia", "then")].map(|(region, at)| entry(&key, region, at, b"x"));
    let places = [&same, &old].map(|entry| entry.place().expect("has one"));
    places.iter().for_each(|place| memory.found(*place, 100, &bounds));
    memory.insert(&key, entry(&key, "eu", "later", b"x"), &bounds);
    for (place, entry) in places.into_iter().zip([same, old]) {
        assert!(memory.read(place, Arc::into_inner(entry)));
    }
    assert!(memory.has(&key, &region("us"), &bounds) && !memory.has(&key, &region("asia"), &bounds));
    assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((places[1], false)));
    assert_sound(&memory);
}

/// Else what is fetched each time would be too old after a restart.
#[test]
fn a_file_is_written_again_when_what_it_says_is_old() {
    let key = key("/c/a");
    let bounds = CacheConfig { max_age: Duration::from_secs(80), ..bounds(1 << 20, 100) };
    let asked = |seconds| {
        let at = Instant::now().checked_sub(Duration::from_secs(seconds)).expect("it runs for longer");
        let mut fields = HeaderMap::new();
        fields.insert(LAST_MODIFIED, HeaderValue::from_static("then"));
        Entry::new(&key, (at, &HeaderMap::new()), (StatusCode::OK, &fields), b"x").map(Arc::new).expect("is for all")
    };
    let is_written = |memory: &mut Memory| memory.next_unsaved().is_some();
    for earlier_run in [false, true] {
        let mut memory = Memory::with_files(true);
        match earlier_run {
            true => {
                memory.found(key.place, 100, &bounds);
                assert!(memory.read(key.place, Arc::into_inner(asked(20))));
            }
            false => {
                memory.insert(&key, asked(20), &bounds);
                assert!(is_written(&mut memory));
            }
        }
        memory.insert(&key, asked(15), &bounds);
        assert!(!is_written(&mut memory), "it says the same, and is not much younger");
        memory.insert(&key, asked(0), &bounds);
        assert!(is_written(&mut memory), "the file is of 20 s ago");
    }
}

#[test]
fn files_are_brought_to_what_is_stored() {
    let (mut memory, bounds, key) = (Memory::with_files(true), bounds(1 << 20, 100), key("/c/a"));
    let first = entry(&key, "eu", "then", b"x");
    let place = first.place().expect("has one");
    memory.insert(&key, first, &bounds);
    assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, true)));
    memory.insert(&key, entry(&key, "eu", "then", b"x"), &bounds);
    assert!(memory.next_unsaved().is_none(), "it says the same");
    memory.insert(&key, entry(&key, "eu", "later", b"y"), &bounds);
    assert!(memory.next_unsaved().is_some_and(|(_, entry)| entry.is_some()));
    memory.forget(Some(place.path));
    assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, false)));
    assert!(memory.next_unsaved().is_none());
    // One of an earlier run, not read yet.
    memory.found(place, 100, &bounds);
    assert_eq!((memory.unread(&key), memory.sizes().0), (vec![place], 1));
    memory.forget(None);
    assert_eq!(memory.next_unsaved().map(|(place, entry)| (place, entry.is_some())), Some((place, false)));
    assert_sound(&memory);
}

#[test]
fn what_another_process_wrote_meanwhile_is_taken_but_for_what_is_known_better() {
    let (mut memory, bounds) = (Memory::with_files(false), bounds(1 << 20, 100));
    let [read, own, gone, new] = ["/c/read", "/c/own", "/c/gone", "/c/new"].map(key);
    let stored = |key: &Key| entry(key, "eu", "then", b"x");
    let place = |key: &Key| stored(key).place().expect("has one");
    memory.found(place(&read), 100, &bounds);
    assert!(memory.read(place(&read), Arc::into_inner(stored(&read))));
    memory.insert(&own, stored(&own), &bounds);
    memory.forget(Some(gone.place.path));
    let files = [&read, &own, &gone, &new].map(|key| (place(key), 200)).to_vec();
    memory.take_files(files, &bounds);
    assert_sound(&memory);
    assert_eq!((memory.unread(&read), memory.unread(&new)), (vec![place(&read)], vec![place(&new)]));
    assert!(memory.has(&own, &region("eu"), &bounds) && memory.unread(&gone).is_empty());
    let unsaved: Vec<_> = std::iter::from_fn(|| memory.next_unsaved()).collect();
    let unsaved: Vec<_> = unsaved.into_iter().map(|(place, entry)| (place, entry.is_some())).collect();
    assert_eq!(unsaved, [(place(&gone), false), (place(&own), true)]);
}

#[test]
fn what_another_process_stored_of_other_questions_of_a_path_stays() {
    let (mut memory, bounds) = (Memory::with_files(false), bounds(1 << 20, 100));
    let [own, same, left, seen] = ["/c/a?own", "/c/a?same", "/c/a?left", "/c/a?seen"].map(key);
    let stored = |key: &Key| entry(key, "eu", "then", b"x");
    let place = |key: &Key| stored(key).place().expect("has one");
    memory.insert(&own, stored(&own), &bounds);
    for key in [&same, &seen] {
        memory.found(place(key), 100, &bounds);
        assert!(memory.read(place(key), Arc::into_inner(stored(key))));
    }
    memory.insert(&same, stored(&same), &bounds);
    let files = [&own, &same, &left, &seen].map(|key| (place(key), 200)).to_vec();
    memory.take_files(files, &bounds);
    assert_sound(&memory);
    assert!([&own, &same].iter().all(|key| memory.has(key, &region("eu"), &bounds)));
    assert_eq!((memory.unread(&left), memory.unread(&seen)), (vec![place(&left)], vec![place(&seen)]));
}

#[test]
fn too_many_paths_to_remember_are_all() {
    let (mut memory, bounds, key) = (Memory::with_files(false), bounds(1 << 20, 100), key("/c/a"));
    for path in 0..=MAX_TOLD as u128 {
        memory.forget(Some(path.to_be_bytes()));
    }
    memory.take_files(vec![(key.place, 100)], &bounds);
    assert_eq!((memory.sizes().0, memory.next_unsaved().is_some()), (0, true));
}
